"""A disk that reads slowly, by a cgroup. Blocks."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.rig.file_systems import block_device
from tests.rig.mount_points import mountinfo


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
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return ["sh", "-c", enter, str(self.directory), *argv]


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


_cgroup_numbers = itertools.count()


@contextmanager
def cgroup() -> Iterator[Path]:
    """A new cgroup that can limit block devices; whoever is in it at the end is moved out."""
    parent = _cgroup_parent()
    directory = parent / f"trio-amped-{os.getpid()}-{next(_cgroup_numbers)}"
    directory.mkdir()
    try:
        yield directory
    finally:
        deadline = time.monotonic() + 5
        while True:
            for pid in (directory / "cgroup.procs").read_text().split():
                with suppress(OSError):
                    (parent / "cgroup.procs").write_text(pid)
            try:
                directory.rmdir()
                break
            except OSError:  # a process that is just exiting
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def _cgroup_parent() -> Path:
    """Where block devices can be limited: cgroup v1 if it is there, or else v2."""
    unified = None
    for line in mountinfo():
        before, after = line.split(" - ")
        kind, _, options = after.split(" ", 2)
        place = Path(before.split()[4])
        if kind == "cgroup" and "blkio" in options.split(","):
            if not (place / "blkio.throttle.read_bps_device").exists():
                raise RuntimeError(f"{place} cannot limit the speed of a disk")
            return place
        if kind == "cgroup2":
            unified = place
    if unified is None or "io" not in (unified / "cgroup.controllers").read_text().split():
        raise RuntimeError("no cgroup has the blkio (v1) or io (v2) controller")
    (unified / "cgroup.subtree_control").write_text("+io")
    return unified
