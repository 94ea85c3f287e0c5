"""The fast lane: what it answers, what it hands over, who owns a socket, and every deadline."""

import contextlib
import errno
import logging
import math
import os
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.rig import GUARD
from tests.serving.cases import ETAG, FILES, LARGE, PATIENT, get
from tests.serving.client import Answer, parse
from tests.serving.peers import (
    WAYS,
    Client,
    Laned,
    converse_by_lane,
    converse_by_task,
    fileno,
    has_received,
    on_the_lane,
)
from tests.simulated import NOW, failure
from trio_amped.config import Config
from trio_amped.disk.interface import OpenFile
from trio_amped.semantics.body import Body
from trio_amped.serving import lane as lane_module
from trio_amped.serving import sending
from trio_amped.serving.parked import Parked
from trio_amped.serving.replies import Replies, Reply
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk, SimFile

SWEEP = 1.0  # seconds: how late the end of an idle connection may be
HUGE = LARGE * 50  # more than the kernel's buffers hold
WITH_HUGE = {**FILES, b"huge": HUGE}
CONFIG = Config(head_timeout=10, keep_alive_timeout=60)
A = b"0123456789"  # of a.txt


async def ask(client: Client, request: bytes, method: bytes = b"GET") -> Answer:
    """One request and its whole answer, on a connection that stays open."""
    await client.send(request)
    return await answer_to(client, method)


async def answer_to(client: Client, method: bytes = b"GET") -> Answer:
    received = b""
    while b"\r\n\r\n" not in received:
        received += await client.receive(1)
    (answer,) = parse(received, [b"HEAD"])
    if method == b"GET" and answer.status != 304:
        received += await client.receive(int(answer.headers["content-length"]))
    (answer,) = parse(received, [method])
    return answer


# ------------------------------------------------------------------ what it answers itself
# (That all ways say the same bytes is a property: fuzz/properties/streams.py, `lane`.)


@pytest.mark.parametrize(
    ("request_", "is_fast"),
    [
        (get("/a.txt"), True),
        (get("/"), True),
        (get("/folder/"), True),
        (get("/a.txt", method="HEAD"), True),
        (get("/large.bin", method="HEAD"), True),
        (get("/a.txt", f"If-None-Match: {ETAG}"), True),
        (get("/a.txt", f"If-None-Match: W/{ETAG}"), True),
        (get("/a.txt", 'If-None-Match: "x"'), True),
        (get("/a.txt", "Cookie: a", "X-Request-Id: 1"), True),
        (get("/a.txt?" + "q" * 300), True),
        (get("/empty.txt"), True),
        (get("/%61.txt"), True),
        (get("/a%20b%FF.bin"), True),
        (get("/.well-known/token"), True),
        (get("/a.txt", "Range: bytes=0-1"), True),
        (get("/a.txt", "If-None-Match: *"), True),
        (get("/a.txt", "Range: bytes=0-1,4-5"), True),
        (get("/a.txt", "Range: bytes=20-"), True),
        (get("/a.txt", 'If-Match: "x"'), True),
        (get("/a.txt", "If-Modified-Since: Mon, 13 Nov 2023 22:13:20 GMT"), True),
        (get("/a.txt", "Origin: https://a.example"), True),
        (get("/folder"), True),
        (get("/bare/"), True),
        (get("/nope"), True),
        (get("/.hidden"), True),
        (get("/pipe"), True),
        (get("/new.txt"), True),
        (b"\r\n" + get("/a.txt"), False),
        (get("/a.txt", method="OPTIONS"), False),
    ],
    ids=repr,
)
async def test_what_the_lane_answers_itself(
    request_: bytes, is_fast: bool, autojump_clock: MockClock
) -> None:
    """Also what a task has to answer: the connection comes back, and the next one is fast."""
    method = b"HEAD" if request_.startswith(b"HEAD") else b"GET"
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        for count in (1, 2):
            await ask(client, request_, method)
            await ask(client, get("/a.txt"))
            assert laned.stats.requests == 2 * count
            assert laned.stats.by_lane == (2 * count if is_fast else count)
            assert laned.tasks == 0


