"""A server inside somebody else's trio program: it does its work and leaves nothing behind."""

import errno
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_amped
from tests.real.support import MIB, SMALL, WINDOW, children, content, descriptors, evict, put
from tests.rig import GUARD, FuseDisk, fuse_disk, needs, public_directory
from tests.rig.server import COMMON_OPTIONS
from tests.serving.peers import plain_entrance
from trio_amped import Config
from trio_amped.disk import helper
from trio_amped.serving.handover import Handover

pytestmark = pytest.mark.usefixtures("as_long_as_it_takes", "nobody_renames")

SIZE = 5 * MIB
SMALL_FILE = b"small"

Address = tuple[str, int]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "big", content(SIZE))
    put(tmp_path / "small", SMALL_FILE)
    return tmp_path


PATIENT = {f"{name}_timeout": math.inf for name in ("head", "keep_alive", "send", "disk")}


def config(root: Path, **settings: Any) -> Config:
    """Settings by which a server waits for clients and disks as long as they may take."""
    common = {"port": 0, "max_helpers": 4, "fast_lane": not COMMON_OPTIONS, "max_open_files": 100}
    everything: dict[str, Any] = {"root": root, **PATIENT, **common} | settings
    return Config(**everything)


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Address]:
    """A server that is cancelled on leaving."""
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(trio_amped.serve, config)
            yield address
            nursery.cancel_scope.cancel()


async def ask(address: Address, path: str, close: bool = True) -> trio.SocketStream:
    """A connection on which one request was sent."""
    stream = await trio.open_tcp_stream(*address)
    last = "Connection: close\r\n" if close else ""
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: test\r\n{last}\r\n".encode())
    return stream


async def get(address: Address, path: str) -> bytes:
    """The body of a file that must be there."""
    async with await ask(address, path) as stream:
        head, body = b"".join([bytes(data) async for data in stream]).split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    return body


async def eventually(check: Callable[[], object]) -> None:
    """Wait for what nobody announces, such as the end of a thread that nobody waits for."""
    with trio.fail_after(GUARD):
        while not check():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def refuses(address: Address) -> bool:
    """Whether nobody listens there any more."""
    try:
        await trio.aclose_forcefully(await trio.open_tcp_stream(*address))
    except OSError:
        return True
    return False


# ---------------------------------------------------------------- nothing is left


def helper_threads() -> int:
    """How many threads of this process are inside of helper.serve."""

    def is_helper(frame: Any) -> bool:
        while frame:
            if frame.f_code is helper.serve.__code__:
                return True
            frame = frame.f_back
        return False

    return sum(map(is_helper, sys._current_frames().values()))


def mappings(root: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(root) in line]


@asynccontextmanager
async def nothing_left_of(root: Path) -> AsyncIterator[None]:
    """Descriptors, mappings, threads and processes are what they were before."""
    pid = os.getpid()
    gc.collect()
    await eventually(lambda: helper_threads() == 0)  # those of the test before
    before, children_before = set(descriptors(pid)), set(children(pid))
    yield
    await eventually(lambda: helper_threads() == 0)
    await eventually(lambda: set(descriptors(pid)) <= before)
    assert mappings(root) == []
    assert set(children(pid)) <= children_before


async def use(address: Address, requests: int) -> None:
    """Clients of all sorts at the same time: content ones, and ones that leave."""

    async def client(number: int) -> None:
        match number % 5:
            case 0:
                assert await get(address, "/big") == content(SIZE)
            case 1:
                assert await get(address, "/small") == SMALL_FILE
            case 2:
                stream = await ask(address, "/big")
                await stream.receive_some(1)
                await trio.aclose_forcefully(stream)
            case 3:
                await trio.aclose_forcefully(await ask(address, "/big"))
            case 4:
                await trio.aclose_forcefully(await trio.open_tcp_stream(*address))

    async with trio.open_nursery() as nursery:
        for number in range(requests):
            nursery.start_soon(client, number)


