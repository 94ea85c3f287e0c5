"""The disk of this machine behind both gates: opens files, and says when bytes can be sent.

Awaits helpers; the event loop itself never waits for the disk here (but with `--gate never`).
"""

import contextlib
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Final

import trio

from ..config import Config
from ..semantics.listing import View
from ..stats import Stats
from . import carriers
from .descriptors import Closer, Descriptor
from .folders import Folders
from .interface import Listing
from .jobs import Job, Result
from .listings import HELPERS, Listings
from .loading import Reader, digest, widened
from .messages import MAX_READ, Operation, Order, Wish
from .opening import Opened, Status, unpack_read
from .pages import FRESH, WINDOW, FileChanged, Gate, OpenFile, PageGate
from .paths import PathGate, Stamp, WouldWait, absolute, load_key, open_root
from .pool import HelperPool
from .versions import Versions

_PROCESS_PAUSE: Final = 0.1  # seconds; a process takes 35 ms of CPU to start
_REACH: Final = 4 * 2**20  # bytes: what is asked about at once
_LISTER_NICENESS: Final = 10


@contextlib.asynccontextmanager
async def open_disk(config: Config, stats: Stats) -> AsyncIterator["LocalDisk"]:
    """The files below the root of a config for one site. Raises OSError about the root."""
    async with open_disks(config, stats) as [disk]:
        yield disk


@contextlib.asynccontextmanager
async def open_disks(config: Config, stats: Stats) -> AsyncIterator[list["LocalDisk"]]:
    """The files of each site, with helpers ready, which they share. Raises OSError about a root."""
    closer, remote_closer = Closer(), Closer()
    roots = await _open_roots(config)
    try:
        async with trio.open_nursery() as nursery:
            devices = [root.status.device for _, root in roots]
            pool = _start_pool(config, stats, remote_closer, nursery, devices)
            gates = [PathGate(config, stats, pool, path, root) for path, root in roots]
            listings = _start_listings(config, stats, closer, nursery, devices)
            pages, versions = PageGate(config.gate), Versions(config.etag)
            folders = [_start_folders(config, paths, pool, closer, nursery) for paths in gates]
            try:
                await pool.begun()
                yield [
                    LocalDisk(
                        *(config, stats, pool, closer, remote_closer),
                        *(paths, names, listings, pages, versions),
                    )
                    for paths, names in zip(gates, folders, strict=True)
                ]
            finally:
                nursery.cancel_scope.cancel()
                pool.close()
                listings.close()
                for names in folders:
                    names.clear()
                for paths in gates:
                    paths.close()
    finally:
        await closer.finish()
        await remote_closer.finish()


async def _open_roots(config: Config) -> list[tuple[bytes, Opened]]:
    """The path and the directory of each root. Raises OSError."""
    paths = [absolute(site.root) for site in config.all_sites]  # they are resolved again and again
    roots: list[tuple[bytes, Opened]] = []
    try:
        for path in paths:
            roots.append((path, await open_root(path)))
    except BaseException:
        for _, root in roots:
            os.close(root.descriptor)
        raise
    return roots


def _start_pool(
    config: Config, stats: Stats, closer: Closer, nursery: trio.Nursery, devices: list[int]
) -> HelperPool:
    is_threads = config.helpers == "thread"
    carriage = carriers.in_threads if is_threads else carriers.in_processes
    size = 0 if config.gate == "never" else config.max_helpers
    return HelperPool(
        carriage(trio.CapacityLimiter(config.max_helpers)),
        closer,
        nursery,
        stats,
        size=size,
        queue=config.max_queue,
        timeout=config.disk_timeout,
        start_pause=0 if is_threads else _PROCESS_PAUSE,
        has_own_privileges=not is_threads,
        devices=devices,
    )


def _start_listings(
    config: Config, stats: Stats, closer: Closer, nursery: trio.Nursery, devices: list[int]
) -> Listings:
    """With processes of their own, whatever the helpers are: a thread would keep the GIL."""
    size = HELPERS if any(site.listing for site in config.all_sites) else 0
    pool = HelperPool(
        carriers.in_processes(trio.CapacityLimiter(HELPERS), niceness=_LISTER_NICENESS),
        closer,
        nursery,
        Stats(),  # those of the other pool are of the helpers that files need
        size=size,
        queue=config.max_queue,
        timeout=config.disk_timeout,
        devices=devices,
    )
    return Listings(
        pool,
        closer,
        nursery,
        stats,
        max_age=config.revalidate,
        timeout=config.disk_timeout,
        queue=config.max_queue,
    )