@pytest.mark.parametrize(("target", "is_fast"), [("/%zz", True), ("/..", True), ("/a?#", False)])
async def test_what_is_not_understood_is_the_last(
    target: str, is_fast: bool, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        await client.send(get(target) + get("/a.txt"))
        (answer,) = parse(await client.receive_all(), [b"GET"])
        assert (answer.status, answer.closes) == (400, True)
        assert (laned.stats.requests, laned.stats.by_lane) == (1, int(is_fast))


ROUND = len(get("/a.txt?", "X: "))
LINE = len("GET /a.txt? HTTP/1.1\r\n")
LIMITS: dict[str, tuple[Config, Callable[[int], bytes], int]] = {
    "head": (Config(max_head=256), lambda n: get("/a.txt?", "X: " + "y" * (256 - ROUND + n)), 431),
    "target": (Config(max_target=99), lambda n: get("/a.txt?" + "y" * (99 + 32 - LINE + n)), 414),
    "fields": (Config(max_fields=9), lambda n: get("/a.txt", *["X:"] * (8 + n)), 431),
}


@pytest.mark.parametrize(("config", "make", "status"), LIMITS.values(), ids=LIMITS)
async def test_the_limits_of_a_head_are_those_of_the_plain_path(
    config: Config, make: Callable[[int], bytes], status: int, autojump_clock: MockClock
) -> None:
    """At the limit it is fast, and what is a little larger is refused."""
    async with on_the_lane(SimDisk(FILES), config) as laned:
        client = laned.connect()
        assert (await ask(client, make(0))).status == 200
        assert laned.stats.by_lane == 1
        assert (await ask(client, make(1))).status == status


# ------------------------------------------------------------------ one owner


class HeldDisk(SimDisk):
    """What is loaded is there when `release` says so, and not before: a miss for as long as that.

    (On virtual time the clock would not wait for the kernel.)
    """

    def __init__(self, held: bytes) -> None:
        super().__init__(FILES)
        self.release = trio.Event()
        self._held = self._inode(held)

    def ready_at_once(self, file: OpenFile, offset: int, end: int) -> int:
        if self._open[file] is self._held and not self.release.is_set():
            return 0
        return super().ready_at_once(file, offset, end)

    async def ready(self, file: OpenFile, offset: int, end: int) -> int:
        if self._open[file] is self._held:
            await self.release.wait()
        return await super().ready(file, offset, end)


class Listening:
    """A lane that accepts, and its clients."""

    def __init__(self, laned: Laned, family: int, address: object) -> None:
        self.laned = laned
        self._family = family
        self._address = address

    async def connect(self, receive_buffer: int = 0) -> Client:
        sock = trio.socket.socket(self._family)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(self._address)
        self.laned.clients.append(client := Client(trio.SocketStream(sock)))
        return client

    async def parked(self) -> int:
        """The descriptor of the one connection of the lane that waits for no disk."""
        while len(idle := [fd for fd in self._parked if not self._parked[fd].waits]) != 1:
            await trio.lowlevel.checkpoint()
        return idle[0]

    @property
    def _parked(self) -> dict[int, Parked]:
        return self.laned.lane._parked

    def waits(self, fd: int) -> bool:
        """Whether the connection is kept until something of the disk has come."""
        return fd in self._parked and self._parked[fd].waits


@contextlib.asynccontextmanager
async def listening(
    family: int, address: tuple[str, int] | str, disk: SimDisk, config: Config
) -> AsyncIterator[Listening]:
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen()
    address = sock.getsockname()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    with trio.fail_after(GUARD):
        async with on_the_lane(disk, config, [listener]) as laned:
            yield Listening(laned, family, address)


def by_tcp(
    disk: SimDisk, config: Config = PATIENT
) -> contextlib.AbstractAsyncContextManager[Listening]:
    """Not on virtual time: TCP has timers of its own, and nothing would wait for them."""
    return listening(socket.AF_INET, ("127.0.0.1", 0), disk, config)


def by_unix_socket(
    disk: SimDisk, config: Config = CONFIG
) -> contextlib.AbstractAsyncContextManager[Listening]:
    """Whoever connects or sends has done so when the system call returns."""
    return listening(socket.AF_UNIX, "", disk, config)  # Linux makes up a name


def reset(client: Client) -> None:
    """Close the client's end with a RST."""
    assert isinstance(client.stream, trio.SocketStream)
    linger = struct.pack("ii", 1, 0)
    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.stream.socket.close()


MISSES = pytest.mark.parametrize("path", [b"a.txt", b"large.bin"])


async def begin_a_miss(peer: Listening, path: bytes) -> tuple[Client, int]:
    """A client that asks for what is not in memory, and its descriptor in the server."""
    client = await peer.connect()
    fd = await peer.parked()
    await client.send(get("/" + path.decode()))
    while not peer.waits(fd):
        await trio.lowlevel.checkpoint()
    return client, fd


async def check_that_it_gets_its_own_and_nothing_else(client: Client) -> None:
    await wait_all_tasks_blocked()
    assert not has_received(client)
    assert (await ask(client, get("/folder/"))).body == b"<h1>folder</h1>"
    await wait_all_tasks_blocked()
    assert not has_received(client)


@MISSES
async def test_the_next_client_on_a_descriptor_receives_nothing_of_a_client_that_reset(
    path: bytes,
) -> None:
    disk = HeldDisk(path)
    async with by_tcp(disk) as peer:
        client, fd = await begin_a_miss(peer, path)
        reset(client)
        await wait_all_tasks_blocked()
        assert peer.laned.stats.connections_open == 1, "only its owner closes it"
        disk.release.set()
        while peer.laned.stats.connections_open:
            await trio.lowlevel.checkpoint()
        following = await peer.connect()
        assert await peer.parked() == fd, "it has the same descriptor"
        await check_that_it_gets_its_own_and_nothing_else(following)


@MISSES
async def test_nor_does_a_client_that_comes_during_the_miss(path: bytes) -> None:
    disk = HeldDisk(path)
    async with by_tcp(disk) as peer:
        client, fd = await begin_a_miss(peer, path)
        reset(client)
        following = await peer.connect()
        assert await peer.parked() != fd, "the descriptor of the other one is still open"
        await check_that_it_gets_its_own_and_nothing_else(following)
        disk.release.set()
        while fd in peer.laned.lane._parked:
            await trio.lowlevel.checkpoint()
        await check_that_it_gets_its_own_and_nothing_else(following)


async def test_a_client_that_resets_while_it_is_idle() -> None:
    async with by_tcp(SimDisk(FILES)) as peer:
        client = await peer.connect()
        fd = await peer.parked()
        await ask(client, get("/a.txt"))
        reset(client)
        while peer.laned.stats.connections_open:
            await trio.lowlevel.checkpoint()
        following = await peer.connect()
        assert await peer.parked() == fd
        await check_that_it_gets_its_own_and_nothing_else(following)


async def test_a_descriptor_that_is_closed_and_used_again_within_one_turn() -> None:
    """Events of the same turn, about a number that has another owner by then, do no harm."""
    async with by_tcp(SimDisk(FILES)) as peer:
        first, second = await peer.connect(), await peer.connect()
        for client in (first, second):
            await ask(client, get("/a.txt"))
        reset(first)
        third = await peer.connect()
        await second.send(get("/a.txt"))
        await third.send(get("/"))
        assert (await answer_to(second)).body == A
        assert (await answer_to(third)).body == b"<h1>root</h1>"
        assert peer.laned.stats.connections_open == 2


# ------------------------------------------------------------------ deadlines


@pytest.mark.parametrize("requests", [0, 1, 3])
async def test_an_idle_connection_is_closed_in_time(
    requests: int, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        for _ in range(requests):
            await trio.sleep(7)
            await ask(client, get("/a.txt"))
        due = 7 * requests + 60 if requests else 10
        assert await client.receive_all() == b""
        assert due <= trio.current_time() <= due + SWEEP
        assert laned.tasks == laned.stats.connections_open == 0


async def test_a_connection_that_comes_back_has_all_its_time(autojump_clock: MockClock) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        await trio.sleep(9)
        await ask(client, get("/nope"))
        assert await client.receive_all() == b""
        assert 9 + 60 <= trio.current_time() <= 9 + 60 + SWEEP


@pytest.mark.parametrize(
    ("answered_at", "begun_at", "due"), [(None, 4, 10), (None, 0, 10), (5, 50, 60), (5, 5, 15)]
)
async def test_a_head_that_is_not_finished_is_a_timeout_at_its_deadline(
    answered_at: float | None, begun_at: float, due: float, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        if answered_at is not None:
            await trio.sleep_until(answered_at)
            await ask(client, get("/a.txt"))
        await trio.sleep_until(begun_at)
        await client.send(b"GET / HT")
        await wait_all_tasks_blocked()
        assert laned.tasks == 1
        (answer,) = parse(await client.receive_all(), [])
        assert (answer.status, answer.closes) == (408, True)
        assert trio.current_time() == pytest.approx(due)


async def test_the_rest_of_a_head_in_time_is_answered(autojump_clock: MockClock) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        await client.send(get("/a.txt")[:20])
        await trio.sleep(9)
        assert (await ask(client, get("/a.txt")[20:])).body == A
        assert laned.tasks == 0


# ------------------------------------------------------------------ how many there may be


async def test_more_connections_than_there_may_be_wait_in_the_queue(
    autojump_clock: MockClock,
) -> None:
    """Until one of those that are busy ends: by its client, or by a task."""
    config = Config(max_connections=2, keep_alive_timeout=10)
    async with by_unix_socket(SimDisk(WITH_HUGE), config) as peer:
        clients = [await peer.connect() for _ in range(2)]
        for client in clients:
            await client.send(get("/huge", "Connection: close"))
        await wait_all_tasks_blocked()
        clients += [await peer.connect() for _ in range(2)]
        for client in clients[2:]:
            await client.send(get("/a.txt", "Connection: close"))
        await wait_all_tasks_blocked()
        assert [has_received(client) for client in clients] == [True, True, False, False]
        assert peer.laned.stats.connections == 2
        await trio.aclose_forcefully(clients[0].stream)
        await clients[1].receive_all()
        await trio.aclose_forcefully(clients[1].stream)
        for client in clients[2:]:
            assert (await answer_to(client)).body == A
        assert trio.current_time() == 0, "at once"
        assert peer.laned.stats.connections == 4


@pytest.mark.parametrize("sends", [b"", get("/a.txt"), get("/nope")], ids=["silent", "hit", "404"])
async def test_those_that_are_idle_give_way(sends: bytes, autojump_clock: MockClock) -> None:
    """At once, and the first one that has been so for longest; none that is busy."""
    async with by_unix_socket(SimDisk(WITH_HUGE), Config(max_connections=3)) as peer:
        busy, first, second = [await peer.connect() for _ in range(3)]
        await busy.send(get("/huge", "Connection: close"))
        for client in (first, second):
            await wait_all_tasks_blocked()
            autojump_clock.jump(1)
            await client.send(sends)
        await wait_all_tasks_blocked()
        for gone in (first, second):
            autojump_clock.jump(1)
            begun = trio.current_time()
            client = await peer.connect()
            await client.send(get("/a.txt"))
            assert (await answer_to(client)).body == A
            assert (await gone.receive_all()).count(b"HTTP/1.1 ") == bool(sends)
            assert trio.current_time() == begun
        assert (await answer_to(busy)).is_complete
        assert peer.laned.stats.connections == 5


async def test_heads_that_are_late_give_way(autojump_clock: MockClock) -> None:
    async with by_unix_socket(SimDisk(FILES), Config(max_connections=2)) as peer:
        late = await peer.connect()
        await late.send(get("/a.txt")[:9])
        await wait_all_tasks_blocked()
        autojump_clock.jump(0.9)
        young = await peer.connect()
        await young.send(get("/a.txt")[:9])
        await wait_all_tasks_blocked()
        last = await peer.connect()
        await last.send(get("/a.txt"))
        assert (await answer_to(last)).body == A
        assert 1 <= trio.current_time() <= 1 + SWEEP, "a head has a second"
        assert await late.receive_all() == b""
        await young.send(get("/a.txt")[9:])
        assert (await answer_to(young)).body == A


@pytest.mark.parametrize("latency", [0.0, 5.0], ids=["hot", "cold"])
async def test_a_request_that_is_here_is_answered_however_late(
    latency: float, autojump_clock: MockClock
) -> None:
    """The process may have been stopped for longer than an idle connection is kept."""
    disk = SimDisk(FILES)
    async with on_the_lane(disk) as laned:
        clients = [laned.connect() for _ in range(20)]
        for client in clients:
            await ask(client, get("/a.txt"))
        autojump_clock.jump(1000)
        disk.open_latency = latency
        for client in clients:
            assert isinstance(client.stream, trio.SocketStream)
            os.write(client.stream.socket.fileno(), get("/a.txt"))
        laned.lane._clock.update()
        await laned.lane._sweep()
        for client in clients:
            assert (await answer_to(client)).body == A


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_without_room_for_a_connection_it_pauses_and_goes_on(
    number: int,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real, asked = socket.socket.accept, 0

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise failure(number)
        return real(self)

    async with by_unix_socket(SimDisk(FILES)) as peer:
        monkeypatch.setattr(socket.socket, "accept", accept)
        other = peer.laned.connect()
        client = await peer.connect()
        await client.send(get("/a.txt"))
        await wait_all_tasks_blocked()
        assert asked == 1
        assert not has_received(client)
        assert (await ask(other, get("/a.txt"))).body == A
        assert (await answer_to(client)).body == A
        assert 0 < trio.current_time() <= SWEEP
    assert "accepting a connection failed" in caplog.text


async def test_a_client_that_is_gone_before_it_is_accepted(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = socket.socket.accept, [failure(errno.ECONNABORTED)]

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with by_unix_socket(SimDisk(FILES)) as peer:
        assert (await ask(await peer.connect(), get("/a.txt"))).body == A
        assert trio.current_time() == 0


async def test_a_client_whose_socket_cannot_be_used_suffers_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Useless(socket.socket):
        def setblocking(self, flag: bool) -> None:
            raise failure(errno.ENOMEM)

    real, is_first = socket.socket.accept, True

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        nonlocal is_first
        sock, name = real(self)
        if is_first:
            is_first = False
            sock = Useless(fileno=sock.detach())
        return sock, name

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with by_unix_socket(SimDisk(FILES)) as peer:
        assert not await (await peer.connect()).receive_all()
        assert (await ask(await peer.connect(), get("/a.txt"))).body == A
        assert peer.laned.stats.connections_open == 1
    assert "accepting a connection failed" in caplog.text


async def test_without_memory_to_wait_it_looks_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = trio.lowlevel.wait_readable, [failure(errno.ENOMEM)]

    async def wait_readable(fd: int | trio.socket.SocketType) -> None:
        if isinstance(fd, int) and failures:  # the lane's epoll object
            raise failures.pop()
        await real(fd)

    async with by_unix_socket(SimDisk(FILES)) as peer:
        monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_readable)
        for _ in range(3):
            assert (await ask(await peer.connect(), get("/a.txt"))).body == A
    assert not failures
    assert caplog.messages == ["the connections cannot be watched: Cannot allocate memory"]


async def test_what_cannot_be_watched_no_more_is_closed_all_the_same(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Epoll:
        def __init__(self, epoll: select.epoll) -> None:
            self._epoll = epoll

        def __getattr__(self, name: str) -> object:
            return getattr(self._epoll, name)

        def unregister(self, fd: int) -> None:
            raise failure(errno.ENOMEM)

    async with by_unix_socket(SimDisk(FILES)) as peer:
        client = await peer.connect()
        assert (await ask(client, get("/a.txt"))).body == A  # it is watched from now on
        lane = peer.laned.lane
        lane._epoll = Epoll(lane._epoll)  # type: ignore[assignment]
        await client.send(get("/a.txt", "Connection: close"))
        assert A in await client.receive_all()
        await client.stream.aclose()
        await wait_all_tasks_blocked()
        assert peer.laned.stats.connections_open == 0
    assert not caplog.records


async def test_a_close_that_fails_is_a_close(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The descriptor is released, and so is the place."""

    class Failing(socket.socket):
        def close(self) -> None:
            super().close()
            raise failure(errno.EIO)

    real = socket.socket.accept

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        sock, name = real(self)
        return Failing(fileno=sock.detach()), name

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with by_unix_socket(SimDisk(FILES)) as peer:
        client = await peer.connect()
        await client.send(get("/a.txt", "Connection: close"))
        assert A in await client.receive_all()
        await client.stream.aclose()
        await wait_all_tasks_blocked()
        assert peer.laned.stats.connections_open == 0
    assert not caplog.records


# ------------------------------------------------------------------ the end


async def test_drain_closes_what_is_idle_and_finishes_what_is_not(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(FILES)
    async with on_the_lane(disk, CONFIG) as laned:
        idle, silent, busy = laned.connect(), laned.connect(), laned.connect()
        await ask(idle, get("/a.txt"))
        await ask(busy, get("/a.txt"))
        disk.open_latency = 1
        await busy.send(get("/nope"))
        await wait_all_tasks_blocked()
        laned.server.drain()
        for client in (idle, silent):
            assert await client.receive_all() == b""
        assert trio.current_time() == 0
        (answer,) = parse(await busy.receive_all(), [])
        assert (answer.status, answer.closes, trio.current_time()) == (404, True, 1)


async def test_the_end_with_busy_clients_and_one_that_was_not_accepted() -> None:
    async with by_tcp(SimDisk(WITH_HUGE), replace(PATIENT, max_connections=2)) as peer:
        clients = [await peer.connect() for _ in range(2)]
        for client in clients:
            await client.send(get("/huge"))
            await client.stream.receive_some(1)
        clients.append(await peer.connect())
        peer.laned.server.drain()
        for client in clients[:2]:
            assert len(await client.receive_all()) > len(LARGE) * 20
        while peer.laned.stats.connections_open:
            await trio.lowlevel.checkpoint()
        assert await clients[2].receive_all() == b""  # the kernel's answer
        assert peer.laned.stats.connections == 2


async def test_a_drain_answers_a_request_that_has_just_come(autojump_clock: MockClock) -> None:
    """To close on it would be a reset, and the client would not know whether it was served."""
    async with on_the_lane(SimDisk(FILES)) as laned:
        used, new = laned.connect(), laned.connect()
        await ask(used, get("/a.txt"))
        for client in (used, new):
            assert isinstance(client.stream, trio.SocketStream)
            os.write(client.stream.socket.fileno(), get("/a.txt"))
        laned.server.drain()
        for client in (used, new):
            (answer,) = parse(await client.receive_all(), [])
            assert (answer.body, answer.closes) == (A, True)


async def test_a_connection_whose_task_ends_while_draining_is_not_parked(
    autojump_clock: MockClock,
) -> None:
    async with on_the_lane(SimDisk({b"huge": HUGE}), CONFIG) as laned:
        client = laned.connect()
        await client.send(get("/huge"))
        await wait_all_tasks_blocked()
        assert laned.tasks == 1
        laned.server.drain()
        (answer,) = parse(await client.receive_all(), [])
        assert answer.body == HUGE
        assert trio.current_time() == 0


STREAM = get("/a.txt") + get("/large.bin") + get("/folder") + get("/huge") + get("/nope") * 2


async def test_cancelled_at_any_checkpoint() -> None:
    """After each step that a task can take: no socket and no file is left."""
    before = set(os.listdir("/proc/self/fd"))
    for steps in range(10_000):
        disk = SimDisk({**FILES, b"huge": HUGE})
        async with on_the_lane(disk) as laned, trio.open_nursery() as nursery:
            client = laned.connect()
            nursery.start_soon(client.receive_all)
            await client.send(STREAM)
            await client.stream.send_eof()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            has_ended = not laned.stats.connections_open
            nursery.cancel_scope.cancel()
        if has_ended:
            break
    assert steps > 20
    assert set(os.listdir("/proc/self/fd")) <= before


async def test_connection_close_is_the_end(autojump_clock: MockClock) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        await client.send(get("/a.txt", "Connection: close"))
        (answer,) = parse(await client.receive_all(), [])
        assert (answer.body, answer.closes, laned.stats.by_lane) == (A, True, 1)
        assert trio.current_time() == 0


async def test_what_is_sent_after_connection_close_is_not_answered(
    autojump_clock: MockClock,
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        await client.send(get("/a.txt", "Connection: close") + get("/a.txt"))
        (answer,) = parse(await client.receive_all(), [])
        assert (answer.body, answer.closes) == (A, True)


async def test_what_is_sent_after_connection_close_does_not_destroy_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RFC 9112 9.6: to close on what was not read is a reset, and what is on its way is lost."""
    monkeypatch.setattr(lane_module, "_LINGER_SECONDS", GUARD)
    body = LARGE[:60_000]
    async with by_tcp(SimDisk({b"b": body})) as peer:
        client = await peer.connect(receive_buffer=4096)
        await client.send(get("/b", "Connection: close"))
        while not peer.laned.stats.by_lane:
            await trio.lowlevel.checkpoint()
        await client.send(b"\r\n")
        (answer,) = parse(await client.receive_all(), [])
    assert answer.is_complete
    assert answer.body == body


# ------------------------------------------------------------------ nothing to do


async def test_a_lane_with_nothing_to_do_sleeps(autojump_clock: MockClock) -> None:
    """It looks each second only while it keeps something; then a client is kept in time again."""
    disk = SimDisk(FILES)
    async with on_the_lane(disk, CONFIG) as laned:
        for _ in range(2):
            client = laned.connect()
            assert (await ask(client, get("/a.txt"))).body == A
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline <= 1
            await trio.sleep(CONFIG.keep_alive_timeout + CONFIG.open_file_timeout + 10)
            assert (laned.stats.connections_open, disk.open_files) == (0, 0)
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf


# ------------------------------------------------------------------ many requests, large answers


async def test_a_pipeline_beyond_its_bound(autojump_clock: MockClock) -> None:
    """It is answered in parts, since one client does not keep the others waiting."""
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client, other = laned.connect(), laned.connect()
        await client.send(get("/a.txt") * 200)
        while not laned.stats.by_lane:
            await trio.lowlevel.checkpoint()
        assert (await ask(other, get("/a.txt"))).body == A
        answers = parse(await client.receive(200 * len(await one_answer())), [])
        assert [each.body for each in answers] == [A] * 200
        assert (await ask(client, get("/a.txt"))).body == A
        assert (laned.stats.requests, laned.stats.by_lane, laned.tasks) == (202, 202, 0)


async def test_a_pipeline_gives_way_to_the_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_module, "_TURN", 0.0)
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client, other = laned.connect(), laned.connect()
        await client.send(get("/a.txt") * 200)
        while not laned.stats.by_lane:
            await trio.lowlevel.checkpoint()
        expected = await one_answer()
        await other.send(get("/a.txt"))
        assert await other.receive(len(expected)) == expected
        assert laned.stats.by_lane < 200


async def test_a_drain_in_the_middle_of_a_pipeline(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered is not destroyed by a reset, and the client is told where it ended."""
    monkeypatch.setattr(lane_module, "_TURN", 0.0)
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        await client.send(get("/a.txt") * 200)
        while not laned.stats.by_lane:
            await trio.lowlevel.checkpoint()
        laned.server.drain()
        answers = parse(await client.receive_all(), [])
        # Parts of it, as many as the lane had turns until it ended, and the last one.
        assert len(answers) % lane_module._PIPELINED == 1
        assert len(answers) < 200
        assert {each.body for each in answers} == {A}
        assert answers[-1].headers["connection"] == "close"


async def test_a_drain_leaves_the_end_of_a_connection_to_its_client(
    autojump_clock: MockClock,
) -> None:
    """To close on what a client has sent after its last request is a reset."""
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        await client.send(get("/a.txt", "Connection: close"))
        await wait_all_tasks_blocked()
        laned.server.drain()
        await wait_all_tasks_blocked()
        assert laned.tasks == 1
        await client.send(b"more")
        (answer,) = parse(await client.receive_all(), [])
        assert answer.body == A
        await client.stream.send_eof()
        await wait_all_tasks_blocked()
        assert laned.tasks == 0


async def test_one_answer_of_a_task_among_many(autojump_clock: MockClock) -> None:
    """The task gives the connection back with what is left of the pipeline."""
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        client = laned.connect()
        await client.send(get("/a.txt") + get("/a.txt", "TE: trailers") + get("/a.txt") * 3)
        answers = parse(await client.receive(5 * len(await one_answer())), [])
        assert [each.body for each in answers] == [A] * 5
        await wait_all_tasks_blocked()
        assert (laned.stats.requests, laned.stats.by_lane, laned.tasks) == (5, 4, 0)


async def one_answer() -> bytes:
    return await converse_by_task(SimDisk(FILES), [get("/a.txt")])


async def test_a_large_answer_goes_in_parts(autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES, window=10_000)
    async with on_the_lane(disk, CONFIG) as laned:
        client = laned.connect()
        assert (await ask(client, get("/large.bin"))).body == LARGE
        assert laned.stats.by_lane == 1


async def test_a_slow_reader_gets_the_rest_from_a_task(autojump_clock: MockClock) -> None:
    async with on_the_lane(SimDisk({b"huge": HUGE, b"a.txt": A}), CONFIG) as laned:
        client = laned.connect()
        await client.send(get("/huge"))
        await wait_all_tasks_blocked()
        assert (laned.tasks, laned.stats.by_lane) == (1, 1)
        assert (await answer_to(client)).body == HUGE
        await wait_all_tasks_blocked()
        assert laned.tasks == 0, "the connection is idle: it is given back"
        assert (await ask(client, get("/a.txt"))).body == A
        assert (laned.stats.requests, laned.stats.by_lane) == (2, 2)


async def test_small_answers_that_are_not_taken(autojump_clock: MockClock) -> None:
    """The socket is full in the middle of an answer that goes from memory."""
    body = LARGE[:60_000]
    async with on_the_lane(SimDisk({b"b": body}), CONFIG) as laned:
        client = laned.connect()
        await client.send(get("/b") * 20 + get("/b", "Connection: close"))
        await wait_all_tasks_blocked()
        assert laned.tasks == 1
        assert laned.stats.requests < 20
        answers = parse(await client.receive_all(), [])
    assert [each.body for each in answers] == [body] * 21


class Tight(socket.socket):
    """A socket that takes so many bytes, and then, once, none."""

    room = 0

    def send(self, data: object, flags: int = 0) -> int:
        assert isinstance(data, bytes | bytearray | memoryview)
        if self.room < 0:
            return super().send(data, flags)
        room, self.room = self.room, self.room - len(data)
        if not room:
            self.room = -1
            raise BlockingIOError
        return super().send(memoryview(data)[:room], flags)


@pytest.mark.parametrize("close", [(), ("Connection: close",)])
@pytest.mark.parametrize("room", [0, 1, 100, 1000])
@pytest.mark.parametrize("target", ["/a.txt", "/large.bin"])
async def test_an_answer_of_which_a_part_is_taken(
    target: str, room: int, close: tuple[str, ...], autojump_clock: MockClock
) -> None:
    requests = get(target, *close) + get("/a.txt")
    expected = await converse_by_task(SimDisk(FILES), [requests])
    async with on_the_lane(SimDisk(FILES), CONFIG) as laned:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        tight = Tight(fileno=theirs.detach())
        tight.room = room
        laned.lane.adopt(tight, laned.entrance)
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        laned.clients.append(client)
        await client.send(requests)
        assert await client.receive(len(expected)) == expected
        assert laned.stats.bytes_sent == len(expected)
        assert laned.stats.requests == (1 if close else 2)


async def test_a_slow_reader_that_stops_is_given_up(autojump_clock: MockClock) -> None:
    async with on_the_lane(SimDisk({b"huge": HUGE}), Config(send_timeout=30)) as laned:
        client = laned.connect()
        await client.send(get("/huge"))
        await trio.sleep(31)
        assert laned.stats.connections_open == laned.tasks == 0
        (answer,) = parse(await client.receive_all(), [])
        assert not answer.is_complete


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("size", [0, 4096, 73_728])  # whole pages: those in the socket stay
@pytest.mark.parametrize("shows", [True, False], ids=["seen by the gate", "seen by sendfile"])
async def test_a_file_that_is_cut_off_while_it_is_sent(
    size: int, shows: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An honest end: what was sent is a part of the file, and the connection is closed."""
    disk = SimDisk(FILES, window=50_000)
    cut = disk.truncate if shows else disk.truncate_descriptors
    asked, real = 0, disk.ready_at_once

    def ready_at_once(file: OpenFile, offset: int, end: int) -> int:
        nonlocal asked
        asked += 1
        if asked == 3:  # the first window was asked for, and sent
            cut(b"large.bin", size)
        return real(file, offset, end)

    disk.ready_at_once = ready_at_once  # type: ignore[method-assign]
    async with on_the_lane(disk, CONFIG) as laned:
        client, other = laned.connect(), laned.connect()
        await client.send(get("/large.bin?q"))
        (answer,) = parse(await client.receive_all(), [])
        assert laned.stats.by_lane == 1
        assert (answer.status, answer.is_complete) == (200, False)
        assert answer.body == LARGE[: len(answer.body)]
        assert len(answer.body) >= 50_000
        assert (await ask(other, get("/a.txt"))).body == A
    assert "/large.bin" in caplog.text
    assert "the file changed while it was sent" in caplog.text


@pytest.mark.parametrize("where", ["at_hand", "make", "share"])
async def test_a_bug_ends_one_connection(
    where: str,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner = SimDisk if where == "share" else Replies
    async with on_the_lane(SimDisk({**FILES, b"huge": HUGE}), CONFIG) as laned:
        client, other = laned.connect(), laned.connect()
        with monkeypatch.context() as patch:
            patch.setattr(owner, where, lambda *_: 1 // 0)
            await client.send(get("/huge"))
            await client.receive_all()
        assert "ZeroDivisionError" in caplog.text
        assert laned.stats.connections_open == 1
        assert (await ask(other, get("/a.txt"))).body == A


async def test_the_kernel_has_no_room_to_watch_a_connection(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """epoll_ctl(2): ENOSPC, ENOMEM. That connection ends, the others go on."""

    class Full:
        def __init__(self, real: select.epoll) -> None:
            self._real = real

        def register(self, fd: int, events: int) -> None:
            raise failure(errno.ENOSPC)

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    async with by_unix_socket(SimDisk(FILES)) as peer:
        other = await peer.connect()
        await ask(other, get("/a.txt"))
        with monkeypatch.context() as patch:
            patch.setattr(peer.laned.lane, "_epoll", Full(peer.laned.lane._epoll))
            client = await peer.connect()
            assert await client.receive_all() == b""
        assert (await ask(other, get("/a.txt"))).body == A


# ------------------------------------------------------------------ everybody has a turn


async def test_other_tasks_come_to_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no time at all for a turn, one event is one; and there are two between two of ours."""
    monkeypatch.setattr(lane_module, "_TURN", 0.0)
    async with on_the_lane(SimDisk(FILES)) as laned:
        clients = [laned.connect() for _ in range(10)]
        for client in clients:
            os.write(fileno(client), get("/a.txt"))  # all of them before the lane's turn
        seen = [laned.stats.requests]
        while seen[-1] < len(clients):
            await trio.lowlevel.checkpoint()
            seen.append(laned.stats.requests)
        assert max(after - before for before, after in pairwise(seen)) <= 2


async def test_those_who_ask_again_at_once_do_not_keep_the_others_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients on another processor, which are faster than a turn: the next one is for others."""
    monkeypatch.setattr(lane_module, "_TURN", 0.0)
    real = lane_module.Lane._receive
    all_eager: list[Client] = []

    def receive(lane: lane_module.Lane, fd: int, parked: Parked) -> None:
        real(lane, fd, parked)
        for eager in filter(has_received, all_eager):
            os.read(fileno(eager), 65_536)
            os.write(fileno(eager), get("/a.txt"))

    monkeypatch.setattr(lane_module.Lane, "_receive", receive)
    async with on_the_lane(SimDisk(FILES)) as laned:
        all_eager += [laned.connect() for _ in range(3)]
        patient = [laned.connect() for _ in range(3)]
        for client in (*all_eager, *patient):
            os.write(fileno(client), get("/a.txt"))
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        all_eager.clear()
        assert list(map(has_received, patient)) == [True] * 3


# ------------------------------------------------------------------ counted and logged


async def test_the_counters_add_up(autojump_clock: MockClock) -> None:
    async with on_the_lane(SimDisk({**FILES, b"huge": HUGE}), CONFIG) as laned:
        client, last = laned.connect(), laned.connect()
        received = 0

        async def fetch(who: Client, request: bytes, count: int = 1) -> None:
            nonlocal received
            whole = await converse_by_task(SimDisk({**FILES, b"huge": HUGE}), [request])
            await who.send(request)
            received += len(await who.receive(len(whole)))
            assert len(parse(whole, [])) == count

        await fetch(client, get("/a.txt"))
        await fetch(client, get("/a.txt", f"If-None-Match: {ETAG}"))
        await fetch(client, get("/nope") + get("/a.txt") * 3, 4)
        await fetch(client, get("/huge"))
        await fetch(last, get("/", "Connection: close"))
        await wait_all_tasks_blocked()
        stats = laned.stats
        assert stats.connections_open == 2, "the client may still send"
        await last.stream.send_eof()
        await wait_all_tasks_blocked()
        assert stats.connections == 2
        assert stats.connections_open == 1
        assert stats.requests == sum(stats.responses.values()) == 8
        assert stats.responses == {200: 6, 304: 1, 404: 1}
        assert stats.bytes_sent == received
        assert stats.by_lane == 8


async def test_requests_are_logged_as_on_the_plain_path(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_amped.access")
    pieces = [
        *(get("/a.txt?b"), get("/large.bin"), get("/nope"), get("/a.txt") + get("/folder")),
        get("/a.txt", f"If-None-Match: {ETAG}") + get("/a.txt", "Connection: close"),
    ]
    logged = []
    for converse in WAYS.values():
        await converse(SimDisk(FILES), pieces)
        logged.append([r.message for r in caplog.records if r.name == "trio_amped.access"])
        caplog.clear()
    assert logged[0] == logged[1] == logged[2]
    assert len(logged[0]) == 7
    assert logged[1][0] == "GET /a.txt?b HTTP/1.1 200 10"


async def test_nothing_is_logged_where_nobody_listens(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="trio_amped.access")
    await converse_by_lane(SimDisk(FILES), [get("/a.txt")])
    assert not caplog.records


# ------------------------------------------------------------------ versions


async def test_each_request_is_answered_with_what_there_is_when_it_comes(
    autojump_clock: MockClock,
) -> None:
    """Written in place, between two requests on a connection, and between two of a pipeline."""
    inode = SimFile(A)
    disk = SimDisk({b"a.txt": inode})
    async with on_the_lane(disk, CONFIG) as laned:
        client = laned.connect()
        assert (await ask(client, get("/a.txt"))).body == A
        inode.content, inode.mtime_ns = b"abc", inode.mtime_ns + 1
        assert (await ask(client, get("/a.txt"))).body == b"abc"
        inode.content, inode.mtime_ns = b"new", NOW * 10**9
        assert (await ask(client, get("/a.txt"))).body == b"new"
        assert laned.stats.by_lane == 3
        assert disk.open_files == 0, "what is written now is not kept"


async def test_in_a_pipeline_each_request_is_answered_with_what_there_is(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one may have been sent after the file was written."""
    inode, real = SimFile(A), sending.send

    def send(sock: socket.socket, answer: Reply, stats: Stats) -> Body:
        rest = real(sock, answer, stats)
        inode.content, inode.mtime_ns = b"abc", inode.mtime_ns + 1
        return rest

    monkeypatch.setattr(sending, "send", send)
    async with on_the_lane(SimDisk({b"a.txt": inode}), CONFIG) as laned:
        client = laned.connect()
        await client.send(get("/a.txt") * 2)
        assert [(await answer_to(client)).body for _ in range(2)] == [A, b"abc"]
        assert laned.stats.by_lane == 2