@pytest.mark.parametrize("gate", ["mincore", "nowait", "always", "never"])
@pytest.mark.parametrize("helpers", ["thread", "process"])
async def test_nothing_is_left_of_a_server(root: Path, helpers: str, gate: str) -> None:
    evict(root / "big")
    settings = config(root, helpers=helpers, gate=gate)
    async with nothing_left_of(root), serving(settings) as address:
        for _ in range(3):
            await use(address, 20)
        assert (helper_threads() > 0) == (helpers == "thread" and gate != "never")


@pytest.mark.parametrize("helpers", ["thread", "process"])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 10, 50])
async def test_nothing_is_left_of_a_server_that_is_cancelled_amid_its_work(
    root: Path, helpers: str, turns: int
) -> None:
    evict(root / "big")
    async with nothing_left_of(root):
        async with serving(config(root, helpers=helpers, gate="always")) as address:
            clients = [await ask(address, "/big") for _ in range(6)]
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
        for client in clients:
            await trio.aclose_forcefully(client)


@asynccontextmanager
async def ended_on_a_hung_disk(helpers: str) -> AsyncIterator[FuseDisk]:
    """A server that has ended while two of its helpers wait for a disk, which is let go then."""
    with public_directory() as place:
        for name in ("one", "two"):
            put(place / "backing" / name, content(MIB))
        put(place / "root/small", SMALL_FILE)
        with fuse_disk(place / "root", place / "backing") as disk:
            async with serving(config(place / "root", helpers=helpers)) as address:
                paths = [f"/{disk.path.name}/{name}" for name in ("one", "two")]
                assert [await get(address, path) for path in paths] == [content(MIB)] * 2
                disk.hang("open")
                clients = [await ask(address, path) for path in paths]
                await trio.to_thread.run_sync(disk.wait_hanging, 2)
                assert await get(address, "/small") == SMALL_FILE
            for client in clients:
                await trio.aclose_forcefully(client)
            yield disk
            disk.release()
            await eventually(lambda: disk.hanging() == 0)


@needs("fuse")
@pytest.mark.impatient
@pytest.mark.parametrize("helpers", ["thread", "process"])
async def test_a_hung_disk_does_not_hold_up_the_end(helpers: str) -> None:
    """Whatever waits for the disk goes when the disk lets it, and then nothing is left."""
    pid = os.getpid()
    gc.collect()
    before = set(descriptors(pid)), set(children(pid))
    async with ended_on_a_hung_disk(helpers) as disk:
        assert disk.hanging() == 2
    await eventually(lambda: helper_threads() == 0)
    await eventually(lambda: set(descriptors(pid)) <= before[0])
    await eventually(lambda: set(children(pid)) <= before[1])