def _start_folders(
    config: Config, paths: PathGate, pool: HelperPool, closer: Closer, nursery: trio.Nursery
) -> Folders:
    return Folders(
        paths,
        pool,
        closer,
        nursery,
        max_age=config.revalidate,
        unused_after=config.open_file_timeout,
        share=len(config.all_sites),
    )


class LocalDisk:
    """Implements interface.Disk on the kernel's files.

    Those of one server differ in their paths alone: what is open may be used with any of them.
    """

    def __init__(
        self,
        config: Config,
        stats: Stats,
        pool: HelperPool,
        closer: Closer,
        remote_closer: Closer,
        paths: PathGate,
        folders: Folders,
        listings: Listings,
        pages: PageGate,
        versions: Versions,
    ) -> None:
        self._config = config
        self._stats = stats
        self._pool = pool
        self._closer = closer
        self._remote_closer = remote_closer  # a hung mount must not hold up the other
        self._paths = paths
        self._folders = folders
        self.lacks, self.want = folders.lacks, folders.want
        self._listings = listings
        self._pages = pages
        self._versions = versions

    async def open(self, path: bytes) -> OpenFile:
        """Open a path below the root ("" is the root). Raises OSError."""
        return self._file(*await self._paths.open(path))

    async def fetch(self, path: bytes, wish: Wish) -> dict[bytes, OpenFile | OSError]:
        """Open a path below the root, and what is needed together with it. Raises OSError."""
        fetched = await self._paths.fetch(path, wish)
        files = {
            each: found if isinstance(found, OSError) else self._file(*found)
            for each, found in fetched.found.items()
        }
        file, job = files.get(fetched.part), fetched.loading
        if job and isinstance(file, OpenFile) and not job.errno:
            file.ahead = job.hold()
        return files

    def open_at_once(self, path: bytes) -> OpenFile:
        """The same without waiting. Raises WouldWait, OSError."""
        return self._file(*self._paths.open_at_once(path))

    def identify_at_once(self, path: bytes, *, follow: bool = True) -> tuple[int, int]:
        """Device and inode of what a path leads to now. Raises WouldWait, OSError.

        WouldWait as well for a symbolic link anywhere in the path that is not to be followed.
        """
        return self._paths.identify_at_once(path, follow=follow)

    def sweep(self, now: float) -> bool:
        """Forget folders that nobody has asked about lately; whether any are known still."""
        return self._folders.sweep(now)

    def stamp_at_once(self, path: bytes) -> Stamp | None:
        """What changes whenever a name in a directory does; None where that cannot be told.

        No symbolic link is followed.
        """
        return self._paths.stamp_at_once(path)

    def _file(self, opened: Opened, descriptor: Descriptor) -> OpenFile:
        descriptor.close_by(self._closing(opened))
        remote = opened.volume.is_remote and self._config.gate != "never"
        gate = self._pages.choose(opened)
        needs_gate = gate not in (Gate.NEVER, Gate.MEMORY)
        now_ns, status = time.time_ns(), opened.status
        self._stats.files_open += 1
        self._stats.gates[gate] += 1
        file = OpenFile(
            descriptor,
            status,
            gate,
            is_by_copy=remote or (needs_gate and opened.each_read_writes),
            must_load_first=needs_gate and opened.atime_is_due(now_ns),
            is_settled=self._versions.has_settled(status, now_ns / 10**9, trio.current_time()),
            locks_reads=needs_gate and opened.volume.locks_reads,
        )
        file.note_change(opened.status.ctime_ns)
        return file

    def _closing(self, opened: Opened) -> Callable[[int], None]:
        """How a descriptor is closed without waiting."""
        if opened.volume.is_remote and self._config.gate != "never":
            return self._remote_closer.close_in_thread
        return self._closer.close

    async def list(self, path: bytes, view: View) -> Listing:
        """Render the directory at a path below the root ("" is the root). Raises OSError."""
        begin, before = trio.current_time(), self._pool.starts.seconds
        opened, descriptor = await self._paths.open(path)
        descriptor.close_by(self._closing(opened))
        descriptor.release()
        if not opened.status.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        spent = trio.current_time() - begin - (self._pool.starts.seconds - before)
        rendered = await self._listings.get(
            self._paths.directory, path, opened.status, view, spent=spent
        )
        self._stats.files_open += 1
        self._stats.gates[Gate.MEMORY] += 1
        file = OpenFile(rendered.descriptor, rendered.status, Gate.MEMORY)
        return Listing(file, rendered.digest)

    async def ready(self, file: OpenFile, offset: int, end: int) -> int:
        """Wait until the bytes at `offset` are in memory: how many can be sent without waiting.

        `end` is where the sender will stop, so that the next window can be asked for ahead.
        Raises FileChanged, OSError.
        """
        stop = min(end, file.window_at(offset))
        job = self._take_ahead(file, offset)
        count = 0
        if job is None:
            count = self._pages.resident(file, offset, stop - offset)
        if count or (job and job.is_done):
            self._stats.resident += 1
        else:
            self._stats.misses += 1
        if not count:
            stop = min(stop, await self._load(file, job or self._submit_load(file, offset, stop)))
            count = self._pages.clamp(file, offset, stop - offset)
        if file.is_cold:
            self._ask_ahead(file, offset + count, end)
        return count

    def _take_ahead(self, file: OpenFile, offset: int) -> Job | None:
        """The job that was asked for ahead of need, if it tells about `offset`, and lately."""
        job = file.ahead
        if job is None or offset not in job.span:
            return None
        if job.is_done and trio.current_time() > job.finished_at + FRESH:
            self._drop_ahead(file)
            return None
        file.ahead = None
        return job

    async def _load(self, file: OpenFile, job: Job) -> int:
        """Wait for the job, which is dropped. Returns the offset up to which it has loaded."""
        await self._pool.result(job)
        file.note_load(job)
        self._pages.note_loaded(file, job.order.offset, job.order.length)
        return job.span.stop

    def _submit_load(
        self, file: OpenFile, offset: int, stop: int, *, is_ahead: bool = False
    ) -> Job:
        start, stop = widened(offset, stop, file.status.size)
        order = Order(Operation.LOAD, offset=start, length=stop - start)
        key = load_key(file.status, start, stop)
        place = file.status.device
        return self._pool.submit(order, file.descriptor, key=key, place=place, is_ahead=is_ahead)

    def _ask_ahead(self, file: OpenFile, offset: int, end: int) -> None:
        stop = min(end, file.window_at(offset))
        if offset >= stop or (file.ahead and offset in file.ahead.span):
            return
        if self._pages.is_known_cold(file, offset, stop - offset):
            self._drop_ahead(file)
            with contextlib.suppress(BlockingIOError):
                file.ahead = self._submit_load(file, offset, stop, is_ahead=True)

    def _drop_ahead(self, file: OpenFile) -> None:
        if file.ahead:
            file.ahead.drop()
            file.ahead = None

    async def read(self, file: OpenFile, offset: int, end: int) -> bytes:
        """The next bytes of the file, at most a window and not past `end`; never none.

        For streams that cannot sendfile. Raises FileChanged, OSError.
        """
        if file.is_by_copy:
            key = Operation.READ, file.fd, offset, end
            now, data = await self._read_by_helper(file, offset, end - offset, key)
            file.check(now)
            if not data:
                raise FileChanged
            return data
        return await self.copy(file, offset, offset + await self.ready(file, offset, end))

    async def copy(self, file: OpenFile, offset: int, end: int) -> bytes:
        """Read bytes that `ready` has just promised; fewer where the file has been cut off.

        Raises FileChanged when it is another version, or ends before `offset`; OSError.
        """
        count = self._pages.clamp(file, offset, end - offset)
        data = self._pages.read(file, offset, count)
        if not data and file.locks_reads:
            now, data = await self._read_locked(file, offset, count)
            file.check(now)
        if not data:
            raise FileChanged
        return data

    async def _read_locked(self, file: OpenFile, offset: int, count: int) -> tuple[Status, bytes]:
        """Have a helper wait for the lock of a file, and read: all who want the same share it.

        The bytes themselves come from it: after a load the lock may be held again, for ever.
        """
        key = Operation.READ, file.version, offset, count
        return await self._read_by_helper(file, offset, count, key)

    async def digest_of(self, file: OpenFile) -> bytes:
        """A digest of all bytes of a file that `is_settled`; b"" if it has changed since.

        It is known from now on: the file was the version that was opened after it was read, as it
        was before, and whoever has written meanwhile has moved its ctime. All who need the same
        wait for one helper; what it finds out after they have given up is for the next one.
        Raises OSError.
        """
        if (known := self.known_digest(file)) is not None:
            return known
        if file.gate is Gate.NEVER:
            made = digest(file.fd, file.size, Reader().load)
            return self._versions.note_digest(file.status, Status.of(file.fd), made)
        return await self._digest_by_helper(file, file.status)

    async def _digest_by_helper(self, file: OpenFile, opened: Status) -> bytes:
        def note(result: Result) -> bytes:
            return self._versions.note_digest(opened, *unpack_read(result.content))

        self._stats.misses += 1
        order, key = Order(Operation.DIGEST, length=opened.size), (Operation.DIGEST, opened.version)
        job = self._pool.submit(
            order, file.descriptor, key=key, place=opened.device, on_result=note
        )
        return note(await self._pool.result(job))

    def known_digest(self, file: OpenFile) -> bytes | None:
        """As `digest_of`, if that is known."""
        return self._versions.digest(file.status)

    async def open_anywhere(self, path: bytes) -> OpenFile:
        """Open any file by its own path, links followed. Raises OSError."""
        return self._file(*await self._paths.open_anywhere(path))

    async def read_now(self, file: OpenFile, offset: int, count: int) -> bytes:
        """What the file has now, at most a window of it; b"" at its end. Raises OSError."""
        if file.is_by_copy:
            _, data = await self._read_by_helper(file, offset, count)
            return data
        while True:
            # As far as we know; and where only the ctime says whether a writer is at work.
            if offset + count > file.size or self._pages.goes_by_ctime(file):
                file.renew()
            end = min(offset + count, file.size)
            if end <= offset:
                return b""
            resident = self._pages.resident_now(file, offset, min(end - offset, WINDOW))
            if resident and (data := self._pages.read(file, offset, resident)):
                self._stats.resident += 1
                return data
            with contextlib.suppress(FileChanged):
                count = await self.ready(file, offset, end)
                if data := self._pages.read(file, offset, count):
                    return data
                if file.locks_reads:
                    _, data = await self._read_locked(file, offset, count)
                    return data
            file.renew()

    async def _read_by_helper(
        self, file: OpenFile, offset: int, count: int, key: Hashable = None
    ) -> tuple[Status, bytes]:
        """The status of the file, and the bytes."""
        self._stats.misses += 1
        order = Order(Operation.READ, offset=offset, length=min(count, MAX_READ))
        place = file.status.device
        job = self._pool.submit(order, file.descriptor, key=key, place=place)
        result = await self._pool.result(job)
        return unpack_read(result.content)

    def is_unchanged(self, file: OpenFile) -> bool:
        """Whether it is open, and the version that was opened. Cannot wait: its inode is in memory.

        Nobody can change a file without its ctime, nor set that; utimensat(2), inode(7).
        """
        if file.fd < 0:
            return False
        try:
            found = os.fstat(file.fd)
        except OSError:  # whoever opens the file anew is told
            return False
        return found.st_ctime_ns == file.ctime_ns and found.st_size == file.size

    def ready_at_once(self, file: OpenFile, offset: int, end: int) -> int:
        """How many bytes at `offset` can be sent without waiting: 0 is "don't know".

        Raises FileChanged, OSError.
        """
        # To ask about much is cheap where nothing is copied (8 us for 16 MiB).
        reach = WINDOW if file.gate is Gate.NOWAIT else _REACH
        count = self._pages.resident(file, offset, min(end - offset, reach))
        if file.may_be_locked:  # who sends it must read, or have a helper read: see `read`
            return 0
        self._stats.resident += bool(count)
        return count

    def read_at_once(self, file: OpenFile, offset: int, end: int) -> bytes:
        """As `read`, of a file that has just been found unchanged.

        Raises WouldWait, FileChanged, OSError.
        """
        count = self._pages.resident_now(file, offset, min(end - offset, WINDOW))
        file.note_change(file.ctime_ns)
        data = self._pages.read(file, offset, count) if count else b""
        if not count or (not data and file.locks_reads):
            raise WouldWait
        self._stats.resident += 1
        if len(data) < count and not file.locks_reads:
            raise FileChanged  # mincore still reports the pages of a file that was cut off
        return data

    def share(self, file: OpenFile) -> OpenFile:
        """The same open file for one more user, who closes it as well."""
        self._stats.files_open += 1
        return file.shared()

    def close(self, file: OpenFile) -> None:
        """Give an open file back. Never waits."""
        self._stats.files_open -= 1
        self._drop_ahead(file)
        if file.mapping:
            file.mapping.close()
        file.fd = -1
        file.descriptor.release()

    def explain(self) -> str:
        """One line for the log: which gates and helpers serve this root, and why."""
        gate = self._pages.explain(self._paths.root)
        if self._config.gate == "never":
            return f"gate {gate}"
        paths, volume = "by helpers", self._paths.root.volume
        if self._paths.asks_caches:
            paths = "from the kernel's caches"
            if not volume.dates_names:
                paths += (
                    f" (each name that is not there by a helper: {volume.name} does not date the "
                    "names in a folder; ext4, XFS, Btrfs and tmpfs do)"
                )
        helpers = f"at most {self._config.max_helpers} {self._config.helpers} helpers"
        return f"gate {gate}; files are opened {paths}; {helpers}"
