"""Our server without one of its parts, or with it set otherwise: for figure 4. Blocks.

    python -m bench.experiments.without PART [the options of trio_amped]

None of this is an option: nobody should run a server so. A part is switched off by setting names of
the package before the server starts. Helper processes do not see it, so what helpers do is switched
off for threads alone.
"""

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from trio_amped import cli

_KIB: Final = 1024


@dataclass(frozen=True)
class Change:
    """A name of a module of the package, and what makes its value from that which it has."""

    module: str
    name: str
    made: Callable[[Any], object]


def _constant(module: str, name: str, value: object) -> Change:
    return Change(module, name, lambda _: value)


def _does_nothing(module: str, name: str) -> Change:
    return Change(module, name, lambda _: lambda *_args: None)


def _unkept(make: Callable[..., Any]) -> Callable[..., Any]:
    """The files stay open, and what was made of them is made again for the next request."""

    @functools.wraps(make)
    def made(*arguments: Any) -> Any:
        resource = make(*arguments)
        resource.original.made = None
        return resource

    return made


def _unshared(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def submitted(*arguments: Any, **options: Any) -> Any:
        return submit(*arguments, **(options | {"key": None}))

    return submitted


def _window(size: int) -> tuple[Change, ...]:
    """All loads are of this size, however fast the disk is."""

    def opened(file_of: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(file_of)
        def with_window(*arguments: Any) -> Any:
            file = file_of(*arguments)
            file.window = size
            return file

        return with_window

    return (
        Change("disk.local", "LocalDisk._file", opened),
        _constant("disk.pages", "WINDOW", size),
        _constant("disk.pages", "LARGEST_WINDOW", size),
    )


def _last_first(_append: object) -> Callable[..., None]:
    def append(queue: Any, job: Any) -> None:
        job.turn = -next(queue._numbers)
        queue._insert(job, queue._client(job))

    return append


def _unannounced(_announce: object) -> Callable[[int, int, int], int]:
    def length_of(descriptor: int, offset: int, length: int) -> int:
        return max(0, min(length, os.fstat(descriptor).st_size - offset))

    return length_of


SWITCHES: Final[dict[str, tuple[Change, ...]]] = {
    "no-resources": (Change("serving.resources", "Resources._make", _unkept),),
    "no-small-bodies": (
        _constant("serving.resources", "_SMALL", 0),
        _constant("serving.replies", "_COPIED", 0),
        _constant("serving.body", "_SMALL", 0),
    ),
    "no-snapshots": (_does_nothing("disk.folders", "Folders.want"),),
    "no-read-ahead": (_does_nothing("disk.local", "LocalDisk._ask_ahead"),),
    "no-coalescing": (Change("disk.pool", "HelperPool.submit", _unshared),),
    "windows-64k": _window(64 * _KIB),
    "windows-512k": _window(512 * _KIB),
    "windows-4m": _window(4096 * _KIB),
    "last-first": (Change("disk.places", "Queue.append", _last_first),),
    "no-announcement": (Change("disk.loading", "_announce", _unannounced),),
    "every-page": (_constant("disk.loading", "_is_in_memory", lambda *_: False),),
}
"""In the CSV file -> what is set."""


@contextlib.contextmanager
def switched(part: str) -> Iterator[None]:
    """Run the block without a part. Raises AttributeError where the package has no such name."""
    undo = []
    try:
        for change in SWITCHES[part]:
            holder: Any = importlib.import_module(f"trio_amped.{change.module}")
            *classes, name = change.name.split(".")
            holder = functools.reduce(getattr, classes, holder)
            value = getattr(holder, name)
            undo.append((holder, name, value))
            setattr(holder, name, change.made(value))
        yield
    finally:
        for holder, name, value in reversed(undo):
            setattr(holder, name, value)


def main(arguments: list[str]) -> int:
    part, *options = arguments
    with switched(part):
        return cli.main(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
