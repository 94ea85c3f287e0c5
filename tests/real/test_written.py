"""A writer that holds a file's lock while it waits for the disk: nobody waits on the event loop.

No time is measured: the disk lets the writer go only when what is to be shown has been.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig import FuseDisk, fuse_disk, loop_disk, needs, overlayfs, running_server

from .support import KIB, MIB, Client, content, evict, put

pytestmark = needs("root", "loop", "xfs", "fuse", "overlay")

HOT, WRITTEN = content(KIB), content(MIB)
UNCACHED = 768 * KIB  # where the writer writes
CACHED = 256 * KIB  # so much is in memory
PART = f"Range: bytes=0-{CACHED - 1}"
SMALL_PART = "Range: bytes=10-99"

Deed = Callable[[int], object]


@pytest.fixture
def disk(place: Path) -> Iterator[FuseDisk]:
    (place / "backing").mkdir()
    with fuse_disk(place, place / "backing") as disk:
        yield disk


def load_part(path: Path) -> None:
    """Have the beginning of a file in memory, and nothing else of it."""
    evict(path)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.read(CACHED)


@contextmanager
def held(disk: FuseDisk, path: Path, deed: Deed) -> Iterator[Callable[[], None]]:
    """While somebody writes a file, and waits for the disk; the function lets them go on."""
    with path.open("r+b", buffering=0) as file:
        writer = threading.Thread(target=deed, args=[file.fileno()])
        disk.hang("read")
        writer.start()
        try:
            disk.wait_hanging()
            yield disk.release
        finally:
            disk.release()
            writer.join()


def write_some(fd: int) -> None:
    os.pwrite(fd, b"0123456789", UNCACHED + 5)


@contextmanager
def root_on(kind: str, place: Path, disk: FuseDisk) -> Iterator[Path]:
    with loop_disk(place, "ext4" if kind == "ext4" else "xfs", image=disk.path / "image") as mount:
        if kind != "overlayfs":
            yield mount
            return
        (mount / "lower").mkdir()
        with overlayfs(mount, mount / "lower") as root:
            yield root


@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize("helpers", ["thread", "process"])
@pytest.mark.parametrize("kind", ["xfs", "overlayfs", "ext4"])
def test_hot_requests_go_on_while_a_writer_holds_the_lock(
    place: Path, disk: FuseDisk, kind: str, helpers: str, lane: bool
) -> None:
    """overlayfs is above XFS."""
    options = ["--helpers", helpers, *([] if lane else ["--no-fast-lane"])]
    with root_on(kind, place, disk) as root:
        put(root / "hot", HOT)
        path = put(root / "written", WRITTEN)
        load_part(path)
        with running_server(*options, root=root) as server, Client(server) as client:
            for part in (PART, SMALL_PART):
                assert client.get("/written", part).status == 206
            assert client.get("/hot").body == HOT
            with (
                Client(server) as large,
                Client(server) as small,
                held(disk, path, write_some) as release,
            ):
                large.ask("/written", PART)
                small.ask("/written", SMALL_PART)
                if kind == "ext4":  # whose readers need no lock
                    assert large.answer().body == WRITTEN[:CACHED]
                    assert small.answer().body == WRITTEN[10:100]
                for _ in range(100):
                    assert client.get("/hot").body == HOT
                if kind != "ext4":
                    assert not large.has_answer()
                    assert not small.has_answer()
                release()
                if kind != "ext4":
                    assert large.answer().body == WRITTEN[:CACHED]
                    assert small.answer().body == WRITTEN[10:100]
