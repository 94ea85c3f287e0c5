"""TLS in the lane and in tasks: what goes over the socket, when, and how much of it."""

import contextlib
import os
import socket
import ssl
import struct
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.serving.cases import FILES, LARGE, get
from tests.serving.peers import Client, client_context, fileno, has_received, on_the_lane
from tests.serving.test_lane import answer_to, ask
from tests.serving.tls_client import DATA, TlsClient, Writer
from trio_amped import certificates
from trio_amped.config import Config
from trio_amped.serving import lane as lane_module
from trio_amped.serving import tls as tls_module
from trio_amped.serving.connection import Connection
from trio_amped.serving.crowd import Crowd
from trio_amped.serving.parked import Parked
from trio_amped.serving.router import Router
from trio_amped.serving.tls import TlsSocket, TlsTransport
from trio_amped.serving.transport import ClientGone, Pace, Turns
from trio_amped.serving.wire import ShakesHands, Unsent
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk

RECORD: Final = 16 * 1024  # bytes of data
OVERHEAD: Final = 256  # of a record, at most: RFC 8446 5.2
HUGE: Final = LARGE * 50  # more than the kernel's buffers hold
WITH_HUGE: Final = {**FILES, b"huge": HUGE}
CONFIG: Final = Config(head_timeout=10, keep_alive_timeout=60)
HELD: Final = 64 * 1024  # bytes of memory for a client that does not read


