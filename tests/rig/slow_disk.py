"""A disk that reads slowly, by a cgroup, and what it has read. Blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.rig.cgroups import cgroup, inside
from tests.rig.file_systems import block_device

_SECTOR = 512  # bytes, in all counters of block devices


@dataclass(frozen=True)
class DiskReads:
    """What a block device has read so far: operations that are complete, and their bytes."""

    operations: int
    bytes: int

    def since(self, before: DiskReads) -> DiskReads:
        """Return what has been read after `before`."""
        return DiskReads(self.operations - before.operations, self.bytes - before.bytes)


class SlowDisk:
    """A cgroup whose processes read one block device slowly. See `slow_cgroup`."""

    def __init__(self, directory: Path, device: Path) -> None:
        self.directory = directory
        self.device = device

    def limit(self, bytes_per_second: int | None = None, operations: int | None = None) -> None:
        """Another speed from now on; None: as fast as the disk is.

        operations: reads a second, as large as the kernel makes them (read-ahead).
        """
        number = (self._sys / "dev").read_text().strip()
        v1 = self.directory / "blkio.throttle.read_bps_device"
        if v1.exists():
            v1.write_text(f"{number} {bytes_per_second or 0}")  # 0 removes a limit
            v1.with_name("blkio.throttle.read_iops_device").write_text(
                f"{number} {operations or 0}"
            )
        else:
            words = f"rbps={bytes_per_second or 'max'} riops={operations or 'max'}"
            (self.directory / "io.max").write_text(f"{number} {words}")

    def reads(self) -> DiskReads:
        """Return what the disk has read so far, for whomever."""
        operations, _merged, sectors, *_ = map(int, (self._sys / "stat").read_text().split())
        return DiskReads(operations, sectors * _SECTOR)

    @property
    def _sys(self) -> Path:
        return Path("/sys/block", self.device.name)

    def add(self, pid: int) -> None:
        """Move a process (all its threads) into the cgroup."""
        (self.directory / "cgroup.procs").write_text(str(pid))

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` in the cgroup from its first instruction on; the process id stays the same."""
        return inside(self.directory, argv)


@contextmanager
def slow_cgroup(
    device_path: Path, bytes_per_second: int | None = None, operations: int | None = None
) -> Iterator[SlowDisk]:
    """A cgroup that reads the disk that holds `device_path` at this speed, see `SlowDisk.limit`.

    On a loop device only the reads of that device are slow: nothing else is disturbed.
    """
    device = block_device(device_path)
    with cgroup() as directory:
        slow = SlowDisk(directory, device)
        slow.limit(bytes_per_second, operations)
        yield slow
