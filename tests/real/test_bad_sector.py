"""A disk that cannot read a part of a file: its reads take long, fail, and are tried again.

The kernel reads again what it could not read: in a page fault, and for MADV_POPULATE_READ, with
mmap_lock in its hands. Where a thread does so, the loop's next mmap, munmap or malloc waits for the
disk.

FUSE below a loop device below ext4: the FUSE disk holds each read until hot requests were answered,
so that nothing depends on the time.
"""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig import GUARD, FuseDisk, ServerProcess, fuse_disk, load, loop_ext4, needs
from tests.rig import running_server as running

from .support import KIB, MIB, Client, content, eventually, evict, put

pytestmark = needs("fuse", "loop")

BAD = content(4 * KIB)  # one read of the disk: all others are tried again
HOT = content(2 * MIB)
ROUNDS = 4  # of hot requests, each for a file that has no mapping yet


@contextmanager
def a_server(place: Path, *options: str) -> Iterator[tuple[FuseDisk, ServerProcess]]:
    """A server whose files are in memory, but for /bad; and its disk, which answers no read."""
    (place / "backing").mkdir()
    with (
        fuse_disk(place, place / "backing") as disk,
        loop_ext4(place, 64 * MIB, image=disk.path / "image") as root,
    ):
        names = [f"hot-{number}" for number in range(ROUNDS * 2)]
        for name in names:
            put(root / name, HOT)
        put(root / "bad", BAD)
        with running("--precompressed", "none", *options, root=root) as server:
            with Client(server) as client:
                for name in ("bad", *names):  # the names are known; nothing is mapped or kept yet
                    assert client.get(f"/{name}", method="HEAD").status == 200
            for name in names:
                load(root / name)
            evict(root / "bad")
            disk.hang("read")
            disk.fail("read", errno.EIO)
            yield disk, server


def assert_hot(server: ServerProcess, number: int) -> None:
    """A file that is in memory is mapped and sent."""
    with Client(server) as client:
        assert client.get(f"/hot-{number % (2 * ROUNDS)}").body == HOT


@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_hot_requests_go_on_while_reads_fail_and_hang(place: Path, helpers: str) -> None:
    with a_server(place, "--helpers", helpers) as (disk, server), Client(server) as client:
        before, rounds = disk.counts()["read"], 0

        def next_one() -> bool:
            return client.has_answer() or disk.counts()["read"] > before + rounds

        client.ask("/bad")
        eventually(next_one)
        while not client.has_answer():
            assert_hot(server, rounds)
            rounds += 1
            disk.let_go()
            eventually(next_one)
        assert client.answer().status == 500
        assert rounds >= 2, "it was tried again"
        disk.reset()
        assert server.stop() == 0


@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_sigterm_is_obeyed_while_reads_fail_and_hang(place: Path, helpers: str) -> None:
    """One read has failed, and the next one hangs."""
    options = ("--helpers", helpers, "--drain-timeout", "0.1")
    with a_server(place, *options) as (disk, server), Client(server) as client:
        before = disk.counts()["read"]
        client.ask("/bad")
        disk.wait_counted("read", before + 1)
        disk.let_go()
        disk.wait_counted("read", before + 2)
        assert_hot(server, 0)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("stopped; ")  # the event loop has ended, whatever the helpers do
        disk.reset()
        assert server.process.wait(GUARD) == 0
