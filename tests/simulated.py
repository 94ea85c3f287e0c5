"""A disk made of trio and virtual time, behind the same interface as the real one."""

import dataclasses
import errno
import itertools
import os
import stat
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import trio

from trio_amped.disk.descriptors import Descriptor
from trio_amped.disk.interface import FileChanged, Listing, OpenFile, Stamp, WouldWait
from trio_amped.disk.opening import Status
from trio_amped.disk.pages import Gate
from trio_amped.semantics import listing

NOW: Final = 1_700_000_000  # seconds since 1970: what the tests' clock on the wall shows
DAY: Final = 86_400
NANO: Final = 10**9

DIRECTORY: Final = stat.S_IFDIR | 0o755
REGULAR: Final = stat.S_IFREG | 0o644
FIFO: Final = stat.S_IFIFO | 0o644

_inodes = itertools.count(1)


@dataclass(eq=False)
class SimFile:
    """An inode: what is open keeps it, whatever its name is given to later."""

    content: bytes = b""
    mode: int = REGULAR
    mtime_ns: int = (NOW - DAY) * NANO
    inode: int = field(default_factory=lambda: next(_inodes))

    @property
    def status(self) -> Status:
        mtime = self.mtime_ns
        return Status(self.mode, 0, 1, self.inode, len(self.content), mtime, mtime, mtime)


Entry: TypeAlias = bytes | SimFile | OSError  # contents, an inode, or what opening it raises
Happening: TypeAlias = BaseException | Callable[[], object]  # raised, or called


