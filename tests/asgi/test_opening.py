"""The disk is opened by whoever comes first: the lifespan, the program, or a request."""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.asgi.support import ask, call, scope
from tests.asgi.test_answers import Other
from tests.serving.cases import FILES
from trio_amped import asgi
from trio_amped.asgi import StaticFiles
from trio_amped.config import Config
from trio_amped.serving.router import Router
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk


class Disks:
    """What `open_router` was asked for."""

    def __init__(self) -> None:
        self.opened = self.open = 0
        self.latency = 0.0
        self.failure: Exception | None = None
        self.fails_later = trio.Event()
        self.may_close: trio.Event | None = None

    @contextlib.asynccontextmanager
    async def open_router(self, config: Config, stats: Stats) -> AsyncIterator[Router]:
        self.opened += 1
        await trio.sleep(self.latency)
        if self.failure:
            raise self.failure
        self.open += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._fail)
                router = Router(config, [SimDisk(FILES)])
                async with router.swept():
                    yield router
                nursery.cancel_scope.cancel()
        finally:
            if self.may_close is not None:
                with trio.CancelScope(shield=True):
                    await self.may_close.wait()
            self.open -= 1

    async def _fail(self) -> None:
        await self.fails_later.wait()
        raise ValueError("a helper has a bug")


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> Disks:
    disks = Disks()
    monkeypatch.setattr(asgi, "open_router", disks.open_router)
    return disks


class Lifespan:
    """A server that starts an application, and stops it."""

    def __init__(self) -> None:
        self.stops = trio.Event()
        self.sent: list[Mapping[str, Any]] = []
        self._has_started = False

    async def receive(self) -> Mapping[str, Any]:
        if not self._has_started:
            self._has_started = True
            return {"type": "lifespan.startup"}
        await self.stops.wait()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Mapping[str, Any]) -> None:
        self.sent.append(message)

    async def run(self, app: asgi.ASGIApp) -> None:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}}, self.receive, self.send)

    @property
    def said(self) -> list[str]:
        return [message["type"].removeprefix("lifespan.") for message in self.sent]


# ---------------------------------------------------------------- by a request


async def test_the_first_requests_open_it_together(disks: Disks, autojump_clock: MockClock) -> None:
    disks.latency = 1.0
    files = StaticFiles("site")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, files, "/a.txt")
    assert (disks.opened, disks.open) == (1, 1)
    await ask(files, "/a.txt")
    assert disks.opened == 1


async def test_one_that_is_cancelled_does_not_keep_the_others(
    disks: Disks, autojump_clock: MockClock
) -> None:
    disks.latency = 1.0
    files = StaticFiles("site")
    with trio.move_on_after(0.5):
        await ask(files, "/a.txt")
    await ask(files, "/a.txt")
    assert trio.current_time() == 1.0
    assert disks.opened == 1


async def test_a_root_that_is_not_there_yet(disks: Disks) -> None:
    disks.failure = FileNotFoundError(errno.ENOENT, "No such file or directory")
    files = StaticFiles("site")
    with pytest.raises(FileNotFoundError):
        await ask(files, "/a.txt")
    disks.failure = None
    assert (await ask(files, "/a.txt")).status == 200
    assert disks.opened == 2


async def test_a_bug_is_one_request_and_not_the_end_of_the_program(
    disks: Disks, caplog: pytest.LogCaptureFixture
) -> None:
    disks.failure = ValueError("a bug")
    files = StaticFiles("site")
    with pytest.raises(ValueError, match="a bug"):
        await ask(files, "/a.txt")
    disks.failure = None
    await ask(files, "/a.txt")

    disks.fails_later.set()
    await wait_all_tasks_blocked()
    assert disks.open == 0
    assert "a bug: the disk is closed until the next request" in caplog.messages
    disks.fails_later = trio.Event()
    assert (await ask(files, "/a.txt")).status == 200


def test_it_ends_with_the_run_of_trio(disks: Disks) -> None:
    files = StaticFiles("site")
    for count in (1, 2):
        disks.fails_later = trio.Event()
        assert trio.run(ask, files, "/a.txt").status == 200
        assert (disks.opened, disks.open) == (count, 0)


