"""A file that changes or breaks while it is sent costs its own connection, and nothing else."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig import (
    FuseDisk,
    ServerProcess,
    as_nobody,
    fuse_disk,
    identity,
    loop_ext4,
    needs,
    running_server,
)

from .support import (
    KIB,
    LONG_AGO,
    MIB,
    SMALL,
    Client,
    connections,
    content,
    descriptors,
    eventually,
    evict,
    put,
)

SIZE = 8 * MIB
BIG = content(SIZE)
HOT = b"hot"
Prepare = Callable[[Path], None]

# The program, which looks at once, and not each second, for what nobody asks for any more.
SWEEPING = """if True:
    import sys
    from trio_amped import cli
    from trio_amped.disk import open_files
    open_files._SWEEP = 0.01
    sys.exit(cli.main())
"""
PROGRAM = (sys.executable, "-c", SWEEPING)


@pytest.fixture
def root(place: Path) -> Path:
    put(place / "root/big", BIG)
    put(place / "root/hot", HOT)
    return place / "root"


@contextmanager
def quiet_server(root: Path, *options: str) -> Iterator[ServerProcess]:
    """A server that must have neither bugs nor anything left open when its clients are gone."""
    closing = ("--revalidate", "0.1", "--open-file-timeout", "0")
    with running_server(*closing, *options, root=root, program=PROGRAM) as server:
        with Client(server) as client:
            assert client.get("/hot").body == HOT
            assert client.get("/big").status == 200  # every helper that is needed has started
        yield server
        left = [str(root / name) for name in ("big", "hot")]
        eventually(lambda: not any(d.startswith(tuple(left)) for d in descriptors(server.pid)))
        with Client(server) as client:
            assert client.get("/hot").body == HOT
            assert connections(server.pid) >= 1
        eventually(lambda: connections(server.pid) == 0)
        assert "Traceback" not in "\n".join(server.log)
        assert server.stop() == 0


@contextmanager
def mid_body(server: ServerProcess) -> Iterator[Client]:
    """A client in the middle of the big file; others go on when it is over, and until then."""
    with Client(server) as other, Client(server, receive_buffer=16 * KIB) as client:
        client.ask("/big")
        assert client.head().status == 200
        assert client.take(1) == BIG[:1]
        yield client
        assert other.get("/hot").body == HOT
        assert other.get("/hot", "Range: bytes=1-").body == HOT[1:]


# ---------------------------------------------------------------- truncated, rewritten


def to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def to_a_part(path: Path) -> None:
    os.truncate(path, MIB + 1)


def to_nothing_in_secret(path: Path) -> None:
    before = path.stat()
    os.truncate(path, 0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def overwritten(path: Path) -> None:
    """In place and as large as before: the rest would be of another version."""
    with path.open("r+b") as file:
        file.write(bytes(SIZE))


@pytest.mark.parametrize("gate", ["mincore", "nowait", "always", "never"])
@pytest.mark.parametrize("change", [to_nothing, to_a_part, to_nothing_in_secret])
def test_truncated(root: Path, change: Prepare, gate: str) -> None:
    with quiet_server(root, "--gate", gate) as server:
        with mid_body(server) as client:
            change(root / "big")
            rest = client.take(SIZE - 1)
            assert len(rest) < SIZE - 1
            assert client.has_ended()
        server.wait_for_log("WARNING +/big: the file changed while it was sent")
        with Client(server) as client:
            again = client.get("/big")
            assert again.body == (root / "big").read_bytes()


@pytest.mark.parametrize("gate", ["mincore", "nowait", "always"])
def test_overwritten(root: Path, gate: str) -> None:
    with quiet_server(root, "--gate", gate) as server:
        with mid_body(server) as client:
            overwritten(root / "big")
            assert len(client.take(SIZE - 1)) < SIZE - 1
            assert client.has_ended()
        server.wait_for_log("WARNING +/big: the file changed while it was sent")


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def test_a_log_that_is_written_to(root: Path) -> None:
    """What was promised is there, and nothing else is sent."""
    later = time.time() + 3600  # its validator is a weak one, however long this test takes
    os.utime(root / "big", (later, later))
    with quiet_server(root) as server, mid_body(server) as client:
        append(root / "big")
        assert client.take(SIZE - 1) == BIG[1:]
        reply = client.get("/big", f"Range: bytes={SIZE}-")
        assert reply.body == b"more"


def test_appended_to_when_its_validator_was_strong(root: Path) -> None:
    """Either the rest of what was promised, or an end; and the next one gets all of it."""
    with quiet_server(root) as server:
        with mid_body(server) as client:
            append(root / "big")
            rest = client.take(SIZE - 1)
            assert BIG[1:].startswith(rest)
        with Client(server) as client:
            assert client.get("/big", f"Range: bytes={SIZE}-").body == b"more"


# ---------------------------------------------------------------- another file, another mode


def replaced(path: Path) -> None:
    put(path.parent / "new", b"new").rename(path)


def unlinked(path: Path) -> None:
    path.unlink()


def closed(path: Path) -> None:
    path.chmod(0)


@pytest.mark.parametrize("wrap", [identity, pytest.param(as_nobody, marks=needs("nobody"))])
@pytest.mark.parametrize("change", [replaced, unlinked, closed])
def test_what_was_opened_is_sent_to_its_end(
    root: Path, change: Prepare, wrap: Callable[[list[str]], list[str]]
) -> None:
    """Opened once: bytes, length and ETag are of one file, whatever has its name by now."""
    closing = ("--open-file-timeout", "0")
    with running_server(*closing, root=root, wrap=wrap, program=PROGRAM) as server:
        with mid_body(server) as client:
            change(root / "big")
            assert client.take(SIZE - 1) == BIG[1:]
            again = client.get("/big")
            if change is replaced:
                assert again.body == b"new"
            elif change is closed and wrap is identity:
                assert again.body == BIG
            else:
                assert again.status == 404
        eventually(lambda: not [d for d in descriptors(server.pid) if "/big" in d])
        assert server.stop() == 0


# ---------------------------------------------------------------- unreadable


def forget(path: Path) -> None:
    """Drop a file's pages from memory, but for those that wait in a socket."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@needs("fuse")
