"""Every deadline of a connection, in each way in which one is served: the same for all of them.

Each setting has a value of its own here, so that none can stand for another.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fuzz.world.clients import Client, Script
from fuzz.world.disk import Plan, WorldDisk
from fuzz.world.hosts import EMBEDDED, Host, hosting
from tests.serving.cases import FILES, LARGE, get
from tests.serving.client import parse
from tests.serving.peers import WAYS, Stream
from trio_amped.config import Config

HEAD: Final = 10.0
IDLE: Final = 60.0
SENDING: Final = 30.0
LEAST: Final = 100  # bytes a second, which a client has to take in that time
LINGER: Final = 5.0
LINGER_BYTES: Final = 4 * 2**20
SWEEP: Final = 1.0  # seconds: how late the lane may be
MOMENT: Final = 0.001
CONFIG: Final = Config(
    head_timeout=HEAD, keep_alive_timeout=IDLE, send_timeout=SENDING, send_minimum=LEAST * 30
)

DOORS: Final = [
    *((way, link) for way in ("plain", "recognised", EMBEDDED) for link in ("socket", "memory")),
    ("lane", "socket"),
]
EVERY_WAY: Final = pytest.mark.parametrize("door", DOORS, ids=lambda door: "-".join(door))
HOT: Final = get("/a.txt")
CLOSE: Final = "Connection: close"


def test_no_way_is_missing() -> None:
    assert {way for way, _ in DOORS} == {*WAYS, EMBEDDED}


@contextlib.asynccontextmanager
async def called(
    door: tuple[str, str], script: Script, config: Config = CONFIG
) -> AsyncIterator[tuple[Host, Client]]:
    """A server, and a client at work until it has seen the end of our side."""
    way, link = door
    disk = WorldDisk({**FILES, b"huge": LARGE * 20}, Plan())
    async with hosting(way, disk, config) as host:
        client = Client(host.connect(link), script)
        await client.run()
        yield host, client
        await trio.aclose_forcefully(client.stream)
        await wait_all_tasks_blocked()


async def check_that_it_is_gone(host: Host, at: float) -> None:
    """The connection is closed at this time, and not before, though its client stays."""
    await trio.sleep_until(at - MOMENT)
    assert host.server.stats.connections_open == 1
    await trio.sleep_until(at + MOMENT + SWEEP * (host.way == "lane"))
    await wait_all_tasks_blocked()
    assert host.server.stats.connections_open == 0


class Stay(NamedTuple):
    """What a client sends, and when; it then stays, and closes nothing. `ends_at`: when it sees the
    end of our side, which is followed by `lingers` seconds for its own."""

    name: str
    pieces: tuple[tuple[float, bytes], ...]
    statuses: tuple[int, ...]
    ends_at: float
    lingers: float = LINGER
    method: bytes = b"GET"


SLOWLY: Final = tuple((3.0, bytes([byte])) for byte in HOT[:4])
STAYS: Final = [
    Stay("silent", (), (), HEAD, 0),
    Stay("part of the first head", ((4, b"GET /"),), (408,), HEAD),
    Stay("the first head byte by byte", SLOWLY, (408,), HEAD),
    Stay("an empty line", ((4, b"\r\n"),), (), HEAD, 0),
    Stay("idle", ((4, HOT),), (200,), 4 + IDLE, 0),
    Stay("idle after two", ((4, HOT), (50, HOT)), (200, 200), 54 + IDLE, 0),
    Stay("idle after two at once", ((4, HOT * 2),), (200, 200), 4 + IDLE, 0),
    Stay("idle after a miss", ((4, get("/nope")),), (404,), 4 + IDLE, 0),
    Stay("idle after both", ((4, HOT), (7, get("/nope")), (7, HOT)), (200, 404, 200), 18 + IDLE, 0),
    Stay("idle after a large file", ((4, get("/huge")),), (200,), 4 + IDLE, 0),
    Stay("idle after HEAD", ((4, get("/huge", method="HEAD")),), (200,), 4 + IDLE, 0, b"HEAD"),
    Stay("idle after a part", ((4, get("/a.txt", "Range: bytes=0-1")),), (206,), 4 + IDLE, 0),
    Stay("part of a later head", ((4, HOT), (20, b"GET /")), (200, 408), 24 + HEAD),
    Stay("part of one after a miss", ((4, get("/nope")), (20, b"GE")), (404, 408), 24 + HEAD),
    Stay("a later head byte by byte", ((4, HOT), *SLOWLY), (200, 408), 7 + HEAD),
    Stay("part of a pipelined head", ((4, HOT + b"GET /"),), (200, 408), 4 + HEAD),
    Stay("the last one", ((4, get("/a.txt", CLOSE)),), (200,), 4),
    Stay("the last one is large", ((4, get("/huge", CLOSE)),), (200,), 4),
    Stay("the last one is a miss", ((4, get("/nope", CLOSE)),), (404,), 4),
    Stay("the last one is a part", ((4, get("/a.txt", CLOSE, "Range: bytes=1-")),), (206,), 4),
    Stay("the last of two", ((4, HOT + get("/a.txt", CLOSE)),), (200, 200), 4),
    Stay("the last one, later", ((4, HOT), (30, get("/a.txt", CLOSE))), (200, 200), 34),
    Stay("the last, and more", ((4, get("/a.txt", CLOSE) + HOT),), (200,), 4),
    Stay("no request", ((4, b"nonsense\r\n\r\n"),), (400,), 4),
    Stay("a body", ((4, get("/a.txt", "Content-Length: 9")),), (200,), 4),
    Stay("HTTP/1.0", ((4, get("/a.txt", version="1.0")),), (200,), 4),
]


@EVERY_WAY
@pytest.mark.parametrize("stay", STAYS, ids=lambda stay: stay.name)
async def test_a_client_that_stays(
    stay: Stay, door: tuple[str, str], autojump_clock: MockClock
) -> None:
    script = Script(stay.pieces, "hold")
    late = SWEEP if door[0] == "lane" and not stay.lingers else 0
    async with called(door, script) as (host, client):
        answers = parse(bytes(client.received), [stay.method])
        assert tuple(answer.status for answer in answers) == stay.statuses
        assert stay.ends_at - MOMENT <= client.saw_end_at <= stay.ends_at + MOMENT + late
        if stay.lingers:
            await check_that_it_is_gone(host, stay.ends_at + stay.lingers)
        else:
            await wait_all_tasks_blocked()
            host.check_is_idle()


@contextlib.asynccontextmanager
async def connected(door: tuple[str, str]) -> AsyncIterator[tuple[Host, Stream]]:
    """A server, and the end of a client over a link that holds little of what nobody reads."""
    way, link = door
    disk = WorldDisk({**FILES, b"huge": LARGE * 50}, Plan())
    async with hosting(way, disk, CONFIG) as host:
        stream = host.connect("lockstep" if link == "memory" else link)
        try:
            yield host, stream
        finally:
            await trio.aclose_forcefully(stream)
        await wait_all_tasks_blocked()
        host.check_is_idle()


LAST: Final = {
    "hot": get("/a.txt", CLOSE),
    "miss": get("/nope", CLOSE),
    "refused": b"nonsense\r\n\r\n",
    "body": get("/a.txt", "Content-Length: 1000000000"),
}


@EVERY_WAY
@pytest.mark.parametrize("last", LAST.values(), ids=LAST)
@pytest.mark.parametrize(("size", "pause"), [(1, 0.25), (1 << 18, 0.0)])
async def test_a_client_that_does_not_stop_sending(
    last: bytes, size: int, pause: float, door: tuple[str, str], autojump_clock: MockClock
) -> None:
    """It is listened to for a while after the last answer, and so many bytes; then no more."""
    sent = 0
    async with connected(door) as (_, stream):
        await stream.send_all(last)
        await Client(stream, Script((), "hold")).run()
        with contextlib.suppress(trio.BrokenResourceError):
            while sent <= 2 * LINGER_BYTES and trio.current_time() <= 2 * LINGER:
                await stream.send_all(bytes(size))
                sent += size
                await trio.sleep(pause)
        assert trio.current_time() <= LINGER + SWEEP + pause
        assert sent <= LINGER_BYTES + 2 * size + (1 << 20)
        if pause:
            assert trio.current_time() >= LINGER - MOMENT
        else:
            assert sent >= LINGER_BYTES


@EVERY_WAY
@pytest.mark.parametrize("before", [b"", HOT, get("/nope")], ids=["first", "hot", "miss"])
async def test_a_client_that_takes_nothing(
    before: bytes, door: tuple[str, str], autojump_clock: MockClock
) -> None:
    async with connected(door) as (host, stream), trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, before + get("/huge"))
        await check_that_it_is_gone(host, SENDING)


@EVERY_WAY
@pytest.mark.parametrize("takes_enough", [False, True])
async def test_a_client_that_takes_a_little_each_second(
    takes_enough: bool, door: tuple[str, str], autojump_clock: MockClock
) -> None:
    """Less than what it has to take in the time for that, or more."""
    _, link = door
    # A socket becomes writable in large steps, and only then has its client taken anything.
    more = 40 * LEAST if link == "socket" else LEAST * 11 // 10
    rate = more if takes_enough else LEAST * 9 // 10
    async with connected(door) as (host, stream), trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, get("/huge"))
        for second in range(1, 2 * int(SENDING)):
            if takes_enough or second < SENDING:
                await read_exactly(stream, rate)
                assert host.server.stats.connections_open == 1
            await trio.sleep_until(second)
        assert host.server.stats.connections_open == takes_enough


async def read_exactly(stream: trio.abc.ReceiveStream, count: int) -> None:
    while count:
        count -= len(await stream.receive_some(count))


@EVERY_WAY
async def test_a_body_that_an_application_waits_for(
    door: tuple[str, str], autojump_clock: MockClock
) -> None:
    """Each part of it must come within the time for a head."""

    async def read(exchange: object) -> None:
        while await exchange.receive_some():  # type: ignore[attr-defined]
            pass

    config = Config(fallback=read, head_timeout=HEAD, keep_alive_timeout=IDLE, send_timeout=SENDING)
    post = get("/api", "Content-Length: 9", method="POST")
    script = Script(((4, post), (9, b"a"), (9, b"b")), "hold")
    async with called(door, script, config) as (host, client):
        (answer,) = parse(bytes(client.received), [b"POST"])
        assert (answer.status, answer.closes) == (408, True)
        assert client.saw_end_at == pytest.approx(22 + HEAD, abs=MOMENT)
        await check_that_it_is_gone(host, 22 + HEAD + LINGER)
