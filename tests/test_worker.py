"""A worker and its orders, on virtual time: who is served until when. In this process."""

import contextlib
import gc
import io
import json
import logging
import math
import signal
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.real.support import MIB, content, put
from tests.serving.cases import get
from tests.serving.client import parse
from trio_amped import worker
from trio_amped.config import Config
from trio_amped.worker_process import DRAIN, LARGEST, RETIRE, RETIRING, STOP, Worker

SIZE: Final = 4 * MIB
MOMENT: Final = 0.001


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "small", b"small")
    put(tmp_path / "big", content(SIZE))
    return tmp_path


class Desk:
    """The supervisor's end of a worker."""

    def __init__(self, config: Config) -> None:
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = trio.socket.from_stdlib_socket(ours)
        # As the supervisor keeps it: who comes when nobody accepts is not refused. A UNIX socket,
        # where what is sent has arrived: virtual time does not wait for TCP.
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("")  # Linux makes up a name
        self.listener.listen()
        self._config = config
        self.has_started = False
        self.status: int | None = None
        self.ended = trio.Event()
        self.ended_at = math.nan

    async def work(self) -> None:
        def start() -> None:
            self.has_started = True

        listeners = [self.listener.dup()]
        self.status = await worker._serve(self._config, self._theirs, listeners, start)
        self._theirs.close()
        self.ended_at = trio.current_time()
        self.ended.set()

    async def hear(self) -> dict[str, Any]:
        """What the worker says next."""
        message: dict[str, Any] = json.loads(await self.channel.recv(LARGEST))
        return message

    async def tell(self, order: bytes) -> None:
        """Give an order, and wait until all is done that it means for now."""
        await self.channel.send(order)
        await wait_all_tasks_blocked()

    async def connect(self) -> trio.SocketStream:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.connect(self.listener.getsockname())
        return trio.SocketStream(sock)


@contextlib.asynccontextmanager
async def at_work(root: Path, **settings: Any) -> AsyncIterator[Desk]:
    """A worker that serves, without any thread for which the clock would not wait."""
    desk = Desk(Config(root=root, port=0, gate="never", revalidate=math.inf, **settings))
    with desk.listener, desk.channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.work)
            assert await desk.hear() == {"serving": True}
            assert desk.has_started
            yield desk
            await desk.ended.wait()
    assert desk.status == 0


async def ask(stream: trio.SocketStream, *fields: str) -> bool:
    """Whether a client is served, and may ask again."""
    await stream.send_all(get("/small", *fields))
    received = b""
    while not received.endswith(b"small"):
        data = await stream.receive_some()
        assert data, "it is not answered"
        received += data
    (answer,) = parse(received, [])
    return not answer.closes


async def rest_of(stream: trio.SocketStream) -> bytes:
    """What comes until the end, which may be a reset."""
    received = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await stream.receive_some():
            received += data
    return received


WAYS: Final[list[dict[str, Any]]] = [{}, {"fast_lane": False}]
EVERY_WAY: Final = pytest.mark.parametrize("way", WAYS, ids=["lane", "tasks"])


