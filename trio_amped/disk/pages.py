"""The page gate: is the next window of an open file in memory? Never waits for the disk.

Where the answer is "don't know", it is "no": a helper loads the window then.
"""

import dataclasses
import enum
import errno
import math
import os
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from ..config import GateMode
from . import kernel
from .descriptors import Descriptor
from .jobs import Job
from .loading import BLOCK
from .opening import Opened, Status

WINDOW: Final = 512 * 1024  # bytes: what one helper loads at a time, and one answer covers
LARGEST_WINDOW: Final = 4 * 2**20  # bytes: the same where the disk is fast
QUICK: Final = 0.02  # seconds for a window: the next one is larger
SLOW: Final = 0.1  # seconds for a window: the next one is smaller, since others wait for the disk
# Seconds that an answer about pages is believed: after that they may have been evicted again.
FRESH: Final = 0.1
# ns since the ctime: a file that was changed later may be written now, and its lock be held.
# Dirty pages are written back after as long (vm.dirty_expire_centisecs).
RECENT: Final = 30 * 10**9
_BLOCKS: Final = 32_768  # at most so many are remembered: 2 GiB
_REMEMBERED: Final = 600.0  # seconds: after that even the file's extents may have been evicted


class Gate(enum.StrEnum):
    """Who answers for a file's pages."""

    MINCORE = "mincore"  # the kernel, by a mapping that is never dereferenced
    NOWAIT = "nowait"  # the kernel, by a read that refuses to wait
    ALWAYS = "always"  # nobody: every window goes to a helper
    MEMORY = "memory"  # the file system keeps its files nowhere else
    NEVER = "never"  # nobody is asked: the event loop waits (SPED)


class FileChanged(Exception):
    """The file was truncated or rewritten while it was being sent: nothing honest can follow."""


