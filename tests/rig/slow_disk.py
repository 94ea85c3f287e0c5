"""A disk that reads slowly, by a cgroup. Blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.rig.cgroups import cgroup, inside
from tests.rig.file_systems import block_device


class SlowDisk:
    """A cgroup whose processes read one block device slowly. See `slow_cgroup`."""

    def __init__(self, directory: Path, device: Path) -> None:
        self.directory = directory
        self.device = device

    def limit(self, bytes_per_second: int) -> None:
        """Another speed from now on."""
        number = (Path("/sys/block") / self.device.name / "dev").read_text().strip()
        v1 = self.directory / "blkio.throttle.read_bps_device"
        if v1.exists():
            v1.write_text(f"{number} {bytes_per_second}")
        else:
            (self.directory / "io.max").write_text(f"{number} rbps={bytes_per_second}")

    def add(self, pid: int) -> None:
        """Move a process (all its threads) into the cgroup."""
        (self.directory / "cgroup.procs").write_text(str(pid))

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` in the cgroup from its first instruction on; the process id stays the same."""
        return inside(self.directory, argv)


@contextmanager
def slow_cgroup(device_path: Path, bytes_per_second: int) -> Iterator[SlowDisk]:
    """A cgroup that reads the disk that holds `device_path` at this speed.

    On a loop device only the reads of that device are slow: nothing else is disturbed.
    """
    device = block_device(device_path)
    with cgroup() as directory:
        slow = SlowDisk(directory, device)
        slow.limit(bytes_per_second)
        yield slow
