"""For tests of programs that use this package: a simulated disk, and clients in memory.

A disk that is slow, hangs or fails takes no time on trio's mock clock. Touches no file, but for
those in memory that `real_descriptors` asks for.
"""

import contextlib
import errno
import itertools
import math
import os
import stat
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

import h11
import trio
from trio.testing import memory_stream_pair

from .config import Config
from .disk.descriptors import Descriptor
from .disk.interface import FileChanged, Listing, OpenFile, Stamp, Wish, WouldWait
from .disk.jobs import ASKER
from .disk.loading import DIGEST_SIZE
from .disk.opening import Status
from .disk.pages import Gate
from .disk.versions import Versions
from .semantics import listing
from .serving.router import Router
from .serving.sites import Sites, handle_connection
from .stats import Stats

__all__ = ["Client", "Response", "Served", "SimDisk", "SimFile", "serving"]

_REGULAR: Final = stat.S_IFREG | 0o644
_NANO: Final = 10**9
_DATE: Final = 1_700_000_000  # seconds since 1970; so long ago that a file is what its date says

_inodes = itertools.count(1)


@dataclass(eq=False)
class SimFile:
    """An inode: what is open keeps it, whatever its name is given to later.

    `mode` as in stat(2), for what is no regular file; `mtime_ns` since 1970; `ctime_ns`: None
    where it is the same.
    """

    content: bytes = b""
    mode: int = _REGULAR
    mtime_ns: int = (_DATE - 86_400) * _NANO
    inode: int = field(default_factory=lambda: next(_inodes))
    ctime_ns: int | None = None

    @property
    def status(self) -> Status:
        """What fstat(2) says of it."""
        mtime = self.mtime_ns
        ctime = mtime if self.ctime_ns is None else self.ctime_ns
        return Status(self.mode, 0, 1, self.inode, len(self.content), mtime, ctime, mtime)


Entry: TypeAlias = bytes | SimFile | OSError  # contents, an inode, or what opening it raises
Happening: TypeAlias = BaseException | Callable[[], object]  # raised, or called