@pytest.mark.parametrize("settings", [{"root": "missing"}, {"port": "taken"}])
async def test_nothing_is_left_of_a_server_that_could_not_start(
    root: Path, settings: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with nothing_left_of(root):
            if settings.get("port"):
                wrong = config(root, port=listener.getsockname()[1])
            else:
                wrong = config(root / "missing")
            with pytest.raises(OSError, match=r"in use|No such file"):
                await trio_amped.serve(wrong)


# ---------------------------------------------------------------- errors


async def test_errors_of_start_are_plain(root: Path) -> None:
    """`except OSError` round the start is enough; no group needs to be taken apart."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wrong = {
            errno.EADDRINUSE: config(root, port=listener.getsockname()[1]),
            errno.ENOENT: config(root / "missing"),
            errno.ENOTDIR: config(root / "small"),
            errno.EADDRNOTAVAIL: config(root, host="192.0.2.1"),
            socket.EAI_NONAME: config(root, host="no,name"),
        }
        for number, settings in wrong.items():
            caught: BaseException | None = None
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(trio_amped.serve, settings)
                except OSError as error:
                    caught = error
            assert isinstance(caught, OSError)
            assert caught.errno == number


# ---------------------------------------------------------------- a good guest


async def test_no_signal_handlers_no_logging_and_none_of_trios_threads(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def surroundings() -> tuple[object, ...]:
        loggers = [logging.getLogger(), logging.getLogger("trio_amped")]
        return (
            [signal.getsignal(number) for number in signal.valid_signals()],
            [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers],
            sys.excepthook,
            os.environ.copy(),
            Path.cwd(),
        )

    before = surroundings()
    evict(root / "big")
    async with serving(config(root, gate="always")) as address:
        assert surroundings() == before
        assert await get(address, "/big") == content(SIZE)
        assert surroundings() == before
        # Stuck helpers must not starve the application.
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        assert helper_threads() > 0
    assert surroundings() == before
    assert capfd.readouterr() == ("", "")


async def test_two_servers_in_one_program(root: Path, tmp_path_factory: Any) -> None:
    other_root = tmp_path_factory.mktemp("other")
    put(other_root / "big", content(SIZE)[::-1])
    put(other_root / "small", b"other")
    one, other = trio_amped.Server(config(root)), trio_amped.Server(config(other_root))
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(one.serve)
            [other_address] = await nursery.start(other.serve)
            assert await get(address, "/big") == content(SIZE)
            assert await get(other_address, "/big") == content(SIZE)[::-1]
            assert await get(other_address, "/small") == b"other"
            assert (one.stats.requests, other.stats.requests) == (1, 2)
            one.drain()
            while not await refuses(address):
                pass
            assert await get(other_address, "/small") == b"other"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["lane", "h11"])
async def test_the_counters_add_up(root: Path, way: str) -> None:
    options = {"gate": "mincore", "precompressed": (), "fast_lane": way == "lane"}
    server = trio_amped.Server(config(root, revalidate=math.inf, **options))
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(server.serve)
            assert await get(address, "/big") == content(SIZE)
            assert await get(address, "/small") == SMALL_FILE
            async with await ask(address, "/missing") as stream:
                async for _ in stream:
                    pass
            held = await ask(address, "/small", close=False)
            assert await held.receive_some()
            stats = server.stats
            assert (stats.connections, stats.requests) == (4, 4)
            await eventually(lambda: stats.connections_open == 1)
            assert stats.responses == {200: 3, 404: 1}
            assert SIZE < stats.bytes_sent < SIZE + 2000
            # /small is opened once for both who ask.
            assert stats.by_lane == (4 if way == "lane" else 0)
            assert stats.opened_cached + stats.opened_by_helper == 3
            assert stats.gates == {"mincore": 2}
            assert stats.resident + stats.misses >= 2
            assert stats.files_open == 2
            assert stats.helpers >= 2
            await eventually(lambda: stats.helpers_busy == 0)
            await trio.aclose_forcefully(held)
            await eventually(lambda: stats.connections_open == 0)
            nursery.cancel_scope.cancel()


# ---------------------------------------------------------------- zero copy


@pytest.mark.parametrize("size", [SMALL, SMALL + 1, WINDOW + 1, SIZE])
async def test_a_large_file_is_never_in_our_memory(
    root: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/real/test_zero_copy.py looks at the kernel's side, where there is strace."""
    put(root / "file", content(size))
    windows: list[tuple[int, int]] = []
    reads: list[int] = []
    sendfile, pread, preadv = os.sendfile, os.pread, os.preadv

    def spy_sendfile(out: int, file: int, offset: int, length: int) -> int:
        sent = sendfile(out, file, offset, length)
        windows.append((length, sent))
        return sent

    def spy_pread(file: int, length: int, offset: int) -> bytes:
        reads.append(length)
        return pread(file, length, offset)

    def spy_preadv(*arguments: Any) -> int:
        count = preadv(*arguments)
        reads.append(count)
        return count

    monkeypatch.setattr(os, "sendfile", spy_sendfile)
    monkeypatch.setattr(os, "pread", spy_pread)
    monkeypatch.setattr(os, "preadv", spy_preadv)
    async with serving(config(root, gate="mincore")) as address:
        assert await get(address, "/file") == content(size)
    if size > SMALL:
        assert reads == []
        assert all(length <= 4 * MIB for length, _ in windows)  # at once, of what is in memory
        assert sum(sent for _, sent in windows) == size
    else:
        assert windows == []
        assert sum(reads) == size


# ---------------------------------------------------------------- drain, and room


async def stuck_transfer(address: Address) -> trio.SocketStream:
    """A client that takes the start of a large file and then nothing."""
    stream = await ask(address, "/huge")
    assert await stream.receive_some(1)
    return stream


async def test_a_later_drain_can_be_in_more_of_a_hurry(
    root: Path, autojump_clock: trio.testing.MockClock
) -> None:
    put(root / "huge", bytes(32 * MIB))
    server = trio_amped.Server(config(root))
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(server.serve)
        stream = await stuck_transfer(address)
        start = trio.current_time()  # the lane's sweeps let time jump while the kernel works
        server.drain(1000)
        await trio.testing.wait_all_tasks_blocked()
        server.drain(0)
    await trio.aclose_forcefully(stream)
    assert trio.current_time() - start < 1000


@pytest.mark.parametrize(("first", "second"), [(5.0, 50.0), (50.0, 5.0), (None, 50.0)])
async def test_the_last_drain_says_by_when(
    first: float | None, second: float, root: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Whether it is in more of a hurry than the one before it, or in less."""
    server = trio_amped.Server(config(root, drain_timeout=5.0))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        server.drain(first)
        server.drain(second)
        assert server._serving.deadline == trio.current_time() + second


async def test_a_drain_without_a_deadline_is_a_drain(
    root: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Also for a connection that was accepted just before, and had no task yet."""
    server = trio_amped.Server(config(root, drain_timeout=math.inf))
    server.drain()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours:
        await server._handle(Handover(theirs, plain_entrance(), b""))
    assert trio.current_time() == 0


class TwoAddresses(trio.abc.HostnameResolver):
    """A name with two addresses, as localhost has where there is IPv6."""

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        assert host == b"two.test"
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, (f"127.0.0.{last}", int(port or 0))) for last in (1, 2)]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