class Narrow:
    """A socket that takes `room` bytes more, and notes what it was offered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.room = 1 << 30
        self.offers: list[bytes] = []
        self.taken = bytearray()

    def send(self, data: bytes, flags: int = 0) -> int:
        self.offers.append(bytes(data))
        if not self.room:
            raise BlockingIOError
        count = self.sock.send(data[: self.room])
        self.room -= count
        self.taken += data[:count]
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


class Shaken:
    """Both ends of a connection whose handshake is complete, and the socket below ours."""

    def __init__(self, wire: TlsSocket, network: Narrow, client: TlsClient) -> None:
        self.wire = wire
        self.network = network
        self.client = client


@contextlib.asynccontextmanager
async def shaken(context: ssl.SSLContext, of_client: ssl.SSLContext) -> AsyncIterator[Shaken]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    network: Any = Narrow(ours)
    wire = TlsSocket(network, context)
    client = TlsClient(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), of_client)
    with ours:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.shake_hands)
            is_complete = False
            while not is_complete:
                await trio.lowlevel.wait_readable(ours)
                is_complete = wire.shake_hands()
        network.offers.clear()
        network.taken.clear()
        yield Shaken(wire, network, client)
        await client.aclose()


@pytest.fixture
def keylog(tmp_path: Path) -> Path:
    """Where the secrets of `telling` clients are."""
    return tmp_path / "secrets"


@pytest.fixture
def telling(keylog: Path) -> ssl.SSLContext:
    """The context of a client that writes its secrets down."""
    return telling_anew(keylog)


def telling_anew(keylog: Path) -> ssl.SSLContext:
    context = client_context()
    context.keylog_filename = str(keylog)
    return context


def flood(keylog: Path, data: bytes, updates: int) -> bytes:
    """Return so many KeyUpdates, and data behind them, of the client that has come last."""
    writer = Writer(keylog)
    keylog.unlink()
    said = [writer.key_update(wants_one=False) for _ in range(updates)]
    return b"".join([*said, writer.record(DATA, data)])


def records(data: bytes) -> list[int]:
    """The lengths of the records that these bytes are."""
    lengths = []
    while data:
        (length,) = struct.unpack("!3xH", data[:5])
        lengths.append(length)
        data = data[5 + length :]
    return lengths


# ------------------------------------------------------------------ what is sent


@pytest.mark.parametrize("size", [1, RECORD - 1, RECORD, RECORD + 1, 5 * RECORD])
async def test_each_send_is_one_record(
    size: int, of_server: ssl.SSLContext, of_client: ssl.SSLContext
) -> None:
    async with shaken(of_server, of_client) as both:
        assert both.wire.send(bytes(size)) == size
        left = size
        for record in both.network.offers:
            [length] = records(record)
            assert min(left, RECORD) < length <= min(left, RECORD) + OVERHEAD
            left -= min(left, RECORD)
        assert left == 0


@pytest.mark.parametrize("room", [0, 1, 1000, RECORD])
async def test_what_is_not_taken_is_tried_again_and_nothing_is_appended(
    room: int, of_server: ssl.SSLContext, of_client: ssl.SSLContext
) -> None:
    data = LARGE[: 3 * RECORD]
    async with shaken(of_server, of_client) as both:
        wire, network = both.wire, both.network
        network.room = room
        assert wire.send(data) == RECORD
        assert wire.unsent
        whole = network.offers[0]
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                wire.send(data[RECORD:])
            assert not wire.flush()
            assert network.offers[-1] == whole[room:], "the same bytes, and no more"
        network.room = 1 << 30
        assert wire.flush()
        assert bytes(network.taken) == whole
        assert wire.send(data[RECORD:]) == 2 * RECORD
        received = b""
        while len(received) < len(data):
            received += await both.client.receive_some()
        assert received == data


async def test_nothing_is_received_before_the_client_takes_what_it_was_sent(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext
) -> None:
    async with shaken(of_server, of_client) as both:
        both.network.room = 0
        both.wire.send(b"answer")
        await both.client.send_all(b"more")
        with pytest.raises(Unsent):
            both.wire.recv(RECORD)
        both.network.room = 1 << 30
        assert both.wire.recv(RECORD) == b"more"
        assert await both.client.receive_some() == b"answer"


# ------------------------------------------------------------------ what is received


async def test_all_records_that_have_come_are_received_at_once(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext
) -> None:
    """epoll does not show what OpenSSL holds."""
    async with shaken(of_server, of_client) as both:
        for each in (b"a", b"b", b"c"):
            both.client.ssl.write(each)
        await both.client.send_all(b"d")
        assert both.wire.recv(RECORD) == b"abcd"
        with pytest.raises(BlockingIOError):
            both.wire.recv(RECORD)


async def test_a_record_may_come_in_pieces(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext
) -> None:
    async with shaken(of_server, of_client) as both:
        both.client.ssl.write(LARGE[:RECORD])
        record, received = both.client.said(), b""
        for start in range(0, len(record), 1000):
            assert received == b""
            await both.client.stream.send_all(record[start : start + 1000])
            with contextlib.suppress(BlockingIOError):
                while True:
                    received += both.wire.recv(RECORD)
        assert received == LARGE[:RECORD]


@pytest.mark.parametrize("end", ["close_notify", "FIN", "both"])
async def test_the_end_of_the_client(
    end: str, of_server: ssl.SSLContext, of_client: ssl.SSLContext
) -> None:
    """Data that came with it is received before."""
    async with shaken(of_server, of_client) as both:
        both.client.ssl.write(b"last")
        if end != "FIN":
            await both.client.send_eof()
        await both.client.send_all(b"") if end == "FIN" else None
        await both.client.stream.send_all(both.client.said())
        if end != "close_notify":
            await both.client.stream.send_eof()
        assert both.wire.recv(RECORD) == b"last"
        assert both.wire.recv(RECORD) == b""
        assert both.wire.recv(RECORD) == b""


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03\0\x20" + bytes(32)])
async def test_what_is_no_record_ends_it(
    garbage: bytes, of_server: ssl.SSLContext, of_client: ssl.SSLContext
) -> None:
    async with shaken(of_server, of_client) as both:
        await both.client.stream.send_all(garbage)
        with pytest.raises(ssl.SSLError):
            both.wire.recv(RECORD)
        assert both.network.offers, "an alert says why"
        assert both.wire.recv(RECORD) == b""


@pytest.mark.parametrize("before", range(1016, 1026))
async def test_a_header_may_be_torn_by_the_end_of_a_portion(
    before: int, of_server: ssl.SSLContext, telling: ssl.SSLContext, keylog: Path
) -> None:
    """Empty records are no data; RFC 8446 5.1 allows them, and padding."""
    async with shaken(of_server, telling) as both:
        writer = Writer(keylog)
        empty = [b"\0" * (before - 22 - 22), b""]  # two of them, which are `before` bytes
        [first, second] = [writer.padded(DATA, b"", each) for each in empty]
        assert len(first + second) == before
        await both.client.stream.send_all(first + second + writer.record(DATA, LARGE[:RECORD]))
        if before >= 1024:  # no record goes on: epoll shows that there is one more
            with pytest.raises(BlockingIOError):
                both.wire.recv(RECORD)
        assert both.wire.recv(RECORD) == LARGE[:RECORD]
        with pytest.raises(BlockingIOError):
            both.wire.recv(RECORD)


@pytest.mark.parametrize("size", [1000, 1024, 1500, 3000, RECORD])
async def test_a_record_that_is_here_is_received_at_once(
    size: int, of_server: ssl.SSLContext, of_client: ssl.SSLContext
) -> None:
    """Whoever ends a connection looks once."""
    async with shaken(of_server, of_client) as both:
        for _ in range(3):
            await both.client.send_all(LARGE[:size])
            assert both.wire.recv(RECORD) == LARGE[:size]
        await both.client.send_all(b"more")
        assert both.wire.recv(RECORD) == b"more"


# ------------------------------------------------------------------ requests of any length


SIZES: Final = [100, 1500, 3000, RECORD]  # bytes of a head


def request_of(size: int) -> bytes:
    short = get("/a.txt", "Cookie: ")
    return get("/a.txt", "Cookie: " + "x" * (size - len(short)))


def send_now(client: Client, request: bytes) -> None:
    """Send one record, before anybody else has a turn."""
    assert isinstance(client.stream, TlsClient)
    client.stream.ssl.write(request)
    said = client.stream.said()
    assert os.write(client.stream.socket.fileno(), said) == len(said)


@pytest.mark.parametrize("end", ["drain", "deadline", "give_way"])
@pytest.mark.parametrize("size", SIZES)
async def test_a_request_that_is_here_is_answered_before_the_lane_ends_it(
    end: str,
    size: int,
    of_server: ssl.SSLContext,
    of_client: ssl.SSLContext,
    mock_clock: MockClock,
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = await laned.connect_by_tls(of_client)
        await ask(client, get("/a.txt"))
        await wait_all_tasks_blocked()
        send_now(client, request_of(size))
        if end == "drain":
            laned.server.drain()
        elif end == "give_way":
            assert laned.lane.give_way()
        else:
            mock_clock.jump(CONFIG.keep_alive_timeout + 1)
            laned.lane._clock.update()
            await laned.lane._sweep()  # before the lane sees what has come
        assert (await answer_to(client)).body == b"0123456789"
        assert laned.stats.requests == 2


@pytest.mark.parametrize("end", ["drain", "deadline", "give_way"])
@pytest.mark.parametrize("size", SIZES)
async def test_a_request_that_is_here_is_answered_before_a_task_ends(
    end: str,
    size: int,
    of_server: ssl.SSLContext,
    of_client: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    mock_clock: MockClock,
) -> None:
    async with shaken(of_server, of_client) as both, trio.open_nursery() as nursery:
        stats = Stats()
        transport = TlsTransport(both.wire, Pace(CONFIG, stats), Turns())
        router = Router(CONFIG, [SimDisk(FILES)])
        connection = Connection(transport, CONFIG, router, stats)
        client = Client(both.client)
        monkeypatch.setattr(trio.lowlevel, "wait_readable", _wait_for_ever)  # it comes too late
        nursery.start_soon(connection.run)
        await wait_all_tasks_blocked()
        send_now(client, request_of(size))
        if end == "deadline":
            mock_clock.jump(CONFIG.keep_alive_timeout)
        else:
            getattr(connection, end)()
        await wait_all_tasks_blocked()
        monkeypatch.undo()
        assert (await answer_to(client)).body == b"0123456789"
        nursery.cancel_scope.cancel()
    router.close()


# ------------------------------------------------------------------ KeyUpdates


def updates(writer: Writer, *, wants_one: bool) -> bytes:
    """Two of them: OpenSSL answers when it comes to the next record, or sends one."""
    return b"".join(writer.key_update(wants_one=wants_one) for _ in range(2))


@pytest.mark.parametrize("wants_one", [False, True])
async def test_key_updates_are_no_data(
    wants_one: bool, of_server: ssl.SSLContext, telling: ssl.SSLContext, keylog: Path
) -> None:
    async with shaken(of_server, telling) as both:
        writer = Writer(keylog)
        await both.client.stream.send_all(updates(writer, wants_one=wants_one))
        with pytest.raises(BlockingIOError):
            both.wire.recv(RECORD)
        assert bool(both.network.offers) == wants_one
        await both.client.stream.send_all(writer.record(DATA, b"more"))
        assert both.wire.recv(RECORD) == b"more"
        both.wire.send(b"answer")
        assert await both.client.receive_some() == b"answer"


async def test_an_answer_to_a_key_update_that_is_not_taken_is_waited_for(
    of_server: ssl.SSLContext, telling: ssl.SSLContext, keylog: Path
) -> None:
    async with shaken(of_server, telling) as both:
        writer = Writer(keylog)
        both.network.room = 0
        await both.client.stream.send_all(
            updates(writer, wants_one=True) + writer.record(DATA, b"more")
        )
        assert both.wire.recv(RECORD) == b"more"
        assert both.wire.unsent
        with pytest.raises(Unsent):
            both.wire.recv(RECORD)


async def test_a_flood_of_key_updates_is_taken_in_small_portions_and_ended(
    of_server: ssl.SSLContext, telling: ssl.SSLContext, keylog: Path
) -> None:
    """Each of them costs some 11 us, or twice as much; and OpenSSL takes all that it is given."""
    async with shaken(of_server, telling) as both:
        writer = Writer(keylog)
        flood = b"".join(writer.key_update(wants_one=True) for _ in range(2000))
        await both.client.stream.send_all(flood)
        for _ in range(2 * RECORD // (38 * 27)):  # each ends with a record
            count = len(both.network.offers)
            for _ in range(2):
                with pytest.raises(ShakesHands):
                    both.wire.recv(RECORD)
            assert len(both.network.offers) == count  # nothing was done so far
            with pytest.raises(BlockingIOError):
                receive_by_turn(both.wire)
            assert len(records(both.network.offers[-1])) <= 1024 // 27 + 1
        with pytest.raises(OSError, match="KeyUpdates"):
            receive_by_turn(both.wire)


async def test_key_updates_between_data_are_no_flood(
    of_server: ssl.SSLContext, telling: ssl.SSLContext, keylog: Path
) -> None:
    async with shaken(of_server, telling) as both:
        writer = Writer(keylog)
        for _ in range(100):
            several = b"".join(updates(writer, wants_one=False) for _ in range(18))
            await both.client.stream.send_all(several)
            with pytest.raises(BlockingIOError):
                receive_by_turn(both.wire)
            await both.client.stream.send_all(writer.record(DATA, b"more"))
            assert both.wire.recv(RECORD) == b"more"


def receive_by_turn(wire: TlsSocket) -> bytes:
    """Receive one portion of many records."""
    with pytest.raises(ShakesHands):
        wire.recv(RECORD)
    assert wire.shake_hands()
    return wire.recv(RECORD)


# ------------------------------------------------------------------ the lane


async def test_requests_are_answered_by_the_lane(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(WITH_HUGE), CONFIG, context=of_server) as laned:
        client = await laned.connect_by_tls(of_client)
        for _ in range(3):
            assert (await ask(client, get("/a.txt"))).body == b"0123456789"
        assert (laned.stats.by_lane, laned.tasks) == (3, 0)


async def test_a_file_that_is_longer_than_the_buffers_is_finished_by_a_task(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    disk = SimDisk(WITH_HUGE)
    async with on_the_lane(disk, CONFIG, context=of_server) as laned:
        client = await laned.connect_by_tls(of_client)
        await client.send(get("/huge"))
        await wait_all_tasks_blocked()
        assert (laned.stats.by_lane, laned.tasks) == (1, 1)
        assert (await answer_to(client)).body == HUGE
        await wait_all_tasks_blocked()
        assert laned.tasks == 0
        assert (await ask(client, get("/a.txt"))).body == b"0123456789"
        assert laned.stats.by_lane == 2


async def test_a_request_that_comes_with_the_end_of_the_handshake(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = laned.connect()
        assert isinstance(client.stream, trio.SocketStream)
        stream = TlsClient(client.stream, of_client)
        await stream.shake_hands(with_data=get("/a.txt"))
        client.stream = stream
        assert (await answer_to(client)).body == b"0123456789"
        assert laned.stats.by_lane == 1


@pytest.mark.parametrize("is_new", [True, False])
async def test_what_wants_to_be_sent_is_waited_for_before_more_is_received(
    is_new: bool,
    of_server: ssl.SSLContext,
    telling: ssl.SSLContext,
    keylog: Path,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    """A KeyUpdate makes a read want to write: a task has the connection until that has gone."""
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = await laned.connect_by_tls(telling)
        assert isinstance(client.stream, TlsClient)
        await wait_all_tasks_blocked()
        writer = Writer(keylog)
        if not is_new:
            await client.stream.stream.send_all(writer.record(DATA, get("/a.txt")))
            await answer_to(client)
        [parked] = laned.lane._parked.values()
        assert isinstance(parked.sock, TlsSocket)
        network: Any = Narrow(parked.sock._socket)
        parked.sock._socket, network.room = network, 0
        writes = trio.Event()

        async def wait_writable(_: object) -> None:
            await writes.wait()

        monkeypatch.setattr(trio.lowlevel, "wait_writable", wait_writable)
        await client.stream.stream.send_all(updates(writer, wants_one=True))
        await wait_all_tasks_blocked()
        assert laned.tasks == 1
        await client.stream.stream.send_all(writer.record(DATA, get("/a.txt")))
        network.room = 1 << 30
        writes.set()
        assert (await answer_to(client)).body == b"0123456789"
        await wait_all_tasks_blocked()
        assert (laned.tasks, laned.stats.by_lane) == (0, 0 if is_new else 2)


async def test_who_takes_nothing_has_the_deadline_of_its_first_head(
    of_server: ssl.SSLContext,
    telling: ssl.SSLContext,
    keylog: Path,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = await laned.connect_by_tls(telling)
        assert isinstance(client.stream, TlsClient)
        await wait_all_tasks_blocked()
        [parked] = laned.lane._parked.values()
        assert isinstance(parked.sock, TlsSocket)
        network: Any = Narrow(parked.sock._socket)
        parked.sock._socket, network.room = network, 0
        monkeypatch.setattr(trio.lowlevel, "wait_writable", _wait_for_ever)
        await client.stream.stream.send_all(updates(Writer(keylog), wants_one=True))
        await wait_all_tasks_blocked()
        assert laned.tasks == 1
        await client.receive_all()
        assert trio.current_time() == CONFIG.head_timeout


async def _wait_for_ever(_: object) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("reads", [True, False])
async def test_an_idle_connection_is_told_the_end_once_and_nobody_waits(
    reads: bool, of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = await laned.connect_by_tls(of_client)
        assert isinstance(client.stream, TlsClient)
        await ask(client, get("/a.txt"))
        if not reads:
            [parked] = laned.lane._parked.values()
            assert isinstance(parked.sock, TlsSocket)
            network: Any = Narrow(parked.sock._socket)
            parked.sock._socket, network.room = network, 0
        await trio.sleep(62)
        assert laned.stats.connections_open == 0
        assert await client.receive_all() == b""
        assert client.stream.notified is reads


async def test_after_a_last_answer_the_end_is_told_and_the_client_may_go_on(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    """To close on what the client sends meanwhile would be a reset."""
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = await laned.connect_by_tls(of_client)
        assert isinstance(client.stream, TlsClient)
        await client.send(get("/a.txt", "Connection: close"))
        assert (await client.receive_all()).endswith(b"0123456789")
        assert client.stream.notified
        await client.send(b"more")
        await wait_all_tasks_blocked()
        assert laned.stats.connections_open == 1
        await client.stream.stream.send_eof()
        await wait_all_tasks_blocked()
        assert laned.stats.connections_open == 0


# ------------------------------------------------------------------ memory


@pytest.fixture
def traced() -> Iterator[None]:
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("path", ["/64k", "/huge"])
@pytest.mark.parametrize("read_before", [0, 100_000])
async def test_a_client_that_does_not_read_holds_little(
    path: str,
    read_before: int,
    of_server: ssl.SSLContext,
    of_client: ssl.SSLContext,
    traced: None,
    autojump_clock: MockClock,
) -> None:
    """What is encrypted and not taken, and OpenSSL's buffer of it, which is a third larger."""
    files = {**FILES, b"64k": LARGE[: 64 * 1024], b"huge": HUGE}
    config = replace(CONFIG, send_timeout=1e9)
    async with on_the_lane(SimDisk(files), config, context=of_server) as laned:
        other, client = [await laned.connect_by_tls(of_client) for _ in range(2)]
        await ask(other, get("/64k"))  # what is kept for all
        tracemalloc.start()
        for _ in range(20):  # until the kernel's buffers are full
            await client.send(get(path))
            await wait_all_tasks_blocked()
        await client.receive(read_before)
        await wait_all_tasks_blocked()
        assert laned.tasks == 1
        [connection] = laned.server._connections
        assert isinstance(connection.transport, TlsTransport)
        unsent = len(connection.transport._socket.unsent)
        assert 0 < unsent <= RECORD + OVERHEAD
        buffer = (RECORD + OVERHEAD + 3) // 3 * 4  # BUF_MEM_grow
        snapshot = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(True, "*/trio_amped/*")]
        )
        held = sum(each.size for each in snapshot.traces if each.size > 1000)
        assert held + buffer <= HELD


