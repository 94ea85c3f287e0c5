"""A page cache of a given size, by a cgroup. Blocks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.rig.cgroups import cgroup, cgroup_parent, inside

_PAUSE = 0.1  # seconds between two looks at how much memory the processes have of their own


class LimitedCache:
    """A cgroup whose processes have so much memory for files, whatever they need besides.

    The kernel limits all memory of a cgroup, so the limit follows their anonymous memory: a
    program that is large itself has as many bytes of files in memory as a small one.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size
        self._is_v1 = (directory / "memory.limit_in_bytes").exists()
        self.follow()

    def follow(self) -> None:
        """Set the limit anew. The kernel refuses one that it cannot get down to at once."""
        name = "memory.limit_in_bytes" if self._is_v1 else "memory.max"
        own = self.own()
        with suppress(OSError):
            (self.directory / name).write_text(str(self.size + own))

    def own(self) -> int:
        """The bytes of anonymous memory that these processes have."""
        return self._count("rss" if self._is_v1 else "anon")

    def cached(self) -> int:
        """The bytes of files that are in memory for these processes."""
        return self._count("cache" if self._is_v1 else "file")

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` in the cgroup from its first instruction on; the process id stays the same."""
        return inside(self.directory, argv)

    def _count(self, name: str) -> int:
        lines = (self.directory / "memory.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)[name])


@contextmanager
def limited_cache(size: int, beside: Path | None = None) -> Iterator[LimitedCache]:
    """`beside`: another cgroup of the same processes (with version 2 there is one for all)."""
    with ExitStack() as stack:
        if beside is not None and beside.parent == cgroup_parent("memory"):
            cache = LimitedCache(beside, size)
        else:
            cache = LimitedCache(stack.enter_context(cgroup("memory")), size)
        stopped = threading.Event()

        def follow() -> None:
            while not stopped.wait(_PAUSE):
                cache.follow()

        thread = threading.Thread(target=follow)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stopped.set)
        yield cache