class SimDisk:
    """Implements disk.interface.Disk. Paths are relative to the root.

    `at_open` and `at_load` say what happens at the Nth operation (from 0; a load is a `ready` or
    a `read`). Each window of a file takes `load_latency` once: then it is resident. All times are
    virtual seconds. With `real_descriptors`, sendfile works: they are files in memory.
    """

    def __init__(
        self,
        files: Mapping[bytes, Entry],
        *,
        window: int = 64 * 1024,
        open_latency: float = 0.0,
        load_latency: float = 0.0,
        real_descriptors: bool = False,
        is_by_copy: bool = False,
    ) -> None:
        self.entries: dict[bytes, SimFile | OSError] = {}
        for path, entry in files.items():
            self.entries[path] = SimFile(entry) if isinstance(entry, bytes) else entry
        self.window = window
        self.open_latency = open_latency
        self.load_latency = load_latency
        self.at_open: dict[int, Happening] = {}
        self.at_load: dict[int, Happening] = {}
        self.opens = self.loads = self.opened = self.closed = 0
        self.has_real_descriptors = real_descriptors
        self._is_by_copy = is_by_copy
        self._open: dict[OpenFile, SimFile] = {}
        self._resident: set[tuple[int, int]] = set()

    @property
    def open_files(self) -> int:
        """How many files are open now."""
        return len(self._open)

    def truncate(self, path: bytes, size: int) -> None:
        """Cut a file off, under the hands of those who send it."""
        inode = self._inode(path)
        inode.content = inode.content[:size]
        inode.mtime_ns += NANO
        self.truncate_descriptors(path, size)

    def truncate_descriptors(self, path: bytes, size: int) -> None:
        """The same, in that moment in which the gate has said yes to what is gone."""
        inode = self._inode(path)
        for file, opened in self._open.items():
            if opened is inode and self.has_real_descriptors:
                os.ftruncate(file.fd, size)

    def replace(self, path: bytes, content: bytes) -> None:
        """Give the name to another file: who has the old one open keeps it."""
        self.entries[path] = SimFile(content, mtime_ns=NOW * NANO)

    def evict(self) -> None:
        """No page of any file is in memory."""
        self._resident.clear()

    def _inode(self, path: bytes) -> SimFile:
        entry = self.entries.get(path)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if isinstance(entry, OSError):
            raise entry
        return entry

    async def open(self, path: bytes) -> OpenFile:
        number, self.opens = self.opens, self.opens + 1
        _happen(self.at_open.get(number))
        if self.open_latency:
            await trio.sleep(self.open_latency)
        inode = self._inode(path)
        file = OpenFile(self._descriptor(inode), inode.status, Gate.MINCORE, self._is_by_copy)
        return self._note(file, inode)

    def _descriptor(self, inode: SimFile) -> Descriptor:
        if not self.has_real_descriptors:
            return Descriptor(-1, lambda _: None)
        fd = os.memfd_create("simulated")
        os.pwrite(fd, inode.content, 0)
        return Descriptor(fd)

    async def ready(self, file: OpenFile, offset: int, end: int) -> int:
        inode = self._open[file]
        assert 0 <= offset < end <= file.status.size, "a window outside of the file"
        number, self.loads = self.loads, self.loads + 1
        _happen(self.at_load.get(number))
        window = offset // self.window
        if self.load_latency and (inode.inode, window) not in self._resident:
            await trio.sleep(self.load_latency)
            self._resident.add((inode.inode, window))
        if inode.mtime_ns != file.status.mtime_ns or len(inode.content) <= offset:
            raise FileChanged
        return min(end, (window + 1) * self.window) - offset

    async def read(self, file: OpenFile, offset: int, end: int) -> bytes:
        count = await self.ready(file, offset, end)
        return self._open[file].content[offset : offset + count]

    # What it can do at once: all of it without latencies, and nothing where a fault is due.

    def open_at_once(self, path: bytes) -> OpenFile:
        if self.open_latency or self.at_open or self.at_load:
            raise WouldWait
        inode = self._inode(path)
        file = OpenFile(self._descriptor(inode), inode.status, Gate.MINCORE, self._is_by_copy)
        file.is_settled = inode.mtime_ns < (NOW - 2) * NANO
        return self._note(file, inode)

    def identify_at_once(self, path: bytes, *, follow: bool = True) -> tuple[int, int]:
        if self.open_latency or self.at_open or self.at_load:
            raise WouldWait
        return 1, self._inode(path).inode

    def stamp_at_once(self, path: bytes) -> Stamp | None:
        """A path may lead elsewhere at any time here: nothing is to be relied on."""
        return None

    def is_unchanged(self, file: OpenFile) -> bool:
        return file in self._open and self._open[file].status == file.status

    def ready_at_once(self, file: OpenFile, offset: int, end: int) -> int:
        inode, window = self._open[file], offset // self.window
        is_resident = not self.load_latency or (inode.inode, window) in self._resident
        if self.at_load or not is_resident:
            return 0
        if inode.mtime_ns != file.status.mtime_ns or len(inode.content) <= offset:
            raise FileChanged
        return min(end, (window + 1) * self.window) - offset

    def read_at_once(self, file: OpenFile, offset: int, end: int) -> bytes:
        count = self.ready_at_once(file, offset, end)
        if not count:
            raise WouldWait
        return self._open[file].content[offset : offset + count]

    def share(self, file: OpenFile) -> OpenFile:
        shared = dataclasses.replace(file, descriptor=file.descriptor.hold())
        return self._note(shared, self._open[file])

    def _note(self, file: OpenFile, inode: SimFile) -> OpenFile:
        self._open[file] = inode
        self.opened += 1
        return file

    async def list(self, path: bytes, view: listing.View) -> Listing:
        number, self.opens = self.opens, self.opens + 1
        _happen(self.at_open.get(number))
        if self.open_latency:
            await trio.sleep(self.open_latency)
        inode = SimFile(self.rendered(path, view))
        file = OpenFile(self._descriptor(inode), inode.status, Gate.MEMORY)
        return Listing(self._note(file, inode), digest(inode.content))

    def rendered(self, path: bytes, view: listing.View) -> bytes:
        """The directory at this path. Raises OSError."""
        prefix = path + b"/" if path else b""
        names = {each[len(prefix) :] for each in self.entries if each.startswith(prefix)}
        if not names and path not in self.entries:
            raise failure(errno.ENOENT)
        entries = {each.partition(b"/")[0]: b"/" in each for each in names if each}
        found = [listing.Entry(name, is_folder, 0, NOW) for name, is_folder in entries.items()]
        return b"".join(view.render(path, view.arranged(found), False))

    def explain(self) -> str:
        return "gate simulated"

    def close(self, file: OpenFile) -> None:
        del self._open[file]
        file.descriptor.release()
        self.closed += 1


def digest(content: bytes) -> bytes:
    """What a listing is known by."""
    return b"%x" % zlib.crc32(content)


def _happen(happening: Happening | None) -> None:
    if isinstance(happening, BaseException):
        raise happening
    if happening is not None:
        happening()


def failure(number: int) -> OSError:
    """An OSError as the kernel would make it."""
    return OSError(number, os.strerror(number))