def test_unreadable_on_fuse(place: Path, root: Path) -> None:
    with fuse_disk(place, root) as disk, quiet_server(disk.path) as server:
        with mid_body(server) as client:
            disk.fail("read", errno.EIO)
            forget(disk.path / "big")
            assert len(client.take(SIZE - 1)) < SIZE - 1
            assert client.has_ended()
            disk.reset()
        server.wait_for_log("WARNING +/big: reading failed while it was sent: .*Input/output error")
        with Client(server) as client:
            assert client.get("/big").body == BIG


@pytest.fixture
def flaky(place: Path) -> Iterator[tuple[FuseDisk, Path]]:
    """A FUSE disk, and on it an ext4 with a big file that is not in memory."""
    (place / "backing").mkdir()
    with fuse_disk(place, place / "backing") as disk:
        image = disk.path / "image"
        with loop_ext4(place, 64 * MIB, image=image, read_ahead_kb=128) as path:
            put(path / "big", BIG)
            put(path / "hot", HOT)
            yield disk, path


@needs("loop", "fuse")
@pytest.mark.parametrize("gate", ["auto", "never"])
@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_unreadable_on_ext4(flaky: tuple[FuseDisk, Path], helpers: str, gate: str) -> None:
    disk, path = flaky
    with quiet_server(path, "--helpers", helpers, "--gate", gate) as server:
        evict(path / "big")
        with mid_body(server) as client:
            disk.fail("read", errno.EIO)
            forget(path / "big")
            assert len(client.take(SIZE - 1)) < SIZE - 1
            assert client.has_ended()
            disk.reset()
        server.wait_for_log("WARNING +/big: reading failed while it was sent: .*Input/output error")
        with Client(server) as client:
            assert client.get("/big").body == BIG


@needs("loop", "fuse")
def test_unreadable_from_the_start_is_500(flaky: tuple[FuseDisk, Path]) -> None:
    disk, path = flaky
    with quiet_server(path) as server, Client(server) as client:
        evict(path / "big")
        disk.fail("read", errno.EIO)
        reply = client.get("/big")
        assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")
        server.wait_for_log("WARNING +500 for /big: reading failed: Input/output error")
        assert client.get("/hot").body == HOT
        disk.reset()
        assert client.get("/big").body == BIG


# ---------------------------------------------------------------- clients that go


def at_rest(server: ServerProcess, other: Client) -> list[str]:
    """The descriptors of a server that has one client, and all the helpers that it may have."""
    assert other.get("/hot").body == HOT
    eventually(lambda: connections(server.pid) == 1)
    # An answer is sent before its file is closed.
    eventually(lambda: not any(d.endswith(("/hot", "/big")) for d in descriptors(server.pid)))
    return sorted(descriptors(server.pid))


def test_clients_that_reset_leave_nothing(root: Path) -> None:
    evict(root / "big")
    with quiet_server(root, "--max-helpers", "2") as server, Client(server) as other:
        before = at_rest(server, other)
        for reading in (0, 1, SMALL, MIB):
            clients = [Client(server, receive_buffer=16 * KIB) for _ in range(8)]
            for client in clients:
                client.ask("/big")
            for client in clients:
                if reading:
                    assert client.head().status == 200
                    assert client.take(reading) == BIG[:reading]
                client.reset()
            assert other.get("/hot").body == HOT
        eventually(lambda: sorted(descriptors(server.pid)) == before)


def test_clients_that_reset_within_a_head_or_at_once(root: Path) -> None:
    with quiet_server(root, "--max-helpers", "2") as server, Client(server) as other:
        before = at_rest(server, other)
        for start in (b"", b"G", b"GET /hot HTTP/1.1\r\nHost: x\r\n", b"\r\n", b"POST / "):
            client = Client(server)
            client.socket.sendall(start)
            client.reset()
            assert other.get("/hot").body == HOT
        eventually(lambda: sorted(descriptors(server.pid)) == before)


def test_a_client_that_goes_during_a_miss_leaves_nothing_to_the_next_one(root: Path) -> None:
    """Its descriptor's number goes to the next client, who must get what it asks for."""
    with quiet_server(root, "--gate", "always") as server:
        for _ in range(20):
            client = Client(server)
            client.ask("/big")
            client.reset()
            with Client(server) as following:
                assert following.get("/hot").body == HOT
                assert not following.has_answer()


def test_nothing_of_a_range_is_left_open(root: Path) -> None:
    os.utime(root / "big", (LONG_AGO, LONG_AGO))
    with quiet_server(root) as server, Client(server) as client:
        for offset in range(0, SIZE, MIB):
            asked = f"Range: bytes={offset}-{offset + SMALL}"
            assert client.get("/big", asked).body == BIG[offset : offset + SMALL + 1]
            assert client.get("/big", asked, method="HEAD").status == 200
            assert client.get("/big", f"Range: bytes={SIZE}-").status == 416