@dataclasses.dataclass(slots=True, eq=False)
class OpenFile:
    """An open file: descriptor and metadata together, so that they cannot differ.

    Whoever got it from a disk gives it back by that disk's `close`.
    """

    descriptor: Descriptor
    status: Status
    gate: Gate
    # Its bytes come from `read` alone: the event loop may not use the descriptor (FUSE, network).
    is_by_copy: bool = False
    # The first window is a helper's whatever the gate says: it takes the wait for the journal.
    must_load_first: bool = False
    # It had a strong validator when it was opened: then no other version of it may follow.
    is_settled: bool = True
    is_cold: bool = False  # a window of it was a miss: ask for the next one ahead of need
    window: int = WINDOW  # bytes that are loaded at a time
    ahead: Job | None = None
    mapping: kernel.ShadowMapping | None = None
    # A read of it, and sendfile, may wait for a writer also where all is in memory (XFS).
    locks_reads: bool = False
    # It is one of those, and was changed lately: only a read that refuses to wait may be tried.
    may_be_locked: bool = False
    # The status when it was last found to have the content that was opened (`check`).
    checked: Status = dataclasses.field(init=False)
    # What every use of a kept file needs, at hand: to follow references costs cache misses.
    fd: int = dataclasses.field(init=False)
    size: int = dataclasses.field(init=False)
    ctime_ns: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.fd = self.descriptor.fd
        self.size, self.ctime_ns = self.status.size, self.status.ctime_ns
        self.checked = self.status

    def shared(self) -> "OpenFile":
        """The same for one more user, who has a mapping of its own."""
        shared = OpenFile(
            self.descriptor.hold(),
            self.status,
            self.gate,
            self.is_by_copy,
            self.must_load_first,
            self.is_settled,
            self.is_cold,
            self.window,
            self.ahead.hold() if self.ahead else None,
            locks_reads=self.locks_reads,
            may_be_locked=self.may_be_locked,
        )
        shared.checked = self.checked
        return shared

    def note_change(self, ctime_ns: int) -> None:
        """Whoever writes a file changes its ctime first: judge by it whether one is at work.

        A ctime that lies a little ahead is of a clock that was set back since.
        """
        if self.locks_reads:
            self.may_be_locked = abs(time.time_ns() - ctime_ns) < RECENT

    def renew(self) -> None:
        """Take it for what it is now, if it was changed. For a file that is not by copy."""
        now = os.fstat(self.fd)
        self.note_change(now.st_ctime_ns)
        if now.st_ctime_ns == self.ctime_ns and now.st_size == self.size:
            return
        self.status = Status.of(self.fd)
        self.size, self.ctime_ns = self.status.size, self.status.ctime_ns
        self.checked = self.status
        if self.mapping:
            self.mapping.close()
            self.mapping = None

    def window_at(self, offset: int) -> int:
        """The end of the window that an offset is in; they are aligned, so that readers share."""
        return offset - offset % self.window + self.window

    def note_load(self, job: Job) -> None:
        """Load as much at a time as the disk delivers in a short while."""
        self.is_cold = True
        if job.seconds > SLOW:
            self.window = max(WINDOW, self.window // 2)
        elif job.seconds < QUICK and job.order.length >= self.window:
            self.window = min(LARGEST_WINDOW, self.window * 2)

    def check(self, now: Status) -> None:
        """Raises FileChanged when this status is that of another version of the file.

        A file that was being written when it was opened, and grew since, is taken for a log: what
        it had is still there, and its validator is a weak one. An mtime can be put back after a
        write, so the ctime counts as well, but where chmod, chown, link, unlink or a rename over
        the file explain that it has moved: those leave the content alone.
        """
        opened, before = self.status, self.checked
        if (now.size, now.mtime_ns) != (opened.size, opened.mtime_ns):
            if now.size <= opened.size or self.is_settled:
                raise FileChanged
        elif now.ctime_ns != before.ctime_ns and now.access == before.access:
            raise FileChanged
        self.checked = now

    @property
    def version(self) -> tuple[int, ...]:
        return self.status.version


class PageGate:
    """Answers for the pages of open files; `mode` is the user's choice of who does."""

    def __init__(self, mode: GateMode) -> None:
        self._mode = mode
        self._loaded = _Loaded()
        self._refused_nowait: set[int] = set()  # devices; learned by trying
        self._scratch = memoryview(bytearray(BLOCK))

    def choose(self, opened: Opened) -> Gate:
        """Who answers for this file. Decided by ownership and capability: a lie looks true."""
        status, volume = opened.status, opened.volume
        if self._mode == "never":
            return Gate.NEVER
        if self._mode == "always" or volume.is_remote:
            return Gate.ALWAYS
        if volume.is_memory:
            return Gate.MEMORY
        if self._mode != "nowait" and _is_told_the_truth(opened):
            return Gate.MINCORE
        if self._mode != "mincore" and status.device not in self._refused_nowait:
            return Gate.NOWAIT
        return Gate.ALWAYS

    def resident(self, file: OpenFile, offset: int, length: int) -> int:
        """How many bytes from `offset` on are in memory without a gap, at most `length`.

        Raises FileChanged when the file is not what it was, OSError.
        """
        return self.resident_now(file, offset, self.clamp(file, offset, length))

    def resident_now(self, file: OpenFile, offset: int, length: int) -> int:
        """The same for whatever the file is by now: pages that it has lost may count."""
        if file.must_load_first:
            return 0
        match file.gate:
            case Gate.MINCORE:
                return self._ask_mincore(file, offset, length)
            case Gate.NOWAIT:
                return self._read_nowait(file, offset, length)
            case Gate.ALWAYS:
                return 0
            case Gate.MEMORY | Gate.NEVER:
                return length

    def clamp(self, file: OpenFile, offset: int, length: int) -> int:
        """`length`, cut off at the end that the file has now. Raises FileChanged, OSError.

        mincore still reports the pages of a truncated file, and sendfile sends nothing then.
        """
        now = os.fstat(file.fd)
        if now.st_ctime_ns != file.checked.ctime_ns or now.st_size != file.size:
            file.check(Status.read(now))
        file.note_change(now.st_ctime_ns)
        if now.st_size <= offset:
            raise FileChanged
        return min(length, now.st_size - offset)

    def read(self, file: OpenFile, offset: int, length: int) -> bytes:
        """Read bytes that are in memory. Never waits, also not for a writer. Raises OSError.

        None of them: the file ends before `offset`; or, where it `locks_reads`, a helper must
        read them, since a load that succeeds does not say that the lock is free by now.
        """
        if not file.locks_reads:
            return os.pread(file.fd, length, offset)
        if self.goes_by_ctime(file):
            return b"" if file.may_be_locked else os.pread(file.fd, length, offset)
        buffer = bytearray(length)
        try:
            count = os.preadv(file.fd, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return b""
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._refused_nowait.add(file.status.device)
            return self.read(file, offset, length)
        return bytes(memoryview(buffer)[:count])

    def goes_by_ctime(self, file: OpenFile) -> bool:
        """Whether the ctime alone says if a read may wait for a writer: it cannot be refused."""
        return file.locks_reads and file.status.device in self._refused_nowait

    def _ask_mincore(self, file: OpenFile, offset: int, length: int) -> int:
        try:
            if file.mapping is None:
                file.mapping = kernel.ShadowMapping(file.fd, file.status.size)
            return file.mapping.resident(offset, length)
        except OSError:  # it cannot be mapped (no address space, ENODEV): "don't know"
            file.gate = Gate.ALWAYS
            return 0

    def _read_nowait(self, file: OpenFile, offset: int, length: int) -> int:
        # Only what a helper has loaded before: on a cold file RWF_NOWAIT starts read-ahead, and
        # that may wait for the file's extent blocks (18 s were measured on a hung disk).
        if not self._loaded.holds(file.version, offset, length):
            return 0
        # Into the same small buffer again and again: what is read is not wanted.
        blocks, rest = divmod(length, BLOCK)
        buffers = [self._scratch] * blocks + [self._scratch[:rest]]
        try:
            return os.preadv(file.fd, buffers, offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._refused_nowait.add(file.status.device)
            file.gate = Gate.ALWAYS
            return 0

    def is_known_cold(self, file: OpenFile, offset: int, length: int) -> bool:
        """Whether a helper should load this ahead of need; asks only what costs little."""
        match file.gate:
            case Gate.NOWAIT:
                return not self._loaded.holds(file.version, offset, length)
            case _:
                return self.resident(file, offset, length) < length

    def note_loaded(self, file: OpenFile, offset: int, length: int) -> None:
        """A helper has loaded this part of the file."""
        file.must_load_first = False
        if file.gate is Gate.NOWAIT:
            self._loaded.add(file.version, offset, length)

    def explain(self, root: Opened) -> str:
        """One line for the log: who answers for the files of this root, and why."""
        # That it may write the root says nothing of the files: judge by their likely owner.
        is_owner = kernel.owns(root.status.uid)
        gate, name, mode = self.choose(root), root.volume.name, self._mode
        if gate is Gate.MINCORE and not is_owner:
            gate = Gate.NOWAIT if mode == "auto" else Gate.ALWAYS
        uid, owner = os.geteuid(), root.status.uid
        if mode == "never":
            return "never: the event loop itself waits for the disk, as --gate never asks"
        if mode == "always":
            return "always: a helper reads every window first, as --gate always asks"
        match gate:
            case Gate.MEMORY:
                return f"memory: {name} keeps its files nowhere else"
            case Gate.MINCORE if kernel.has_fowner():
                return f"mincore: the kernel tells it about any file, by CAP_FOWNER ({name})"
            case Gate.MINCORE:
                return f"mincore: the kernel tells uid {uid} about the files it owns ({name})"
        if root.volume.is_remote:
            return f"always: any call may wait on {name}, so helpers open, read and close"
        has_nowait = name not in _WITHOUT_NOWAIT
        if mode == "nowait" and has_nowait:
            return f"nowait after a helper's first touch, as --gate nowait asks ({name})"
        if mode == "nowait":
            return f"always: {name} has no reads that refuse to wait, as --gate nowait asks for"
        stranger = f"mincore tells uid {uid} nothing true about files of uid {owner}"
        remedy = f"to spare helpers, chown the files to uid {uid}"
        if not kernel.may_ask_mincore():
            stranger = "a filter of system calls forbids mincore"
            remedy = "to spare helpers, allow it (systemd: SystemCallFilter=mincore)"
        if mode == "mincore":
            return f"always: {stranger}, and --gate mincore asks for no other; {remedy}"
        if has_nowait:
            return f"nowait after a helper's first touch: {stranger} ({name}); {remedy}"
        return f"always: {stranger}, and there is no other gate on {name}; {remedy}"


# Known for the log alone; what counts is what trying shows.
_WITHOUT_NOWAIT: Final = frozenset(("overlayfs", "fuse"))


def _is_told_the_truth(opened: Opened) -> bool:
    """Return whether mincore answers this process about the file, honestly (since Linux 5.2)."""
    if not kernel.may_ask_mincore():
        return False
    if kernel.owns(opened.status.uid):
        return True
    # A stacked file system answers for its own inode, mincore for the one below.
    return not opened.volume.is_stacked and kernel.may_write(opened.descriptor)


class _Loaded:
    """Which blocks of which versions of files helpers have loaded; the oldest is forgotten."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[Hashable, float] = OrderedDict()  # when, in monotonic seconds

    def add(self, version: Hashable, offset: int, length: int) -> None:
        for block in _blocks(offset, length):
            self._blocks[version, block] = time.monotonic()
            self._blocks.move_to_end((version, block))
        while len(self._blocks) > _BLOCKS:
            self._blocks.popitem(last=False)

    def holds(self, version: Hashable, offset: int, length: int) -> bool:
        since = time.monotonic() - _REMEMBERED
        return all(
            self._blocks.get((version, block), -math.inf) >= since
            for block in _blocks(offset, length)
        )


def _blocks(offset: int, length: int) -> range:
    return range(offset // BLOCK, (offset + length - 1) // BLOCK + 1)
