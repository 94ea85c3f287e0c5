"""A task that serves requests which the recogniser reads: what is left to h11, and what is kept."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.serving.cases import FILES, LARGE, get
from tests.serving.client import parse
from tests.serving.peers import Link, Peer, by_lockstep, by_memory, by_unix_socket, connected
from tests.simulated import NANO, NOW
from trio_amped.config import Config
from trio_amped.semantics.request import Request
from trio_amped.serving.framing import Framing
from trio_amped.serving.resources import Found
from trio_amped.serving.router import Router
from trio_amped.testing import Entry, SimDisk, SimFile

HUGE = LARGE * 50  # more than the kernel's buffers hold
TEN = b"0123456789"
LINKS = [by_memory, by_lockstep, by_unix_socket]


@pytest.fixture
def by_h11(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The heads that h11 has read."""
    heads: list[bytes] = []
    receive = Framing.receive

    def noted(framing: Framing, head: bytes) -> Request:
        heads.append(head)
        return receive(framing, head)

    monkeypatch.setattr(Framing, "receive", noted)
    return heads


@contextlib.asynccontextmanager
async def served(disk: SimDisk, link: Link, config: Config | None = None) -> AsyncIterator[Peer]:
    """A client, whose connection has a recogniser; at the end no file is open."""
    config = config or Config()
    disk.has_real_descriptors = True
    peer = Peer(disk, config, link)
    async with peer.router.swept(), trio.open_nursery() as nursery:
        nursery.start_soon(peer.serve)
        yield peer
        await trio.aclose_forcefully(peer.stream)
        await peer.ended.wait()
    assert disk.open_files == 0


async def body_of(peer: Peer, request: bytes, size: int) -> bytes:
    await peer.send(request)
    received = bytearray()
    while b"\r\n\r\n" not in received:
        received += await peer.receive(1)
    return await peer.receive(size)


@pytest.mark.parametrize("link", LINKS)
async def test_common_requests_are_not_read_by_h11(
    link: Link, by_h11: list[bytes], autojump_clock: MockClock
) -> None:
    async with served(SimDisk({**FILES, b"a.js": b"js"}), link) as peer:
        for _ in range(3):
            assert await body_of(peer, get("/a.txt"), 10) == TEN
        assert by_h11 == []
        part = get("/a.txt", "Range: bytes=1-2")
        assert await body_of(peer, part, 2) == b"12"
        assert by_h11 == []
        odd = get("/a.txt", "Range: bytes=1-2", "Range: bytes=1-2")
        assert await body_of(peer, odd, 10) == TEN
        assert await body_of(peer, get("/a.txt", "Cookie: 1"), 10) == TEN
        assert by_h11 == [odd]
        assert peer.stats.requests == 6
        assert peer.stats.by_lane == 0
        assert peer.stats.responses == {200: 5, 206: 1}


@pytest.mark.parametrize("link", LINKS)
async def test_a_large_file_is_shared(
    link: Link, by_h11: list[bytes], autojump_clock: MockClock
) -> None:
    disk = SimDisk(FILES)
    async with served(disk, link) as peer:
        for _ in range(2):
            assert await body_of(peer, get("/large.bin"), len(LARGE)) == LARGE
        assert by_h11 == []
        await wait_all_tasks_blocked()
        assert disk.open_files == 1  # it is kept, and nobody sends it any more


async def test_what_is_not_in_memory_is_loaded_once(
    by_h11: list[bytes], autojump_clock: MockClock
) -> None:
    disk = SimDisk(FILES, load_latency=1.0)
    async with served(disk, by_memory) as peer:
        assert await body_of(peer, get("/a.txt"), 10) == TEN
        assert trio.current_time() == 1.0
        assert await body_of(peer, get("/a.txt"), 10) == TEN
        assert trio.current_time() == 1.0
        assert by_h11 == []


async def test_a_change_is_seen_at_once(by_h11: list[bytes], autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES)
    async with served(disk, by_memory, Config(revalidate=0)) as peer:
        assert await body_of(peer, get("/a.txt"), 10) == TEN
        disk.replace(b"a.txt", b"other")
        assert await body_of(peer, get("/a.txt"), 5) == b"other"


async def test_a_client_that_goes_away_leaves_no_file_open(autojump_clock: MockClock) -> None:
    disk = SimDisk({**FILES, b"huge": HUGE})
    async with served(disk, by_unix_socket) as peer:
        await peer.send(get("/huge"))
        await peer.receive(1000)
        await wait_all_tasks_blocked()
        assert disk.open_files == 2  # kept, and on its way


async def test_a_file_that_shrinks_on_its_way_ends_the_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk({**FILES, b"huge": HUGE})
    async with served(disk, by_unix_socket) as peer:
        await peer.send(get("/huge") + get("/a.txt"))
        received = await peer.receive(1000)
        await wait_all_tasks_blocked()
        disk.truncate(b"huge", 4096)
        received += await peer.receive_all()
        (answer,) = parse(received, [])
        assert not answer.is_complete
        assert HUGE.startswith(answer.body)
    assert caplog.messages == ["/huge: the file changed while it was sent"]


async def test_the_last_answer_ends_the_connection(autojump_clock: MockClock) -> None:
    async with served(SimDisk(FILES), by_memory) as peer:
        await peer.send(get("/a.txt") + get("/a.txt", "Connection: close") + get("/a.txt"))
        first, last = parse(await peer.receive_all(), [])
        assert (first.closes, last.closes) == (False, True)
        assert first.body == last.body == TEN