@pytest.fixture
async def two_addresses() -> AsyncIterator[None]:
    before = trio.socket.set_custom_hostname_resolver(TwoAddresses())
    yield
    trio.socket.set_custom_hostname_resolver(before)


async def use_both(root: Path, room: int) -> None:
    server = trio_amped.Server(config(root, host="two.test", max_connections=room))
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(server.serve)
        assert [host for host, _ in addresses] == ["127.0.0.1", "127.0.0.2"]
        one, other = addresses
        for address in (one, one, other, other, one):
            with trio.fail_after(GUARD):
                assert await get(address, "/small") == SMALL_FILE
        nursery.cancel_scope.cancel()


async def test_a_name_with_two_addresses(root: Path, two_addresses: None) -> None:
    await use_both(root, 2)


async def test_the_last_place_is_for_whoever_comes_first(root: Path, two_addresses: None) -> None:
    await use_both(root, 1)


@pytest.mark.parametrize("room", [1, 3])
async def test_clients_beyond_the_bound_wait_for_a_place(root: Path, room: int) -> None:
    head = b"GET /small HTTP/1.1\r\nHost: test\r\n\r\n"
    server = trio_amped.Server(config(root, max_connections=room))
    server._room.late = math.inf  # so that those within a head are busy
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(server.serve)
            inside = [await ask(address, "/small", close=False) for _ in range(room)]
            for stream in inside:
                await stream.send_all(head[:9])
                assert await stream.receive_some()
            outside = [await ask(address, "/small") for _ in range(5)]
            await inside[0].send_all(head[9:] + head[:9])
            assert await inside[0].receive_some()
            assert server.stats.connections == room
            for stream in inside:
                await stream.aclose()
            for stream in outside:
                assert (await stream.receive_some()).endswith(b"\r\n\r\n" + SMALL_FILE)
                await stream.aclose()
            assert server.stats.connections == room + 5
            nursery.cancel_scope.cancel()
