"""A worker and its orders, on virtual time: who is served until when. In this process."""

import contextlib
import errno
import faulthandler
import gc
import io
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
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
from trio_amped import logs, worker, worker_process
from trio_amped.config import Config, Process, Site
from trio_amped.settings.effective import packed
from trio_amped.worker_process import (
    DRAIN,
    LARGEST,
    RETIRE,
    STACKS,
    STOP,
    Worker,
    _persistently,
    in_memory,
)

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

        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(self.listener.dup()))]
        self.status = await worker._serve(self._config, None, self._theirs, listeners, start)
        self._theirs.close()
        self.ended_at = trio.current_time()
        self.ended.set()

    async def hear(self) -> dict[str, Any]:
        """What the worker says next, but that it is alive."""
        while (message := json.loads(await self.channel.recv(LARGEST))) == {"alive": True}:
            pass
        assert isinstance(message, dict)
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
async def test_who_is_there_when_it_retires_is_served_once_more(
    way: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """Each hears that it was the last answer, and those who ask for nothing have their time."""
    async with at_work(root, keep_alive_timeout=50.0, head_timeout=40.0, **way) as desk:
        silent, used, patient, pipelined = [await desk.connect() for _ in range(4)]
        assert await ask(used)
        assert await ask(patient)
        await wait_all_tasks_blocked()
        retired_at = trio.current_time()
        await desk.tell(RETIRE)
        late = await desk.connect()
        await late.send_all(get("/small"))
        await trio.sleep(30.0)
        assert not await ask(silent)
        assert not await ask(used)
        await pipelined.send_all(get("/small") * 3)
        answers = parse(await rest_of(pipelined), [])
        assert [answer.closes for answer in answers] == [False, False, True]
        assert trio.current_time() == retired_at + 30.0
        for stream in (silent, used):
            assert await stream.receive_some() == b""
        assert trio.current_time() == retired_at + 30.0
        for stream in (silent, used, pipelined):
            await stream.aclose()
        assert await patient.receive_some() == b""
        assert 50.0 <= trio.current_time() - retired_at <= 52.0
        await patient.aclose()
        await desk.ended.wait()
        assert trio.current_time() - retired_at <= 52.0
        with trio.move_on_after(MOMENT):
            raise AssertionError(await late.receive_some())  # that is for the successor
        await late.aclose()
        counters = (await desk.hear())["counters"]
        assert (counters["connections"], counters["requests"]) == (4, 7)


@EVERY_WAY
async def test_a_download_goes_on_while_it_retires(
    way: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    async with at_work(root, drain_timeout=1.0, send_timeout=100.0, **way) as desk:
        busy = await desk.connect()
        await busy.send_all(get("/big"))
        received = bytes(await busy.receive_some())
        await desk.tell(RETIRE)
        await trio.sleep(80.0)
        while not received.endswith(content(SIZE)[-9:]):
            received += await busy.receive_some()
        (answer,) = parse(received, [])
        assert answer.body == content(SIZE)
        assert not await ask(busy)
        await busy.aclose()


@EVERY_WAY
async def test_who_is_accepted_at_this_very_moment_can_still_ask(
    way: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """Whoever comes is served by this worker, or waits for its successor: nobody is closed on."""
    for number in range(24):  # trio's order of two tasks that can run is a matter of chance
        async with at_work(root, **way) as desk:
            await wait_all_tasks_blocked()
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(desk.listener.getsockname())
            for _ in range(number % 3):  # so that it is in the midst of accepting
                await trio.lowlevel.checkpoint()
            os.write(desk.channel.fileno(), RETIRE)
            await wait_all_tasks_blocked()
            async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as client:
                received = b"nothing yet"
                with trio.move_on_after(MOMENT):
                    await client.send_all(get("/small"))
                    received = await client.receive_some()
                assert received, "it was closed on"


@EVERY_WAY
@pytest.mark.parametrize("order", [RETIRE, DRAIN], ids=["retire", "drain"])
async def test_who_waits_for_a_place_when_nobody_is_to_be_accepted_any_more(
    order: bytes, way: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """One that has been accepted has its answer, for no successor can serve it; the others wait
    for that one."""
    patience = {"send_timeout": 100.0, "drain_timeout": 100.0}
    async with at_work(root, max_connections=1, **patience, **way) as desk:
        busy = await desk.connect()
        await busy.send_all(get("/big"))
        assert await busy.receive_some()
        waiting = [await desk.connect() for _ in range(2)]
        for stream in waiting:
            await stream.send_all(get("/small"))
        await desk.tell(order)
        await rest_of(busy)
        await busy.aclose()
        await trio.sleep(MOMENT)
        accepted = [] if way == {} else waiting[:1]
        for stream in waiting:
            answer: bytes | None = None
            with trio.move_on_after(MOMENT):
                answer = await stream.receive_some()
            assert bool(answer) == (stream in accepted)
            assert answer != b"", "it was closed on"
            await stream.aclose()


@EVERY_WAY
async def test_it_ends_at_once_where_nobody_is_there(
    way: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    async with at_work(root, **way) as desk:
        retired_at = trio.current_time()
        await desk.tell(RETIRE)
        await desk.ended.wait()
        assert trio.current_time() == retired_at


async def test_it_says_each_second_that_it_is_alive(root: Path, autojump_clock: MockClock) -> None:
    async with at_work(root) as desk:
        start = trio.current_time()
        for second in range(1, 40):
            assert json.loads(await desk.channel.recv(LARGEST)) == {"alive": True}
            assert trio.current_time() == start + second
        await desk.tell(STOP)


# ---------------------------------------------------------------- what its supervisor makes of it


async def test_a_worker_that_does_not_serve_in_time(autojump_clock: MockClock) -> None:
    assert await Worker()._silence() == "did not serve after 60 s, and was killed"
    assert trio.current_time() == 61


async def test_a_worker_that_stands_still(autojump_clock: MockClock) -> None:
    """It has said something each second for a while."""
    worker = Worker()

    async def live() -> None:
        worker._hear(b'{"serving": true}')
        for _ in range(100):
            await trio.sleep(1)
            worker._hear(b'{"alive": true}')

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        assert await worker._silence() == "stood still for 30 s, and was killed"
    assert 130 <= trio.current_time() <= 132


async def test_time_in_which_the_supervisor_stood_still_does_not_count(
    mock_clock: MockClock,
) -> None:
    worker = Worker()
    worker._hear(b'{"serving": true}')
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker._silence)
        for _ in range(20):
            await wait_all_tasks_blocked()
            mock_clock.jump(60)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "no memory"), MemoryError()])
async def test_no_memory_to_wait_for_a_worker(
    error: Exception, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked again later; epoll_ctl(2) takes memory."""
    failures = [error, error]

    async def call() -> str:
        await trio.lowlevel.checkpoint()
        if failures:
            raise failures.pop()
        return "heard"

    assert await _persistently(call) == "heard"
    assert trio.current_time() == 2
    assert "a worker cannot be heard or told" in caplog.text


async def test_a_log_that_is_opened_anew_while_its_order_is_sent_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor of the first attempt is closed by then: the one of that moment is sent."""
    sent: list[int] = []
    descriptors = iter([7, 8])

    class Channel:
        async def sendmsg(self, _: object, ancillary: list[tuple[int, int, list[int]]]) -> None:
            await trio.lowlevel.checkpoint()
            sent.extend(ancillary[0][2])
            if len(sent) == 1:
                raise OSError(errno.ENOMEM, "no memory")

    worker = Worker()
    worker.tell_log(lambda: next(descriptors))
    worker._orders.close()
    await worker._give_orders(Channel())  # type: ignore[arg-type]
    assert sent == [7, 8]


@pytest.mark.parametrize("place", ["socket.socketpair", "subprocess.Popen", "os.pidfd_open"])
async def test_a_worker_that_cannot_be_started(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of it, and the next one can be."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    before = len(os.listdir("/proc/self/fd"))
    started = Worker()
    monkeypatch.setattr(place, fail)
    with pytest.raises(OSError, match="Too many"):
        await started.run("1,quiet", [], ["--root", "/nowhere"])
    monkeypatch.undo()
    assert started.is_settled.is_set()
    assert not started.has_process
    assert len(os.listdir("/proc/self/fd")) == before
    end = await Worker().run("1,quiet", [], ["--nonsense"])
    assert "ended with status 2" in end


async def test_the_settings_of_many_sites(capfd: pytest.CaptureFixture[str]) -> None:
    """They are more than an argument of a program can be: 128 KiB, execve(2)."""
    config = Config(sites=[Site(f"/{n:0200}", prefix=f"/{n}") for n in range(1000)])
    text = packed(config, Process())
    assert len(text) > 200_000
    end = await Worker().run("1,quiet", [], [text[:-1]])  # as a whole they would be served
    assert "ended with status 2" in end
    assert "char 2" in capfd.readouterr().err  # where the text ends: six digits


def does(monkeypatch: pytest.MonkeyPatch, program: str, argument: str = "") -> None:
    """What is started does this, and is no worker."""

    def start(
        name: str, channel: socket.socket, *_: object
    ) -> tuple["subprocess.Popen[bytes]", int]:
        fd = channel.fileno()
        whole = f"import os, sys, time; channel = int(sys.argv[1]); {program}"
        process = subprocess.Popen([sys.executable, "-c", whole, str(fd), argument], pass_fds=[fd])
        return process, os.pidfd_open(process.pid)

    monkeypatch.setattr(worker_process, "_start", start)


async def test_a_worker_that_can_hear_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be told to end: another one takes its place."""
    monkeypatch.setattr(worker_process, "_LATE", 0.1)
    does(monkeypatch, "os.close(channel); time.sleep(600)")
    assert "had to be killed" in await Worker().run("1,quiet", [], [])


@pytest.mark.parametrize(
    "message",
    [
        *("no JSON", "[" * 60_000, "3", "{}", '{"alive": false}', '{"serving": 1, "x": 2}'),
        *('{"counters": {"requests": "x"}}', '{"unusable": "x"}', '{"unusable": [[], 1, 2]}'),
    ],
)
async def test_a_worker_that_says_what_none_says(
    message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has taken it over may say anything: the supervisor is not theirs."""

    does(monkeypatch, "os.write(channel, sys.argv[2].encode()); time.sleep(600)", message)
    mad = Worker()
    assert "said what no worker says, and was killed" in await mad.run("1,quiet", [], [])
    assert mad.is_settled.is_set()
    assert not mad.is_serving
    assert mad.counters is None
    assert mad.unusable is None


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
@pytest.mark.parametrize(("order", "due"), [(DRAIN, 7.0), (RETIRE, 70.0)])
async def test_who_does_not_read_is_waited_for_as_long_as_the_config_says(
    order: bytes, due: float, way: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    timeouts = {"drain_timeout": 7.0, "retire_timeout": 70.0, "send_timeout": 1000.0}
    async with at_work(root, **timeouts, **way) as desk:
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
    monkeypatch.setattr(logs, "_write", lambda text, _: stream.write(text) >= 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: None)
    stacks: list[int] = []
    monkeypatch.setattr(faulthandler, "register", lambda number, **_: stacks.append(number))
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
    settings = packed(Config(root=str(root), error_pages=("404=/lost.html",)), Process())
    fds = f"{theirs.detach()},{in_memory(settings)},{listener.detach()}"
    try:
        assert worker.main([f"2,{manner},0", fds]) == 0
    finally:
        supervisor.join()
        ours.close()
        logging.getLogger().setLevel(before)
    text = stream.getvalue()
    for line in ("serving ", "gate ", "the page lost.html is not used"):
        assert (line in text) == (manner == "announce")
    assert "worker 2: the supervisor has ended" in text
    assert stacks == [STACKS]
    assert [each[2] for each in thresholds] == [1000], "full collections hold the loop"


@pytest.mark.parametrize("order", [DRAIN, RETIRE, STOP])
@pytest.mark.parametrize("seconds", [0.0, 2.0, 30.0, math.inf])
async def test_who_does_not_end_in_time_is_killed_five_seconds_later(
    seconds: float, order: bytes, autojump_clock: MockClock
) -> None:
    told = Worker()
    assert told._patience.deadline == math.inf, "nobody is killed for being at work"
    await trio.sleep(7.0)
    told.tell(order, seconds)
    assert told._patience.deadline == trio.current_time() + seconds + 5.0
