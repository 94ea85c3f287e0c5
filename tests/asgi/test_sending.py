"""Bodies on their way: by windows, from the gate, until the client is gone or the file is."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.asgi.support import ZERO_COPY, Patient, Reply, ask, call, left_open, scope
from tests.simulated import failure
from trio_amped.asgi import StaticFiles
from trio_amped.disk.interface import FileChanged
from trio_amped.testing import SimDisk

KIB = 1 << 10
WINDOW = 64 * KIB  # of the simulated disk
CONTENT = bytes(index * index % 251 for index in range(700 * KIB))
FILES = {b"large": CONTENT, b"medium": CONTENT[: 100 * KIB], b"small": CONTENT[: 10 * KIB]}
OFFERED: dict[str, Any] = {"extensions": {ZERO_COPY: {}}}
Use = Callable[[SimDisk], SimDisk]


async def test_a_large_body_comes_by_windows(use: Use) -> None:
    disk = use(SimDisk(FILES))
    reply = await ask(StaticFiles("site"), "/large")
    assert reply.body == CONTENT
    assert {length for _, length in reply.messages[1:]} == {WINDOW, len(CONTENT) % WINDOW}
    assert left_open(disk) == 0


async def test_a_server_that_offers_path_send_is_not_sent_a_path(use: Use) -> None:
    """Who replaces the file meanwhile would have another one sent, with our Content-Length."""
    use(SimDisk(FILES))
    reply = await ask(StaticFiles("site"), "/large", extensions={"http.response.pathsend": {}})
    assert reply.body == CONTENT
    assert {kind for kind, _ in reply.messages} == {"start", "body"}


# ---------------------------------------------------------------- zero copy send


async def test_zero_copy(use: Use) -> None:
    disk = use(SimDisk(FILES, real_descriptors=True))
    files = StaticFiles("site")
    reply = await ask(files, "/large", **OFFERED)
    assert reply.body == CONTENT
    assert {kind for kind, length in reply.messages if length} == {"zerocopysend"}
    assert reply.messages[-1] == ("body", 0)
    assert disk.loads == -(-len(CONTENT) // WINDOW)  # the gate was asked for every window
    assert files.stats.bytes_sent == len(CONTENT)
    assert left_open(disk) == 0


async def test_zero_copy_of_several_ranges(use: Use) -> None:
    use(SimDisk(FILES, real_descriptors=True))
    files = StaticFiles("site")
    ranges = (b"range", b"bytes=0-99999,200000-300000")
    copied, sent = await ask(files, "/large", ranges), await ask(files, "/large", ranges, **OFFERED)
    assert (sent.status, sent.headers, sent.body) == (206, copied.headers, copied.body)
    assert {kind for kind, _ in sent.messages} == {"start", "body", "zerocopysend"}


@pytest.mark.parametrize("target", ["/small", "/large"])
async def test_what_is_copied_in_any_case(use: Use, target: str) -> None:
    """Small bodies, and files whose descriptor the event loop may not use."""
    use(SimDisk(FILES, real_descriptors=True, is_by_copy=target == "/large"))
    reply = await ask(StaticFiles("site"), target, **OFFERED)
    assert reply.body == FILES[target[1:].encode()]
    assert {kind for kind, _ in reply.messages} == {"start", "body"}


async def test_a_file_that_ends_early_has_no_end(use: Use) -> None:
    """A server that sends less than it was told has promised more: it must not hear of an end."""
    disk = use(SimDisk(FILES, real_descriptors=True))
    reply = Reply()

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == ZERO_COPY and message["offset"] + message["count"] == 100 * KIB:
            disk.truncate_descriptors(b"medium", 90 * KIB)
        reply.note(message)

    async def receive() -> Mapping[str, Any]:
        raise AssertionError

    with pytest.raises(FileChanged):
        await StaticFiles("site")(scope("/medium", **OFFERED), receive, send)
    assert len(reply.body) == 90 * KIB
    assert not reply.is_complete
    assert left_open(disk) == 0


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("error", [failure(5), FileChanged()])
async def test_a_body_that_cannot_be_finished(use: Use, error: Exception) -> None:
    """The exception is alone, in no group, and nothing says that the body is complete."""
    disk = use(SimDisk(FILES))
    disk.at_load[3] = error
    reply = Reply()
    with pytest.raises(type(error)):
        await call(StaticFiles("site"), scope("/large"), reply=reply)
    assert reply.status == 200
    assert not reply.is_complete
    assert left_open(disk) == 0


async def test_a_disk_that_fails_at_once_is_a_500(use: Use) -> None:
    disk = use(SimDisk(FILES))
    disk.at_load[0] = failure(5)
    reply = await ask(StaticFiles("site"), "/large")
    assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")


@pytest.mark.parametrize("target", ["/small", "/large"])
async def test_what_a_server_raises_it_gets_back(use: Use, target: str) -> None:
    """Servers may raise OSError from `send` when the client is gone (ASGI 2.4)."""
    disk = use(SimDisk(FILES))

    async def send(message: Mapping[str, Any]) -> None:
        if message.get("body"):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await StaticFiles("site")(scope(target), trio.sleep_forever, send)
    assert left_open(disk) == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("version", "left"), [("1.1", 3), ("2", 0)])
async def test_the_body_of_a_request_by_http_2_is_read_first(
    use: Use, version: str, left: int, method: str
) -> None:
    """Hypercorn ends when a stream that has had its answer goes on."""
    use(SimDisk(FILES))
    client, reply = Patient(3), Reply()
    seen = []

    async def send(message: Mapping[str, Any]) -> None:
        reply.note(message)
        seen.append(client.parts)

    request = scope("/small", version=version, method=method)
    await StaticFiles("site")(request, client.receive, send)
    assert (reply.status, reply.is_complete) == (200 if method == "GET" else 405, True)
    assert set(seen) == {left}


async def test_who_leaves_within_a_body_by_http_2_has_no_answer(use: Use) -> None:
    use(SimDisk(FILES))
    client = Leaving()
    client.leaves.set()
    client.parts = 0
    reply = await call(StaticFiles("site"), scope("/small", version="2"), client.receive)
    assert reply.messages == []


async def test_a_server_that_says_the_same_again_and_again(use: Use) -> None:
    """Not as it should be, but some middleware does; it must not stop the event loop."""
    use(SimDisk(FILES))

    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    assert (await call(StaticFiles("site"), scope("/large"), receive)).is_complete


async def test_what_receive_raises_is_alone(use: Use) -> None:
    disk = use(SimDisk(FILES))

    async def receive() -> Mapping[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await call(StaticFiles("site"), scope("/large"), receive)
    assert left_open(disk) == 0


class Leaving:
    """A client that sends a body, and leaves when it is told to."""

    def __init__(self) -> None:
        self.leaves = trio.Event()
        self.parts = 2

    async def receive(self) -> Mapping[str, Any]:
        if self.parts > 0:
            self.parts -= 1
            return {"type": "http.request", "body": b"x", "more_body": self.parts > 0}
        await self.leaves.wait()
        return {"type": "http.disconnect"}


async def test_a_client_that_leaves_while_it_is_sent_to(use: Use) -> None:
    disk = use(SimDisk(FILES))
    client, reply = Leaving(), Reply()

    async def send(message: Mapping[str, Any]) -> None:
        reply.note(message)
        if len(reply.messages) == 4:
            client.leaves.set()
            await wait_all_tasks_blocked()

    await StaticFiles("site")(scope("/large"), client.receive, send)
    assert not reply.is_complete
    assert len(reply.messages) == 4
    assert left_open(disk) == 0


async def test_a_client_that_leaves_while_the_disk_works(
    use: Use, autojump_clock: MockClock
) -> None:
    """Nor does a server that sends to nobody make us read all of a file."""
    disk = use(SimDisk(FILES, load_latency=1.0))
    client = Leaving()

    async def leave() -> None:
        await trio.sleep(3.5)
        client.leaves.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await call(StaticFiles("site"), scope("/large"), client.receive)
    assert trio.current_time() == 4.0
    assert disk.loads == 4
    assert left_open(disk) == 0


async def test_a_server_that_says_so_within_the_last_message(use: Use) -> None:
    """Hypercorn does, and closes the connection after that: it is not to be cancelled there."""
    use(SimDisk(FILES))
    client, reply = Leaving(), Reply()
    has_closed = False

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal has_closed
        reply.note(message)
        if reply.is_complete:
            client.leaves.set()
            await wait_all_tasks_blocked()
            has_closed = True

    await StaticFiles("site")(scope("/large"), client.receive, send)
    assert has_closed


@pytest.mark.parametrize("target", ["/small", "/large"])
async def test_cancelling_leaves_nothing_behind(
    use: Use, target: str, autojump_clock: MockClock
) -> None:
    disk = use(SimDisk(FILES, open_latency=1.0, load_latency=1.0))
    files = StaticFiles("site")
    for deadline in (0.5, 1.5, 2.5, 3.5):
        with trio.move_on_after(deadline):
            await call(files, scope(target))
        assert left_open(disk) == 0


async def test_descriptors_are_closed(use: Use) -> None:
    use(SimDisk(FILES, real_descriptors=True))
    files = StaticFiles("site")
    await ask(files, "/large", **OFFERED)  # it is kept from now on
    before = os.listdir("/proc/self/fd")
    await ask(files, "/large", **OFFERED)
    await wait_all_tasks_blocked()
    assert os.listdir("/proc/self/fd") == before
