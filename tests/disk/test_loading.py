"""What helpers bring into memory: all of a part and no more, whatever the disk and the file do."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.disk.conftest import BrokenDisk
from tests.disk.support import KIB, MIB, mappings
from tests.rig import REPOSITORY, evict, needs, resident_pages
from tests.rig.cgroups import cgroup, inside
from trio_amped.disk import kernel, loading
from trio_amped.disk.kernel import PAGE
from trio_amped.disk.loading import Load, Reader, touch

pytestmark = needs("root", "loop")

SIZE = 4 * MIB


@pytest.fixture
def file(root: Path) -> Path:
    path = root / "file"
    path.write_bytes(os.urandom(SIZE))
    evict(path)
    return path


@pytest.fixture
def fd(file: Path) -> Iterator[int]:
    fd = os.open(file, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["touch", "read"])
def load(request: pytest.FixtureRequest) -> Load:
    """Both ways."""
    return touch if request.param == "touch" else Reader().load


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, PAGE), (MIB, 64 * KIB), (512 * KIB, MIB), (3 * PAGE, 600 * KIB), (0, SIZE)],
)
def test_a_part_and_no_more(load: Load, file: Path, fd: int, offset: int, length: int) -> None:
    """A page fault alone would read the disk's read-ahead around each page: 128 KiB on this one."""
    load(fd, offset, length)
    mapping = kernel.ShadowMapping(fd, SIZE)
    assert mapping.resident(offset, length) == length
    mapping.close()
    assert resident_pages(file) == length // PAGE
    assert not mappings(file), "pages that stay mapped are hard to evict"


@pytest.mark.parametrize(("offset", "length"), [(SIZE, PAGE), (0, 0), (2**62, 2**62)])
def test_nothing(load: Load, file: Path, fd: int, offset: int, length: int) -> None:
    load(fd, offset, length)
    assert resident_pages(file) == 0


@pytest.mark.parametrize(("offset", "length"), [(-1, PAGE), (0, -1)])
def test_what_cannot_be(load: Load, fd: int, offset: int, length: int) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        load(fd, offset, length)


def test_what_is_sent_from_it_starts_no_read(load: Load, file: Path, fd: int) -> None:
    """Read-ahead by the event loop would wait for the file's extents.

    The kernel begins it at a page that it has marked, when it read ahead itself: what was read
    without advice is full of such marks.
    """
    window = 512 * KIB
    out = os.memfd_create("out")
    for start in range(0, SIZE // 2, window):
        load(fd, start, window)
        assert os.sendfile(out, fd, start, window) == window
    os.close(out)
    assert resident_pages(file) == SIZE // 2 // PAGE


SCAN = """
import os, sys
from trio_amped.disk.loading import Reader, touch

path, way, window = sys.argv[1], sys.argv[2], 512 * 1024
load = touch if way == "touch" else Reader().load
file, out = os.open(path, os.O_RDONLY), os.memfd_create("out")
for start in range(0, os.fstat(file).st_size, window):
    load(file, start, window)
    assert os.sendfile(out, file, start, window) == window
    os.truncate(out, 0)
"""


@needs("memory")
@pytest.mark.parametrize("way", ["touch", "read"])
def test_what_is_loaded_and_sent_was_used_once(way: str, root: Path) -> None:
    """What was used twice is kept in memory before what is used often: a scan evicts the hot set.

    The kernel counts in batches of some hundred pages for each CPU.
    """
    path, size = root / "scanned", 32 * MIB
    path.write_bytes(bytes(size))
    evict(path)
    with cgroup("memory") as group:
        command = [sys.executable, "-c", SCAN, str(path), way]
        subprocess.run(inside(group, command), cwd=REPOSITORY, check=True)
        facts = dict(map(str.split, (group / "memory.stat").read_text().splitlines()))
    assert resident_pages(path) > 0.9 * size / PAGE
    assert int(facts["active_file"]) < size / 4
    assert int(facts["inactive_file"]) > size / 2


# ---------------------------------------------------------------- what a disk can do


def test_a_file_truncated_before_the_touch_kills_nobody(
    file: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: it is mapped, and not yet touched."""
    madvise = kernel._madvise_waiting
    answers = []

    def truncate_first(*arguments: int) -> int:
        os.truncate(file, PAGE)
        answers.append(madvise(*arguments))
        return int(answers[-1])

    monkeypatch.setattr(kernel, "_madvise_waiting", truncate_first)
    touch(fd, 0, MIB)
    assert set(answers) == {-1}


def test_a_file_truncated_before_it_is_read(
    file: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce = loading._announce

    def truncate_then(*arguments: int) -> int:
        count = announce(*arguments)
        os.truncate(file, PAGE)
        return count

    monkeypatch.setattr(loading, "_announce", truncate_then)
    Reader().load(fd, 0, MIB)
    assert resident_pages(file) == 1


@needs("fuse")
def test_an_unreadable_disk_is_an_error(load: Load, broken: BrokenDisk) -> None:
    path = broken.root / "file"
    path.write_bytes(os.urandom(MIB))
    evict(path)
    with path.open("rb") as opened:
        broken.disk.fail("read", errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            load(opened.fileno(), 0, MIB)
        broken.disk.reset()
        load(opened.fileno(), 0, MIB)
    assert resident_pages(path) == MIB // PAGE


def no_populate(number: int) -> Callable[[int, int, int], None]:
    def populate(descriptor: int, offset: int, length: int) -> None:
        raise OSError(number, os.strerror(number))

    return populate


@pytest.mark.parametrize("number", [errno.EFAULT, errno.EINVAL, errno.ENODEV, errno.EACCES])
def test_what_cannot_be_touched_is_read(
    number: int, file: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EINVAL: before Linux 5.14. ENODEV: a file system without mmap."""
    monkeypatch.setattr(kernel, "populate", no_populate(number))
    touch(fd, 2 * PAGE, 11 * PAGE)
    assert resident_pages(file) == 11


def test_other_errors_of_populate_are_reported(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "populate", no_populate(errno.ENOMEM))
    with pytest.raises(OSError, match="memory"):
        touch(fd, 0, PAGE)


def test_a_disk_that_takes_no_advice(
    load: Load, file: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    load(fd, 0, MIB)
    mapping = kernel.ShadowMapping(fd, SIZE)
    assert mapping.resident(0, MIB) == MIB
    mapping.close()