async def test_a_drain_ends_the_connection_after_its_answer(autojump_clock: MockClock) -> None:
    async with served(SimDisk({**FILES, b"huge": HUGE}), by_unix_socket) as peer:
        await peer.send(get("/huge") + get("/a.txt"))
        received = await peer.receive(1000)
        peer.connection.drain()
        received += await peer.receive_all()
        first, last = parse(received, [])
        assert first.body == HUGE
        assert last.body == TEN
        assert last.closes


async def test_kept_answers_are_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_amped.access")
    async with served(SimDisk(FILES), by_memory) as peer:
        await peer.send(get("/a.txt?b"))
        await peer.receive(1)
        await wait_all_tasks_blocked()
    assert caplog.messages == ["GET /a.txt?b HTTP/1.1 200 10"]


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "h11"])
async def test_an_answer_that_is_not_finished_is_logged_as_well(
    keeps: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_amped.access")
    disk = SimDisk({**FILES, b"huge": HUGE}, real_descriptors=True)
    async with (
        served(disk, by_unix_socket) if keeps else connected(disk, link=by_unix_socket) as peer
    ):
        await peer.send(get("/huge"))
        await peer.receive(1000)
        await trio.aclose_forcefully(peer.stream)
        await peer.ended.wait()
    assert caplog.messages == [f"GET /huge HTTP/1.1 200 {len(HUGE)}"]


async def test_a_file_is_closed_when_it_is_sent(autojump_clock: MockClock) -> None:
    """Not only when the client has ended its side, which may take it some seconds."""
    disk = SimDisk(FILES)
    async with served(disk, by_unix_socket) as peer:
        await peer.send(get("/large.bin", "Connection: close"))
        (answer,) = parse(await peer.receive_all(), [])
        assert answer.body == LARGE
        assert not peer.ended.is_set()
        assert disk.open_files == 1


async def test_a_bug_is_answered_as_it_should_be(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(router: Router, match: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(Router, "read", fail)
    async with served(SimDisk(FILES), by_memory) as peer:
        await peer.send(get("/a.txt", method="HEAD"))
        (answer,) = parse(await peer.receive_all(), [b"HEAD"])
        assert (answer.status, answer.body) == (500, b"")
    assert "planted" in caplog.text


async def test_cancelled_at_any_step_it_leaves_nothing_open() -> None:
    """`served` looks at the files that are open."""
    for steps in range(12):
        disk = SimDisk({**FILES, b"huge": HUGE})
        async with served(disk, by_unix_socket) as peer:
            await peer.send(get("/huge") + get("/a.txt"))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            peer.scope.cancel()
            await peer.ended.wait()


async def test_files_that_nobody_asks_for_are_closed(autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES)
    config = Config(open_file_timeout=5.0, keep_alive_timeout=60.0)
    async with served(disk, by_memory, config) as peer:
        await body_of(peer, get("/a.txt"), 10)
        assert disk.open_files == 1
        await trio.sleep(5 + 1 + 1)  # and the time for which it is valid, and until a sweep
        assert disk.open_files == 0
        assert await body_of(peer, get("/a.txt"), 10) == TEN


async def test_each_answer_has_the_time_of_its_own_second(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(SimDisk(FILES), by_memory) as peer:
        dates = []
        for second in (0, 1):
            monkeypatch.setattr("time.time", lambda second=second: float(NOW + second))
            await peer.send(get("/a.txt", method="HEAD"))
            received = bytearray()
            while not received.endswith(b"\r\n\r\n"):
                received += await peer.receive(1)
            (answer,) = parse(bytes(received), [b"HEAD"])
            dates.append(answer.headers["date"])
    assert dates == ["Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:21 GMT"]


async def test_a_weak_validator_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file was opened a moment later than the clock of answers says."""
    monkeypatch.setattr(time, "time", lambda: NOW + 0.001)
    router = Router(Config(), [SimDisk({b"a.txt": SimFile(TEN, mtime_ns=(NOW - 2) * NANO)})])
    resources, tags = router.roots[0].resources, []
    for wall in (NOW, NOW + 1):
        router.clock.wall = wall
        found = resources.find(b"a.txt", None, None)
        assert isinstance(found, Found)
        tags.append(found.form.tag)
    assert tags == [b"W/" + tags[1], tags[1]]
    assert found is resources.find(b"a.txt", None, None)
    router.close()


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_sidecar_that_was_changed_before_its_first_use_is_seen(
    method: str, autojump_clock: MockClock
) -> None:
    disk = SimDisk({b"a.txt": TEN, b"a.txt.gz": b"<zipped>"})
    async with served(disk, by_memory, Config(precompressed=["gzip"])) as peer:
        await body_of(peer, get("/a.txt"), len(TEN))
        disk.truncate(b"a.txt.gz", 3)
        ask = get("/a.txt", "Accept-Encoding: gzip", "Connection: close")
        await peer.send(ask.replace(b"GET", method.encode()))
        (answer,) = parse(await peer.receive_all(), [method.encode()])
    assert answer.headers["content-length"] == "3"


async def test_a_sidecar_that_is_written_while_its_request_waits(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The version that was waited for is gone, and no other is waited for."""
    sidecar = SimFile(b"compressed")
    files: dict[bytes, Entry] = {b"a.js": b"plain", b"a.js.br": sidecar}
    disk = SimDisk(files, open_latency=1.0)
    async with served(disk, by_memory) as peer:
        await peer.send(get("/a.js", "Accept-Encoding: br", "Connection: close"))
        await trio.sleep(2.5)  # both are open, and other codings are looked for
        sidecar.content, sidecar.mtime_ns = b"written anew", sidecar.mtime_ns + 1
        (answer,) = parse(await peer.receive_all(), [])
        assert answer.status == 503
    assert [record.levelname for record in caplog.records] == ["WARNING"]
