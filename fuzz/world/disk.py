"""A disk that answers, waits, fails and changes as it was planned, call by call."""

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from unittest import mock

import trio
from hypothesis import strategies as st

from fuzz.tally import note
from tests.reference import Form
from tests.simulated import DAY, DIRECTORY, NANO, NOW, failure
from trio_amped.disk.descriptors import Descriptor
from trio_amped.disk.interface import FileChanged, Listing, OpenFile, Stamp, WouldWait
from trio_amped.semantics.listing import NOTHING, View
from trio_amped.semantics.validators import TagKind
from trio_amped.testing import Entry, SimDisk, SimFile

_BELIEVED: Final = 0.1  # seconds; a page that was in memory so lately is not evicted yet
PATIENCE: Final = 30.0  # seconds; then the disk itself gives up, see Config.disk_timeout

OPENING: Final = (
    *("EIO", "ENOENT", "EACCES", "ELOOP", "EXDEV", "ENXIO", "ENOTDIR", "ENAMETOOLONG"),
    *("EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "ESTALE", "ETIMEDOUT", "EUCLEAN", "EBADMSG"),
)
READING: Final = ("EIO", "ENOMEM", "EAGAIN", "ESTALE", "ETIMEDOUT", "EUCLEAN", "EBADMSG")
ERRNOS: Final = {
    "open": OPENING,
    "list": OPENING,
    "open_at_once": OPENING,
    "identify_at_once": OPENING,
    "digest_of": READING,
    "ready": READING,
    "read": READING,
    "ready_at_once": READING,
    "read_at_once": READING,
}
"""What each call can fail with: open(2), madvise(2), preadv(2), and what the helpers add."""


@dataclass(frozen=True)
class Change:
    """What somebody does to a file before the Nth call of the disk, or `after` it was answered."""

    at: int
    path: bytes
    kind: str  # "truncate", "replace", "remove"
    size: int = 0
    after: bool = False


@dataclass(frozen=True)
class Plan:
    """How a disk behaves. Each of the tuples is gone through again and again, call by call:
    whether things are in memory, how many bytes the gate vouches for, how long a miss takes."""

    resident: tuple[bool, ...] = (True,)
    reaches: tuple[int, ...] = (1 << 20,)
    latencies: tuple[float, ...] = (0.0,)
    faults: Mapping[int, str] = field(default_factory=dict)  # by number of the call
    changes: tuple[Change, ...] = ()
    cold: frozenset[bytes] = frozenset()  # files that are never in memory
    links: frozenset[bytes] = frozenset()  # names of files that are in another folder


PLANS: Final = st.builds(
    Plan,
    resident=st.just((True,)) | st.lists(st.booleans(), min_size=1, max_size=5).map(tuple),
    reaches=st.lists(st.sampled_from([1, 1000, 4096, 1 << 20]), max_size=4).map(
        lambda counts: (*counts, 1 << 16)
    ),
    latencies=st.lists(st.sampled_from([0.0, 0.5, 7.0, 29.0]), min_size=1, max_size=3).map(tuple),
)
"""Nothing fails and nothing changes: only the way is drawn on which the answers come."""


class Gates:
    """What the disks have vouched for, of each descriptor: the part, and when it was said."""

    def __init__(self) -> None:
        self._said: dict[int, list[tuple[range, float]]] = {}

    def register(self, fd: int) -> None:
        self._said[fd] = []

    def close(self, fd: int) -> None:
        del self._said[fd]
        os.close(fd)

    def vouch(self, fd: int, offset: int, count: int) -> int:
        if count and fd in self._said:
            self._said[fd].append((range(offset, offset + count), trio.current_time()))
        return count

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Whoever sends what was not vouched for fails."""
        with mock.patch.object(os, "sendfile", self._send):
            yield

    def _send(self, out: int, fd: int, offset: int, count: int) -> int:
        """The real one waits for the disk where a page is not in memory."""
        latest = trio.current_time() - _BELIEVED
        assert fd not in self._said or any(
            offset in part and offset + count <= part.stop and said >= latest
            for part, said in self._said[fd]
        ), f"a cold page may be sent: {count} bytes at {offset}"
        return _sendfile(out, fd, offset, count)


GATES: Final = Gates()
_sendfile: Final = os.sendfile


class WorldDisk(SimDisk):
    """See Plan. `calls` says what was asked, in this order; `reached` what has happened."""

    has_tasks = False  # of its own, which are not the host's to end

    def __init__(
        self,
        files: Mapping[bytes, Entry],
        plan: Plan,
        *,
        window: int = 1 << 16,
        tags: TagKind = "mtime",
    ) -> None:
        super().__init__(files, window=window)
        self.plan = plan
        self.tags: TagKind = tags
        self.calls: list[str] = []
        self.busy = 0  # jobs under way
        self.reached: set[str] = set()
        self.versions: dict[bytes, list[Form | None]] = {}  # None: there was no file
        self.listings: dict[bytes, list[bytes]] = {}  # what was shown, see reference.Files
        for path in self.entries:
            self._note_version(path)

    # ---------------------------------------------------------------- what happens to the files

    def change(self, change: Change) -> None:
        """Let it happen now."""
        if isinstance(self.entries.get(change.path), SimFile) or change.kind == "replace":
            self.versions.setdefault(change.path, [None])
            getattr(self, f"_{change.kind}")(change)
            self._note_version(change.path)

    def _truncate(self, change: Change) -> None:
        self.reached.add("truncation")
        size = min(change.size, len(self._inode(change.path).content))
        self.truncate(change.path, size)

    def truncate_descriptors(self, path: bytes, size: int) -> None:
        """By whole pages: the kernel fills the rest of a page with zeros, also where that page is
        in a socket's queue. It is a known limit (docs/design.md, "No answer of two versions")."""
        super().truncate_descriptors(path, size - size % mmap.PAGESIZE)

    def _replace(self, change: Change) -> None:
        """By a rename, of a file as old as others: nothing but its inode and size tell."""
        self.reached.add("replacement")
        pattern = b"%d," % len(self.versions[change.path])
        content = (pattern * change.size)[: change.size]
        mtime_ns = (NOW - DAY) * NANO + change.size
        self.entries[change.path] = SimFile(content, mtime_ns=mtime_ns)

    def _remove(self, change: Change) -> None:
        self.reached.add("replacement")
        del self.entries[change.path]

    def _note_version(self, path: bytes) -> None:
        inode = self.entries.get(path)
        version = None
        if isinstance(inode, SimFile) and inode.mode != DIRECTORY:
            version = self.form(inode)
        self.versions.setdefault(path, []).append(version)

    def form(self, inode: SimFile) -> Form:
        """What the reference knows of a file."""
        return Form(inode.content, inode.mtime_ns, tags=self.tags)

    # ---------------------------------------------------------------- each call

    def _descriptor(self, inode: SimFile) -> Descriptor:
        """One of which `GATES` knows what may be sent."""
        fd = super()._descriptor(inode).fd
        if fd >= 0:
            GATES.register(fd)
            return Descriptor(fd, GATES.close)
        return Descriptor(fd, lambda _: None)

    def _begin(self, call: str) -> int:
        """Count a call, with all that is due before it. Raises OSError, FileChanged."""
        number = len(self.calls)
        self.calls.append(call)
        self._happen(number, after=False)
        fault = self.plan.faults.get(number)
        if fault is not None:
            self.reached.add("fault")
            note("fault", call, fault)
            raise failure(getattr(errno, fault))
        return number

    def _happen(self, number: int, *, after: bool) -> None:
        for change in self.plan.changes:
            if (change.at, change.after) == (number, after):
                self.change(change)

    def _is_resident(self, number: int, inode: SimFile | None, path: bytes | None = None) -> bool:
        cold = [self.entries.get(each) for each in self.plan.cold]
        is_cold = path in self.plan.cold or (inode is not None and inode in cold)
        is_resident = not is_cold and self.plan.resident[number % len(self.plan.resident)]
        if not is_resident:
            self.reached.add("miss")
        return is_resident

    async def _wait(self, number: int, inode: SimFile | None, path: bytes | None = None) -> None:
        """A job for a helper, where there must be one. Raises TimeoutError."""
        if self._is_resident(number, inode, path):
            return
        latency = self.plan.latencies[number % len(self.plan.latencies)]
        self.busy += 1
        try:
            await trio.sleep(min(latency, PATIENCE))
        finally:
            self.busy -= 1
        if latency >= PATIENCE:
            raise failure(errno.ETIMEDOUT)

    def _reach(self, number: int, count: int) -> int:
        return min(count, self.plan.reaches[number % len(self.plan.reaches)])

    async def open(self, path: bytes) -> OpenFile:
        number = self._begin("open")
        await self._wait(number, None, path)
        file = await super().open(path)
        self._happen(number, after=True)
        return file

    async def list(self, path: bytes, view: View) -> Listing:
        number = self._begin("list")
        await self._wait(number, None, path)
        return await super().list(path, view)

    def rendered(self, path: bytes, view: View) -> bytes:
        """Noted as one more version of the listing; what HEAD does not ask for, as it would be."""
        plain = View() if view == NOTHING else view._replace(coding="")
        for ending, coding in ((b"", ""), (b".gz", "gzip")):
            shown = super().rendered(path, plain._replace(coding=coding))
            name = (path + b"/" if path else b"") + ending
            self.listings.setdefault(name, []).append(shown)
        return super().rendered(path, view)

    async def ready(self, file: OpenFile, offset: int, end: int) -> int:
        number = self._begin("ready")
        await self._wait(number, self._open[file])
        count = await super().ready(file, offset, end)
        self._happen(number, after=True)
        return GATES.vouch(file.fd, offset, self._reach(number, count))

    async def read(self, file: OpenFile, offset: int, end: int) -> bytes:
        number = self._begin("read")
        await self._wait(number, self._open[file])
        count = self._reach(number, await super().ready(file, offset, end))
        data = self._open[file].content[offset : offset + count]
        self._happen(number, after=True)
        return data

    async def digest_of(self, file: OpenFile) -> bytes:
        number = self._begin("digest_of")
        await self._wait(number, self._open[file])
        made = await super().digest_of(file)
        self._happen(number, after=True)
        return made

    def open_at_once(self, path: bytes) -> OpenFile:
        number = self._begin("open_at_once")
        if not self._is_resident(number, None, path):
            raise WouldWait
        return super().open_at_once(path)

    def identify_at_once(self, path: bytes, *, follow: bool = True) -> tuple[int, int]:
        number = self._begin("identify_at_once")
        is_known = self._is_resident(number, None, path)
        if not is_known or (path in self.plan.links and not follow):
            raise WouldWait
        return super().identify_at_once(path, follow=follow)

    def stamp_at_once(self, path: bytes) -> Stamp:
        """Another one for each change in a folder; it does not know what becomes of a link's."""
        inodes = [
            inode.inode
            for name, inode in sorted(self.entries.items())
            if isinstance(inode, SimFile) and name not in self.plan.links
            if name.rpartition(b"/")[0] == path
        ]
        return 1, 1, hash(tuple(inodes))

    def ready_at_once(self, file: OpenFile, offset: int, end: int) -> int:
        number = self._begin("ready_at_once")
        if not self._is_resident(number, self._open[file]):
            return 0
        count = super().ready_at_once(file, offset, end)
        self._happen(number, after=True)
        return GATES.vouch(file.fd, offset, self._reach(number, count))

    def read_at_once(self, file: OpenFile, offset: int, end: int) -> bytes:
        number = self._begin("read_at_once")
        if not self._is_resident(number, self._open[file]):
            raise WouldWait
        inode = self._open[file]
        if inode.mtime_ns != file.status.mtime_ns or len(inode.content) <= offset:
            raise FileChanged
        return inode.content[offset : offset + self._reach(number, end - offset)]

    def note_combination(self, *more: str) -> None:
        """What has happened in one run is one more of its kind."""
        note("combination", "+".join(sorted(self.reached | set(more))) or "nothing")
