"""The rig's data sets: cold files whose content is known, and a hot one, on a disk. Blocks."""

import contextlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests import rig

HOT = "hot"
HOT_SIZE = 1024
MIB = 1 << 20
LOOP_READ_AHEAD_KB = 128
EVICTION_TRIES = 50


@dataclass(frozen=True)
class ColdFile:
    """A file to be streamed, and what a true copy of it looks like."""

    name: str
    size: int
    crc: int


@dataclass(frozen=True)
class Shape:
    """How many cold files, and how large (a multiple of 1 MiB)."""

    count: int
    size: int

    @property
    def total(self) -> int:
        return self.count * self.size


@dataclass(frozen=True)
class Disk:
    """A data set on a disk. `fresh()` gives its directory, with no cold file in memory."""

    name: str
    files: tuple[ColdFile, ...]
    fresh: Callable[[], AbstractContextManager[Path]]


def machine_disk(scratch: Path, shape: Shape) -> Disk:
    """The data set as plain files on the disk that holds `scratch`."""
    root = scratch / "machine"
    root.mkdir()
    files = write_files(root, shape)

    @contextlib.contextmanager
    def fresh() -> Iterator[Path]:
        for file in files:
            _evict(root / file.name)
        yield root

    return Disk("machine", files, fresh)


def loop_disk(scratch: Path, shape: Shape) -> Disk:
    """The data set on an ext4 image on a loop device, mounted anew for each row.

    So its names and inodes are cold as well.
    """
    image = scratch / "loop.img"
    size = shape.total + shape.total // 8 + 64 * MIB

    def mount() -> AbstractContextManager[Path]:
        return rig.loop_ext4(scratch, size, LOOP_READ_AHEAD_KB, image=image)

    with mount() as root:
        files = write_files(root, shape)

    @contextlib.contextmanager
    def fresh() -> Iterator[Path]:
        with mount() as root:
            for file in files:
                _evict(root / file.name)  # nothing is there: this is the check
            yield root

    return Disk("loop", files, fresh)


def _evict(path: Path) -> None:
    """Evict a file; a page that another CPU has in its hands at the moment takes several tries."""
    for _ in range(EVICTION_TRIES):
        with contextlib.suppress(AssertionError):
            return rig.evict(path)
        time.sleep(0.1)
    return rig.evict(path)


def write_files(root: Path, shape: Shape) -> tuple[ColdFile, ...]:
    """Write the hot file and cold ones, readable by all, onto the disk and not only into memory."""
    root.chmod(0o755)
    (root / HOT).write_bytes(b"h" * HOT_SIZE)
    (root / HOT).chmod(0o644)
    files = []
    for number in range(shape.count):
        path, crc = root / f"cold-{number:03}", 0
        with path.open("wb") as file:
            for _ in range(shape.size // MIB):
                block = os.urandom(MIB)
                crc = zlib.crc32(block, crc)
                file.write(block)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        files.append(ColdFile(path.name, shape.size, crc))
    return tuple(files)