# ------------------------------------------------------------------ pace


LEAST: Final = 1000


@pytest.mark.parametrize("taken", [LEAST - 1, LEAST])
async def test_progress_is_what_the_client_has_acknowledged(
    taken: int,
    of_server: ssl.SSLContext,
    of_client: ssl.SSLContext,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By SIOCOUTQ: a record that the kernel has not taken whole is no progress by itself."""
    async with shaken(of_server, of_client) as both:
        queued = iter((5000, 5000 - taken, 0))
        monkeypatch.setattr(TlsTransport, "_queued", lambda self: next(queued))
        waits = 0

        async def wait_writable(_: object) -> None:
            nonlocal waits
            waits += 1
            if waits == 1:
                await trio.sleep_forever()
            both.network.room = 1 << 30

        monkeypatch.setattr(trio.lowlevel, "wait_writable", wait_writable)
        pace = Pace(Config(send_minimum=LEAST, send_timeout=30.0), Stats())
        transport = TlsTransport(both.wire, pace, Turns())
        both.network.room = 0
        if taken < LEAST:
            with pytest.raises(ClientGone):
                await transport.send(b"answer")
        else:
            await transport.send(b"answer")
            assert await both.client.receive_some() == b"answer"
        assert trio.current_time() == 30.0


# ------------------------------------------------------------------ handshakes


class Steps(trio.abc.Instrument):
    """Counts steps of handshakes in each round of the loop, which is one turn of the lane."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts = [0]
        real = TlsSocket.shake_hands

        def shake_hands(wire: TlsSocket) -> bool:
            self.counts[-1] += 1
            return real(wire)

        monkeypatch.setattr(TlsSocket, "shake_hands", shake_hands)

    def before_io_wait(self, timeout: float) -> None:
        self.counts.append(0)


async def test_handshakes_have_a_part_of_each_turn(
    of_server: ssl.SSLContext,
    of_client: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    """However many can go on: when their time is over, after each step here, others are first."""
    monkeypatch.setattr(lane_module, "_LATER", 0.0)
    steps = Steps(monkeypatch)
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        hot = await laned.connect_by_tls(of_client)
        await ask(hot, get("/a.txt"))
        steps.counts = [0]
        trio.lowlevel.add_instrument(steps)
        clients = [laned.connect() for _ in range(30)]
        hellos = [hello(client, of_client) for client in clients]
        for client, said in zip(clients, hellos, strict=True):
            os.write(fileno(client), said)
        assert isinstance(hot.stream, TlsClient)
        hot.stream.ssl.write(get("/a.txt"))
        os.write(hot.stream.socket.fileno(), hot.stream.said())
        assert (await answer_to(hot)).body == b"0123456789"
        assert sum(steps.counts) < 30
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(steps)
        assert max(steps.counts) == 1
        assert sum(steps.counts) == 30
        assert laned.tasks == 0


async def test_floods_of_key_updates_have_a_part_of_each_turn(
    of_server: ssl.SSLContext,
    of_client: ssl.SSLContext,
    keylog: Path,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    """One portion here: others are answered between two, and who floods is answered in the end."""
    monkeypatch.setattr(lane_module, "_TURN", 3600.0)
    monkeypatch.setattr(lane_module, "_LATER", 0.0)
    steps = Steps(monkeypatch)
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        hot = await laned.connect_by_tls(of_client)
        await ask(hot, get("/a.txt"))
        floods = []
        for _ in range(10):
            client = await laned.connect_by_tls(telling_anew(keylog))
            floods.append((client, flood(keylog, get("/a.txt"), 200)))
        await wait_all_tasks_blocked()
        steps.counts = [0]
        trio.lowlevel.add_instrument(steps)
        for client, said in floods:
            assert isinstance(client.stream, TlsClient)
            assert os.write(client.stream.socket.fileno(), said) == len(said)
        send_now(hot, get("/a.txt"))
        assert (await answer_to(hot)).body == b"0123456789"
        assert sum(steps.counts) < 10
        for client, _ in floods:
            assert (await answer_to(client)).body == b"0123456789"
        trio.lowlevel.remove_instrument(steps)
        assert max(steps.counts) == 1
        assert sum(steps.counts) >= 10 * 200 * 27 // 1052
        assert laned.tasks == 0


async def test_tasks_take_turns_for_floods_of_key_updates(
    of_server: ssl.SSLContext, keylog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, turns = Steps(monkeypatch), Turns(at_once=1)
    async with contextlib.AsyncExitStack() as stack:
        transports = []
        for _ in range(5):
            both = await stack.enter_async_context(shaken(of_server, telling_anew(keylog)))
            await both.client.stream.send_all(flood(keylog, b"more", 100))
            transports.append(TlsTransport(both.wire, Pace(CONFIG, Stats()), turns))
        steps.counts = [0]
        trio.lowlevel.add_instrument(steps)
        async with trio.open_nursery() as receivers:
            for transport in transports:
                receivers.start_soon(transport.receive)
        trio.lowlevel.remove_instrument(steps)
        assert max(steps.counts) == 1
        assert sum(steps.counts) >= 5 * 100 * 27 // 1052


async def test_tasks_that_begin_together_take_turns(of_server: ssl.SSLContext) -> None:
    """From the first byte of a file on: each of them has its own count of bytes."""
    turns, rounds = Turns(at_once=1), list[int]()

    class Counter(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            rounds.append(0)

    async def begin(sock: socket.socket) -> None:
        pace = Pace(CONFIG, Stats())
        await TlsTransport(TlsSocket(sock, of_server), pace, turns).turn()
        rounds[-1] += 1

    with socket.socket(socket.AF_UNIX) as sock:
        trio.lowlevel.add_instrument(counter := Counter())
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(begin, sock)
        trio.lowlevel.remove_instrument(counter)
    assert (sum(rounds), max(rounds)) == (5, 1)


async def test_handshakes_that_have_begun_go_first(
    of_server: ssl.SSLContext,
    of_client: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    """Their clients wait for an answer already, and most of the work is done."""
    order: list[int] = []
    real = TlsSocket.shake_hands

    def shake_hands(wire: TlsSocket) -> bool:
        order.append(wire.fileno())
        return real(wire)

    monkeypatch.setattr(lane_module, "_TURN", 3600.0)  # all have come in one
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        begun = laned.connect()
        assert isinstance(begun.stream, trio.SocketStream)
        stream = TlsClient(begun.stream, of_client)
        with pytest.raises(ssl.SSLWantReadError):
            stream.ssl.do_handshake()
        await begun.send(stream.said())
        stream.hear(await begun.stream.receive_some())
        stream.ssl.do_handshake()
        [first] = laned.lane._parked
        monkeypatch.setattr(TlsSocket, "shake_hands", shake_hands)
        others = [laned.connect() for _ in range(3)]
        for each in others:
            os.write(fileno(each), hello(each, of_client))
        os.write(fileno(begun), stream.said())
        await wait_all_tasks_blocked()
        assert (order[0], len(order)) == (first, 4)


def hello(client: Client, context: ssl.SSLContext) -> bytes:
    """The beginning of a handshake."""
    assert isinstance(client.stream, trio.SocketStream)
    client.stream = stream = TlsClient(client.stream, context)
    with pytest.raises(ssl.SSLWantReadError):
        stream.ssl.do_handshake()
    said, client.stream = stream.said(), stream.stream
    return said


async def test_of_a_client_that_says_nothing_nothing_is_kept(
    of_server: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        laned.connect()
        await wait_all_tasks_blocked()
        [parked] = laned.lane._parked.values()
        assert isinstance(parked.sock, TlsSocket)
        assert parked.sock._ssl is None
        assert laned.tasks == 0


async def test_handshakes_that_are_late_give_way(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        begun = laned.connect()
        await begun.send(hello(begun, of_client))
        await wait_all_tasks_blocked()
        assert not laned.lane.give_way()
        await trio.sleep(1.5)
        assert laned.lane.give_way()
        await wait_all_tasks_blocked()
        assert laned.stats.connections_open == 0


async def test_a_handshake_goes_on_that_began_when_others_wanted_its_place(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    """epoll does not show what was read outside of a turn."""
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = laned.connect()
        await trio.sleep(1.5)
        assert isinstance(client.stream, trio.SocketStream)
        stream = TlsClient(client.stream, of_client)
        with pytest.raises(ssl.SSLWantReadError):
            stream.ssl.do_handshake()
        os.write(fileno(client), stream.said())
        assert laned.lane.give_way()
        await stream.shake_hands(with_data=get("/a.txt"))
        client.stream = stream
        assert (await answer_to(client)).body == b"0123456789"
        assert trio.current_time() == 1.5


async def test_a_handshake_that_began_outside_of_a_turn_has_its_deadline(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = laned.connect()
        await trio.sleep(1.5)
        os.write(fileno(client), hello(client, of_client))
        laned.lane.give_way()
        assert await client.receive_all()
        assert trio.current_time() == CONFIG.head_timeout


async def test_a_handshake_of_who_has_ended_is_still_new_in_a_crowd(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the deadline of a head, and not that of who has asked before."""
    monkeypatch.setattr(lane_module, "MANY", 0)
    seen: list[Parked] = []
    real = Crowd.put_off

    def put_off(crowd: Crowd, parked: Parked) -> None:
        seen.append(parked)
        real(crowd, parked)

    monkeypatch.setattr(Crowd, "put_off", put_off)
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = laned.connect()
        await wait_all_tasks_blocked()
        [parked] = laned.lane._parked.values()
        deadline = parked.deadline
        shaken_at: list[tuple[bool, float]] = []
        shake_hands = TlsSocket.shake_hands

        def shake(wire: TlsSocket) -> bool:
            shaken_at.append((parked.is_new, parked.deadline))
            return shake_hands(wire)

        monkeypatch.setattr(TlsSocket, "shake_hands", shake)
        os.write(fileno(client), hello(client, of_client))
        await client.stream.send_eof()
        await wait_all_tasks_blocked()
        assert parked in seen, "it was put off"
        assert shaken_at
        assert set(shaken_at) == {(True, deadline)}
        assert laned.stats.connections_open == 0


async def test_a_handshake_that_goes_on_at_its_deadline_is_a_tasks(
    of_server: ssl.SSLContext,
    of_client: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    mock_clock: MockClock,
) -> None:
    """The process may have stood still: it has some time more, once."""
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = laned.connect()
        said = hello(client, of_client)
        await wait_all_tasks_blocked()
        os.write(fileno(client), said[:100])
        mock_clock.jump(CONFIG.head_timeout + 1)
        await wait_all_tasks_blocked()
        assert laned.tasks == 1
        mock_clock.jump(CONFIG.head_timeout + 1)
        await wait_all_tasks_blocked()
        assert laned.stats.connections_open == 0


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01\x02\0", b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_handshake_has_the_deadline_of_a_head(
    says: bytes, of_server: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = laned.connect()
        await client.send(says) if says else None
        before = trio.current_time()
        await client.receive_all()
        is_over = says.startswith(b"GET")  # no handshake can begin like that
        assert trio.current_time() - before == (0 if is_over else CONFIG.head_timeout)
        await wait_all_tasks_blocked()
        assert laned.stats.connections_open == 0


async def test_a_head_has_what_its_handshake_has_left(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = laned.connect()
        await trio.sleep(7)
        assert isinstance(client.stream, trio.SocketStream)
        stream = TlsClient(client.stream, of_client)
        await stream.shake_hands()
        client.stream = stream
        before = trio.current_time()
        await client.receive_all()
        assert trio.current_time() - before <= 4
        assert stream.notified


async def test_a_server_that_drains_ends_handshakes(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    """Nothing was asked yet, so the client may go elsewhere."""
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        silent, client = laned.connect(), laned.connect()
        await client.send(hello(client, of_client))
        await wait_all_tasks_blocked()
        laned.server.drain()
        await wait_all_tasks_blocked()
        assert laned.stats.connections_open == 0
        assert await silent.receive_all() == b""


async def test_a_server_that_retires_goes_on_with_handshakes(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = laned.connect()
        await wait_all_tasks_blocked()
        laned.server.retire()
        assert isinstance(client.stream, trio.SocketStream)
        stream = TlsClient(client.stream, of_client)
        await stream.shake_hands(with_data=get("/a.txt"))
        client.stream = stream
        answer = await answer_to(client)
        assert (answer.body, answer.closes) == (b"0123456789", True)


async def test_a_cancelled_handshake_leaves_nothing(
    of_server: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = laned.connect()
        await wait_all_tasks_blocked()
        assert laned.stats.connections_open == 1
        assert not has_received(client)
    # ... and on_the_lane has seen that no connection is left.


# ------------------------------------------------------------------ versions


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_versions_and_alpn(
    version: ssl.TLSVersion, of_server: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    of_client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    of_client.check_hostname, of_client.verify_mode = False, ssl.CERT_NONE
    of_client.minimum_version = of_client.maximum_version = version
    of_client.set_alpn_protocols(["h2", "http/1.1"])
    async with on_the_lane(SimDisk(FILES), CONFIG, context=of_server) as laned:
        client = await laned.connect_by_tls(of_client)
        assert isinstance(client.stream, TlsClient)
        assert client.stream.ssl.selected_alpn_protocol() == "http/1.1"
        assert client.stream.ssl.version() == version.name.replace("v1_", "v1.")
        assert (await ask(client, get("/a.txt"))).body == b"0123456789"


def test_there_is_no_renegotiation_and_nothing_older() -> None:
    context = certificates.new_context()
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_portion_costs_less_than_half_a_turn() -> None:
    """27 bytes of a KeyUpdate cost up to 22 us."""
    assert tls_module._PORTION / 27 * 22e-6 < 0.001