class SimDisk:
    """The folder of a site, which is given as paths (relative to it) and contents.

    Opening takes `open_latency` seconds, and `load_latency` each window (so many bytes) of a file,
    once: then it is in memory, until `evict`. `at_open` and `at_load` say what happens at the Nth
    operation (from 0; a load is a part that is made ready or read, or the digest of a file): an
    exception is raised, anything else is called. `open_files` is how many are open now.

    With `real_descriptors`, the kernel can send them: they are files in memory. What takes more
    than `disk_timeout` seconds fails then (ETIMEDOUT); `serving` sets it as the Config has it.
    """

    def __init__(
        self,
        files: Mapping[bytes, Entry] | Mapping[str, Entry],
        *,
        window: int = 64 * 1024,
        open_latency: float = 0.0,
        load_latency: float = 0.0,
        real_descriptors: bool = False,
        is_by_copy: bool = False,
    ) -> None:
        self.entries: dict[bytes, SimFile | OSError] = {}
        for path, entry in files.items():
            inode = SimFile(entry) if isinstance(entry, bytes) else entry
            self.entries[os.fsencode(path)] = inode
        self.window = window
        self.open_latency = open_latency
        self.load_latency = load_latency
        self.disk_timeout = math.inf
        self.at_open: dict[int, Happening] = {}
        self.at_load: dict[int, Happening] = {}
        self.opens = self.loads = self.opened = self.closed = 0
        self.has_real_descriptors = real_descriptors
        self._is_by_copy = is_by_copy
        self._open: dict[OpenFile, SimFile] = {}
        self._resident: set[tuple[int, int]] = set()
        self._versions = Versions("ctime")

    @property
    def open_files(self) -> int:
        """How many files are open now."""
        return len(self._open)

    def truncate(self, path: str | bytes, size: int) -> None:
        """Cut a file off, under the hands of those who send it."""
        path = os.fsencode(path)
        inode = self._inode(path)
        inode.content = inode.content[:size]
        inode.mtime_ns += _NANO
        self.truncate_descriptors(path, size)

    def truncate_descriptors(self, path: bytes, size: int) -> None:
        """The same, in that moment in which the gate has said yes to what is gone."""
        inode = self._inode(path)
        for file, opened in self._open.items():
            if opened is inode and self.has_real_descriptors:
                os.ftruncate(file.fd, size)

    def replace(self, path: str | bytes, content: bytes) -> None:
        """Give the name to another file: who has the old one open keeps it."""
        self.entries[os.fsencode(path)] = SimFile(content, mtime_ns=_DATE * _NANO)

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
        await self._take(self.open_latency)
        return self._opened(path)

    async def fetch(self, path: bytes, wish: Wish) -> dict[bytes, OpenFile | OSError]:
        """One after the other; no part of them is loaded ahead of need."""
        found: dict[bytes, OpenFile | OSError] = {path: await self.open(path)}
        try:
            for each in wish.beside:
                try:
                    found[each] = await self.open(each)
                except OSError as error:
                    found[each] = error
        except BaseException:
            for file in found.values():
                if isinstance(file, OpenFile):
                    self.close(file)
            raise
        return found

    def _opened(self, path: bytes) -> OpenFile:
        inode = self._inode(path)
        file = OpenFile(self._descriptor(inode), inode.status, Gate.MINCORE, self._is_by_copy)
        file.is_settled = self._versions.has_settled(inode.status, time.time(), trio.current_time())
        return self._note(file, inode)

    async def _take(self, seconds: float) -> None:
        if seconds > self.disk_timeout:
            await trio.sleep(self.disk_timeout)
            raise _failure(errno.ETIMEDOUT)
        if seconds:
            with ASKER.get().waits.counted():
                await trio.sleep(seconds)

    def _descriptor(self, inode: SimFile) -> Descriptor:
        if not self.has_real_descriptors:
            return Descriptor(-1, lambda _: None)
        fd = os.memfd_create("simulated")
        os.pwrite(fd, inode.content, 0)
        return Descriptor(fd)

    async def digest_of(self, file: OpenFile) -> bytes:
        """As one load of all of it."""
        inode = self._open[file]
        self._begin_load()
        await self._take(self.load_latency)
        made = blake2b(inode.content, digest_size=DIGEST_SIZE).digest()
        return self._versions.note_digest(file.status, inode.status, made)

    def known_digest(self, file: OpenFile) -> bytes | None:
        return self._versions.digest(file.status)

    def _begin_load(self) -> None:
        number, self.loads = self.loads, self.loads + 1
        _happen(self.at_load.get(number))

    async def ready(self, file: OpenFile, offset: int, end: int) -> int:
        inode = self._open[file]
        assert 0 <= offset < end <= file.status.size, "a window outside of the file"
        self._begin_load()
        window = offset // self.window
        if self.load_latency and (inode.inode, window) not in self._resident:
            await self._take(self.load_latency)
            self._resident.add((inode.inode, window))
        if inode.mtime_ns != file.status.mtime_ns or len(inode.content) <= offset:
            raise FileChanged
        return min(end, (window + 1) * self.window) - offset

    async def read(self, file: OpenFile, offset: int, end: int) -> bytes:
        return await self.copy(file, offset, offset + await self.ready(file, offset, end))

    async def copy(self, file: OpenFile, offset: int, end: int) -> bytes:
        inode = self._open[file]
        if inode.mtime_ns != file.status.mtime_ns or len(inode.content) <= offset:
            raise FileChanged
        return inode.content[offset:end]

    # What it can do at once: all of it without latencies, and nothing where a fault is due.

    def open_at_once(self, path: bytes) -> OpenFile:
        if self.open_latency or self.at_open or self.at_load:
            raise WouldWait
        return self._opened(path)

    def identify_at_once(self, path: bytes, *, follow: bool = True) -> tuple[int, int]:
        if self.open_latency or self.at_open or self.at_load:
            raise WouldWait
        return 1, self._inode(path).inode

    def stamp_at_once(self, path: bytes) -> Stamp | None:
        """A path may lead elsewhere at any time here: nothing is to be relied on."""
        return None

    def lacks(self, path: bytes, now: float, moment: int | None = None) -> bool | None:
        """Nobody knows: that is asked each time."""
        return None

    def want(self, path: bytes) -> None:
        pass

    def sweep(self, now: float) -> bool:
        return False

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
        shared = file.shared()
        self._open[shared] = self._open[file]
        return shared

    def _note(self, file: OpenFile, inode: SimFile) -> OpenFile:
        self._open[file] = inode
        self.opened += 1
        return file

    async def list(self, path: bytes, view: listing.View) -> Listing:
        number, self.opens = self.opens, self.opens + 1
        _happen(self.at_open.get(number))
        await self._take(self.open_latency)
        inode = SimFile(self.rendered(path, view))
        file = OpenFile(self._descriptor(inode), inode.status, Gate.MEMORY)
        return Listing(self._note(file, inode), self.digest(inode.content))

    def rendered(self, path: bytes, view: listing.View) -> bytes:
        """The directory at this path. Raises OSError."""
        prefix = path + b"/" if path else b""
        names = {each[len(prefix) :] for each in self.entries if each.startswith(prefix)}
        if not names and path not in self.entries:
            raise _failure(errno.ENOENT)
        entries = {each.partition(b"/")[0]: b"/" in each for each in names if each}
        found = [listing.Entry(name, is_folder, 0, _DATE) for name, is_folder in entries.items()]
        return b"".join(view.render(path, view.arranged(found), False))

    @staticmethod
    def digest(content: bytes) -> bytes:
        """What a listing is known by."""
        return b"%x" % zlib.crc32(content)

    def explain(self) -> str:
        """What the log says of it."""
        return "gate simulated"

    def close(self, file: OpenFile) -> None:
        del self._open[file]
        file.descriptor.release()
        self.closed += file.descriptor.is_released


