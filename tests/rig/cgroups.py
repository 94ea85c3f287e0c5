"""New cgroups, of version 1 or 2. Blocks."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from tests.rig.mount_points import mountinfo
from tests.rig.tools import GUARD

Controller = Literal["blkio", "memory", "pids"]  # as version 1 calls them
_V2_NAMES = {"blkio": "io", "memory": "memory", "pids": "pids"}

_numbers = itertools.count()


@contextmanager
def cgroup(controller: Controller | None = "blkio") -> Iterator[Path]:
    """A new cgroup with this controller; whoever is in it at the end is moved out.

    None: a cgroup of version 2 with no controller. Those that were made below it are removed.
    """
    parent = cgroup_parent(controller)
    directory = parent / f"trio-amped-{os.getpid()}-{next(_numbers)}"
    directory.mkdir()
    try:
        yield directory
    finally:
        deadline = time.monotonic() + GUARD
        while True:
            try:
                for group, _, _ in os.walk(directory, topdown=False):
                    for pid in Path(group, "cgroup.procs").read_text().split():
                        with suppress(OSError):
                            (parent / "cgroup.procs").write_text(pid)
                    os.rmdir(group)
                break
            except OSError:  # a process that is just exiting
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def inside(directory: Path, argv: Sequence[str]) -> list[str]:
    """`argv` in a cgroup from its first instruction on; the process id stays the same."""
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    return ["sh", "-c", enter, str(directory), *argv]


def cgroup_parent(controller: Controller | None) -> Path:
    """Where cgroups with this controller can be made: version 1 if it is there, or else 2.

    None: where those of version 2 can be made.
    """
    unified = None
    for line in mountinfo():
        before, after = line.split(" - ")
        kind, _, options = after.split(" ", 2)
        place = Path(before.split()[4])
        if kind == "cgroup" and controller and controller in options.split(","):
            if controller == "blkio" and not (place / "blkio.throttle.read_bps_device").exists():
                raise RuntimeError(f"{place} cannot limit the speed of a disk")
            return place
        if kind == "cgroup2":
            unified = place
    if controller is None:
        if unified is None:
            raise RuntimeError("cgroups of version 2 are not mounted")
        return unified
    name = _V2_NAMES[controller]
    if unified is None or name not in (unified / "cgroup.controllers").read_text().split():
        raise RuntimeError(f"no cgroup has the controller {controller} (v1) or {name} (v2)")
    (unified / "cgroup.subtree_control").write_text(f"+{name}")
    return unified
