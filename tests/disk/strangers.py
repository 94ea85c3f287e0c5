"""What tests have another user do: each is called in a process of its own, and returns JSON."""

import math
import os
import time
from pathlib import Path
from unittest import mock

import trio

from tests.disk.support import MIB, opened, opened_at, serving
from trio_amped.disk import kernel, local, names, pages
from trio_amped.disk.pages import PageGate
from trio_amped.stats import Stats

# Nothing depends on how busy the machine is (tests/disk/conftest.py).
mock.patch.object(pages, "QUICK", 0).start()
mock.patch.object(local, "FRESH", math.inf).start()


def names_errno(path: str) -> int:
    """Why the names of a directory cannot be read (0: they can)."""
    later = time.time_ns() + 5 * 10**9
    try:
        with mock.patch.object(time, "time_ns", return_value=later):
            memory, _ = names.read(os.open(path, os.O_PATH), 1000)
    except OSError as error:
        return error.errno or -1
    os.close(memory)
    return 0


def may_write(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY)
    return kernel.may_write(fd)


def has_fowner() -> bool:
    return kernel.has_fowner()


def drop_fowner() -> list[bool]:
    """A program that gives up its privileges when it has started."""
    before = kernel.has_fowner()
    os.setresuid(65534, 65534, 65534)
    return [before, kernel.has_fowner()]


def namespace() -> dict[str, bool]:
    """In a user namespace that knows one user, who is root there."""
    return {
        "all": kernel.all_owners_are_mapped(),
        "fowner": kernel.has_fowner(),
        "own": kernel.owns(0),
        "overflow": kernel.owns(65534),
        "mapped": kernel.owns(1000),  # not mapped, so fstat never says so
    }


def raw_mincore(path: str) -> int:
    """What mincore says, whether it is to be believed or not."""
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    return kernel.ShadowMapping(fd, size).resident(0, size)


def open_facts(path: str) -> dict[str, object]:
    """The gate that is chosen for a file, and whether its access time is left alone."""
    with opened_at(Path(path)) as found:
        return {
            "gate": PageGate("auto").choose(found),
            "noatime": found.noatime,
            "is_due": found.atime_is_due(0),
        }


def open_error(root: str, name: str, gate: str) -> int:
    """The errno of an open."""

    async def main() -> int:
        async with serving(Path(root), gate=gate) as disk:
            try:
                async with opened(disk, os.fsencode(name)):
                    return 0
            except OSError as error:
                return error.errno or -1

    return trio.run(main)


def explain(root: str) -> str:
    async def main() -> str:
        async with serving(Path(root)) as disk:
            return disk.explain()

    return trio.run(main)


def send_file(root: str, name: str, times: int, gate: str = "auto") -> dict[str, object]:
    """Get a whole file ready again and again: what was asked of the kernel, and the counters."""
    stats = Stats()
    asked: list[int] = []
    preadv = os.preadv

    def spy(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            asked.append(offset)
        return preadv(fd, buffers, offset, flags)

    async def main() -> dict[str, object]:
        asked_at_each: list[list[int]] = []
        gates: list[str] = []
        async with serving(Path(root), stats, gate=gate) as disk:
            for _ in range(times):
                async with opened(disk, os.fsencode(name)) as file:
                    offset = 0
                    while offset < file.status.size:
                        offset += await disk.ready(file, offset, file.status.size)
                    gates.append(file.gate)
                asked_at_each.append(asked[:])
                asked.clear()
        return {
            "asked": asked_at_each,
            "gates": gates,
            "misses": stats.misses,
            "resident": stats.resident,
            "opened_cached": stats.opened_cached,
        }

    with mock.patch.object(os, "preadv", spy):
        return trio.run(main)


def first_touch(root: str, name: str) -> dict[str, object]:
    """The first window of a file whose access time is due."""

    async def main() -> dict[str, object]:
        stats = Stats()
        async with serving(Path(root), stats) as disk:
            async with opened(disk, os.fsencode(name)) as file:
                must = file.must_load_first
                mapped_before = file.mapping is not None
                await disk.ready(file, 0, MIB)
                after = file.must_load_first
                first = stats.misses
                await disk.ready(file, 0, MIB)
            async with opened(disk, os.fsencode(name)) as file:
                again = file.must_load_first
        return {
            "must": must,
            "mapped_before": mapped_before,
            "first_misses": first,
            "misses": stats.misses,
            "after": after,
            "again": again,
        }

    return trio.run(main)