@EVERY_WAY
async def test_who_was_accepted_before_can_ask_for_a_while(
    way: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """A client may be accepted at the very moment when its successor serves, and has not asked."""
    async with at_work(root, **way) as desk:
        silent, used, patient, last = [await desk.connect() for _ in range(4)]
        assert await ask(used)
        await wait_all_tasks_blocked()
        retired_at = trio.current_time()
        await desk.tell(RETIRE)
        late = await desk.connect()
        await late.send_all(get("/small"))
        await trio.sleep_until(retired_at + RETIRING - MOMENT)
        assert await ask(silent)
        assert await ask(used)
        assert not await ask(last, "Connection: close")
        assert trio.current_time() < retired_at + RETIRING
        for stream in (silent, used, patient, last):
            assert await stream.receive_some() == b""
        assert trio.current_time() == pytest.approx(retired_at + RETIRING, abs=MOMENT)
        with trio.move_on_after(MOMENT):
            raise AssertionError(await late.receive_some())  # that is for the successor
        for stream in (silent, used, patient, last, late):
            await stream.aclose()
        counters = (await desk.hear())["counters"]
        assert (counters["connections"], counters["requests"]) == (4, 4)


@EVERY_WAY
@pytest.mark.parametrize("order", [DRAIN, b""], ids=["drain", "no supervisor"])
async def test_a_drain_ends_them_at_once(
    order: bytes,
    way: dict[str, Any],
    root: Path,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with at_work(root, **way) as desk:
        silent, used, busy = [await desk.connect() for _ in range(3)]
        assert await ask(used)
        await busy.send_all(get("/big"))
        await wait_all_tasks_blocked()
        drained_at = trio.current_time()
        if order:
            await desk.tell(order)
        else:
            desk.channel.close()
        for stream in (silent, used):
            assert await stream.receive_some() == b""
        assert trio.current_time() == drained_at
        (answer,) = parse(await rest_of(busy), [])
        assert answer.body == content(SIZE)
        assert trio.current_time() == drained_at
        for stream in (silent, used, busy):
            await stream.aclose()
        if order:
            assert (await desk.hear())["counters"]["requests"] == 2
    said = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    gone = "the supervisor has ended: finishing what is being sent"
    assert said == ([] if order else [gone])


@EVERY_WAY
@pytest.mark.parametrize("before", [(), (DRAIN,), (RETIRE,)], ids=["at once", "drain", "retire"])
async def test_it_can_be_stopped_at_once(
    before: tuple[bytes, ...], way: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    async with at_work(root, drain_timeout=math.inf, **way) as desk:
        busy = await desk.connect()
        await busy.send_all(get("/big"))
        await wait_all_tasks_blocked()
        for order in (*before, STOP):
            await desk.tell(order)
        assert trio.current_time() == desk.ended_at
        assert (await desk.hear())["counters"]["requests"] == 1
        assert len(await rest_of(busy)) < SIZE
        await busy.aclose()


@EVERY_WAY
@pytest.mark.parametrize(("order", "due"), [(DRAIN, 7.0), (RETIRE, RETIRING + 7.0)])
async def test_who_does_not_read_is_waited_for_as_long_as_the_config_says(
    order: bytes, due: float, way: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    async with at_work(root, drain_timeout=7.0, **way) as desk:
        busy = await desk.connect()
        await busy.send_all(get("/big"))
        await wait_all_tasks_blocked()
        told_at = trio.current_time()
        await desk.tell(order)
        await desk.ended.wait()
        assert trio.current_time() == pytest.approx(told_at + due, abs=MOMENT)
        await busy.aclose()


async def test_a_root_that_cannot_be_used(root: Path, autojump_clock: MockClock) -> None:
    desk = Desk(Config(root=root / "missing", gate="never"))
    with desk.listener, desk.channel:
        await desk.work()
        (number, text, path) = (await desk.hear())["unusable"]
        assert (number, text, path) == (2, "No such file or directory", str(root / "missing"))
        assert (await desk.hear())["counters"]["requests"] == 0
    assert (desk.status, desk.has_started) == (2, False)


@pytest.mark.parametrize("manner", ["announce", "quiet"])
def test_the_first_one_alone_says_what_there_is_to_say_at_the_start(
    manner: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where and how it serves, and which pages are missing; its end is said by all of them."""
    stream, before = io.StringIO(), logging.getLogger().level
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: None)
    thresholds: list[tuple[int, ...]] = []
    monkeypatch.setattr(gc, "set_threshold", lambda *each: thresholds.append(each))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()

    def supervise() -> None:
        assert json.loads(ours.recv(LARGEST)) == {"serving": True}
        ours.shutdown(socket.SHUT_WR)

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    fds = f"{theirs.detach()},{listener.detach()}"
    options = ["--root", str(root), "--error-page", "404=/lost.html"]
    try:
        assert worker.main([f"2,{manner}", fds, *options]) == 0
    finally:
        supervisor.join()
        ours.close()
        logging.getLogger().setLevel(before)
    text = stream.getvalue()
    for line in ("serving ", "gate ", "the page lost.html is not used"):
        assert (line in text) == (manner == "announce")
    assert "worker 2: the supervisor has ended" in text
    assert [each[2] for each in thresholds] == [1000], "full collections hold the loop"


@pytest.mark.parametrize("order", [DRAIN, RETIRE, STOP])
@pytest.mark.parametrize("seconds", [0.0, 2.0, 30.0, math.inf])
async def test_who_does_not_end_in_time_is_killed_five_seconds_later(
    seconds: float, order: bytes, autojump_clock: MockClock
) -> None:
    told = Worker()
    try:
        assert told._patience.deadline == math.inf, "nobody is killed for being at work"
        await trio.sleep(7.0)
        told.tell(order, seconds)
        assert told._patience.deadline == trio.current_time() + seconds + 5.0
    finally:
        told._channel.close()
        told._theirs.close()