# ---------------------------------------------------------------- by the program


async def test_opened(disks: Disks) -> None:
    files = StaticFiles("site")
    async with files.opened() as same:
        assert same is files
        assert disks.open == 1
        async with files.opened():
            await ask(files, "/a.txt")
        assert (disks.opened, disks.open) == (1, 1)
    assert disks.open == 0
    await ask(files, "/a.txt")
    assert disks.opened == 2


async def test_opened_while_a_request_opens_it(disks: Disks, autojump_clock: MockClock) -> None:
    disks.latency = 1.0
    files = StaticFiles("site")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, files, "/a.txt")
        await wait_all_tasks_blocked()
        async with files.opened():
            assert trio.current_time() == 1.0
    assert disks.opened == 1


async def test_those_who_wait_for_one_who_gives_up(disks: Disks, autojump_clock: MockClock) -> None:
    disks.latency = 1.0
    files = StaticFiles("site")
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = 0.5

        async def give_up() -> None:
            async with files.opened():
                raise AssertionError

        nursery.start_soon(give_up)
        await wait_all_tasks_blocked()
        with trio.CancelScope(shield=True), pytest.raises(OSError, match="was cancelled"):
            await ask(files, "/a.txt")
    assert (await ask(files, "/a.txt")).status == 200


async def test_a_request_while_it_is_being_closed(disks: Disks) -> None:
    """It opens the disk anew: descriptors of the other may be somebody else's by then."""
    files, scope = StaticFiles("site"), trio.CancelScope()
    disks.may_close = trio.Event()

    async def open_for_a_while() -> None:
        with scope:
            async with files.opened():
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_for_a_while)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert disks.open == 1
        await ask(files, "/a.txt")
        assert disks.opened == 2
        disks.may_close.set()
        await wait_all_tasks_blocked()
        await ask(files, "/a.txt")
        assert (disks.opened, disks.open) == (2, 1)


async def test_a_real_root_that_cannot_be_opened(tmp_path: Path) -> None:
    files = StaticFiles(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        async with files.opened():
            raise AssertionError


# ---------------------------------------------------------------- by the lifespan


async def test_the_lifespan_of_a_server(disks: Disks) -> None:
    server, files = Lifespan(), StaticFiles("site")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, files)
        await wait_all_tasks_blocked()
        assert server.said == ["startup.complete"]
        await ask(files, "/a.txt")
        assert (disks.opened, disks.open) == (1, 1)
        server.stops.set()
    assert server.said == ["startup.complete", "shutdown.complete"]
    assert disks.open == 0


async def test_a_server_does_not_start_without_a_root(tmp_path: Path) -> None:
    server = Lifespan()
    await server.run(StaticFiles(tmp_path / "nothing", otherwise=Other()))
    assert server.said == ["startup.failed"]
    problem = f"cannot serve {tmp_path / 'nothing'}: No such file or directory"
    assert server.sent[0]["message"] == problem
    assert "No such file" in server.sent[0]["message"]


async def test_the_lifespan_of_the_other_application_is_within_ours(disks: Disks) -> None:
    seen = []

    async def other(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        seen.append(disks.open)
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        seen.append(disks.open)
        await send({"type": "lifespan.shutdown.complete"})

    server = Lifespan()
    server.stops.set()
    await server.run(StaticFiles("site", otherwise=other))
    assert server.said == ["startup.complete", "shutdown.complete"]
    assert seen == [1, 1]
    assert disks.open == 0


# ---------------------------------------------------------------- without trio


def test_without_trio_it_says_what_it_needs() -> None:
    files = StaticFiles("site")
    with pytest.raises(RuntimeError, match="runs on trio"):
        asyncio.run(asyncio.wait_for(_call_without_trio(files), 10))


async def _call_without_trio(files: StaticFiles) -> None:
    await call(files, scope("/a.txt"))


def test_a_server_without_trio_does_not_start() -> None:
    server = Lifespan()
    asyncio.run(server.run(StaticFiles("site")))
    assert server.said == ["startup.failed"]
    assert "hypercorn --worker-class trio" in server.sent[0]["message"]