def _happen(happening: Happening | None) -> None:
    if isinstance(happening, BaseException):
        raise happening
    if happening is not None:
        happening()


def _failure(number: int) -> OSError:
    """An OSError as the kernel would make it."""
    return OSError(number, os.strerror(number))


# ------------------------------------------------------------------ clients


class Response(NamedTuple):
    """An answer; the names in `headers` are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection, in memory. `stream` is its end, for whatever else is to be sent.

    It is for one task, and asks one thing after the other.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def get(self, target: str, headers: Mapping[str, str] | None = None) -> Response:
        """As `request`."""
        return await self.request("GET", target, headers)

    async def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """Send a request, and receive the whole answer. Its Host is "localhost", if `headers` do
        not say, and its Content-Length that of the body.

        A checkpoint; when it is cancelled, nothing more can be asked on this connection. Raises
        h11.RemoteProtocolError for an answer that is malformed, cut off, or does not come;
        h11.LocalProtocolError for a request that HTTP does not know, and after the last answer.
        """
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        length = {"Content-Length": str(len(body))} if body else {}
        fields = list(({"Host": "localhost"} | length | dict(headers or {})).items())
        head = self._http.send(h11.Request(method=method, target=target, headers=fields))
        data = self._http.send(h11.Data(data=body)) if body else b""
        end = self._http.send(h11.EndOfMessage())
        with contextlib.suppress(trio.BrokenResourceError):  # it may have answered all the same
            await self.stream.send_all((head or b"") + (data or b"") + (end or b""))
        return await self._receive()

    async def _receive(self) -> Response:
        answer: h11.Response | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._receive_some())
            elif isinstance(event, h11.Response):
                answer = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert answer
                headers = {name.decode(): value.decode("latin-1") for name, value in answer.headers}
                return Response(answer.status_code, headers, bytes(body))

    async def _receive_some(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some())
        except trio.BrokenResourceError:
            return b""


class Served:
    """Sites at work; `sites` are what `trio_amped.open_sites` gives, and `stats` their counters."""

    def __init__(self, sites: Sites, nursery: trio.Nursery) -> None:
        self.sites = sites
        self.stats = sites.stats
        self._nursery = nursery

    def connect(self) -> Client:
        """A new client. Its connection is served until both have had enough."""
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(handle_connection, theirs, self.sites)
        return Client(ours)


@contextlib.asynccontextmanager
async def serving(config: Config, *disks: SimDisk) -> AsyncIterator[Served]:
    """`async with serving(config, disk) as served`: the sites of a config, each on a disk.

    All of it is in one task's nursery: entering is a checkpoint, and leaving ends the connections,
    after which no file is open. What the body raises leaves in an ExceptionGroup. Raises ValueError
    if there are not as many disks as sites.
    """
    if len(disks) != len(config.all_sites):
        raise ValueError(f"a disk for each site is needed: {len(config.all_sites)}")
    for disk in disks:
        disk.disk_timeout = config.disk_timeout
    router = Router(config, disks)
    async with contextlib.AsyncExitStack() as stack:
        await router.introduce()
        await stack.enter_async_context(router.swept())
        nursery = await stack.enter_async_context(trio.open_nursery())
        yield Served(Sites(config, Stats(), router), nursery)
        nursery.cancel_scope.cancel()
