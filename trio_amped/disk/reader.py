"""The disk gate for any trio program: reads files, and never lets the disk stop the event loop.

What is in memory is read at once; for the rest a helper waits. Awaits helpers.
"""

import contextlib
import errno
import math
import os
from collections.abc import AsyncIterator
from typing import Final

import trio

from ..config import Config, GateMode, HelperKind
from ..stats import Stats
from .local import LocalDisk, open_disk
from .pages import OpenFile
from .paths import absolute

_QUEUE: Final = 1 << 30  # misses that may wait for a helper: a program is its own bound


class File:
    """An open file, to be read at any offset by any number of tasks; see `open`."""

    def __init__(self, disk: LocalDisk, file: OpenFile, name: str) -> None:
        self._disk = disk
        self._file = file
        self.name = name
        """The path by which it was opened."""

    @property
    def size(self) -> int:
        """Bytes that it had when it was opened, or when a read last went beyond its end."""
        return self._file.size

    @property
    def gate(self) -> str:
        """Who says what of it is in memory: mincore, nowait, memory, always or never."""
        return "always" if self._file.is_by_copy else str(self._file.gate)

    async def read_at(self, offset: int, count: int) -> bytes:
        """The `count` bytes at `offset`; less where the file ends, b"" beyond. See pread(2).

        No thread is involved where they are in memory. Always a checkpoint; cancelling it leaves
        nothing behind. Raises ValueError for negative numbers, OSError as the disk does, and
        TimeoutError when it does not answer; trio.ClosedResourceError once the file is closed.
        """
        if offset < 0 or count < 0:
            raise ValueError("offset and count must not be negative")
        end = offset + count
        pieces: list[bytes] = []
        while True:
            await trio.lowlevel.checkpoint()  # also between the windows of a large part
            if self._file.fd < 0:
                raise trio.ClosedResourceError("the file is closed")
            data = await self._disk.read_now(self._file, offset, end - offset)
            offset += len(data)
            if not data or offset == end:
                return b"".join((*pieces, data)) if pieces else data
            pieces.append(data)


class DiskGate:
    """Opens files, with helpers for what is not in memory; `stats` are its counters."""

    def __init__(self, disk: LocalDisk, stats: Stats) -> None:
        self._disk = disk
        self._is_closed = False
        self.stats = stats

    @contextlib.asynccontextmanager
    async def open(self, path: str | bytes | os.PathLike[str]) -> AsyncIterator[File]:
        """`async with gate.open(path) as file`: a regular file, open for reading.

        A helper opens it, as a path can lead to any disk. Entering is a checkpoint, leaving is
        none: what closing could wait for is left to a thread. Raises OSError as os.open does, and
        for what is no regular file; trio.ClosedResourceError once `open_gate` has ended.
        """
        if self._is_closed:
            raise trio.ClosedResourceError("open_gate has ended")
        name = os.fsdecode(path)
        try:
            opened = await self._disk.open_anywhere(absolute(path))
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None
        try:
            if not opened.status.is_regular:
                number = errno.EISDIR if opened.status.is_directory else errno.EINVAL
                raise OSError(number, os.strerror(number), name)
            yield File(self._disk, opened, name)
        finally:
            self._disk.close(opened)


@contextlib.asynccontextmanager
async def open_gate(
    *,
    helpers: HelperKind = "thread",
    max_helpers: int = 16,
    gate: GateMode = "auto",
    disk_timeout: float = 30.0,
) -> AsyncIterator[DiskGate]:
    """A gate with helpers of its own, for as long as this lasts; `open` has one that is shared.

    The settings are those of `Config`; `disk_timeout` in seconds. Raises ValueError for one that
    cannot be. Its helpers live in a nursery: what the body raises leaves in an ExceptionGroup, and
    leaving waits a second at most for files that are still being closed.
    """
    config = Config(
        root="/",
        helpers=helpers,
        max_helpers=max_helpers,
        max_queue=_QUEUE,
        gate=gate,
        disk_timeout=disk_timeout,
        revalidate=math.inf,
    )
    stats = Stats()
    async with open_disk(config, stats) as disk:
        opened = DiskGate(disk, stats)
        try:
            yield opened
        finally:
            opened._is_closed = True


class _Shared:
    """The gate of this run of trio, from its first use to the end of the run."""

    def __init__(self) -> None:
        self.gate: DiskGate | None = None
        self.has_started = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, name="trio_amped.disk")

    async def _run(self) -> None:
        async with open_gate() as self.gate:
            self.has_started.set()
            await trio.sleep_forever()


_SHARED: Final[trio.lowlevel.RunVar[_Shared]] = trio.lowlevel.RunVar("trio_amped.disk")


@contextlib.asynccontextmanager
async def open(path: str | bytes | os.PathLike[str]) -> AsyncIterator[File]:
    """`async with open(path) as file: data = await file.read_at(offset, count)`.

    As `DiskGate.open`, with helpers (16 threads at most) that all of this run of trio shares; they
    are started when they are first needed.
    """
    try:
        shared = _SHARED.get()
    except LookupError:
        shared = _Shared()
        _SHARED.set(shared)
    await shared.has_started.wait()
    assert shared.gate is not None
    async with shared.gate.open(path) as file:
        yield file
