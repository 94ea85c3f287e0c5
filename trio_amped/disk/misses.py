"""A miss as a value: what must be waited for before the same question is asked again. Awaits.

Code that finds an answer never waits. Where it would have to, it raises `Miss`; whoever can wait
does so, and then runs the same code again:

    with Arrivals() as came:
        found = await answered(lambda: root.find(asked, target, came), came)
"""

import errno
import math
import os
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Self, TypeAlias, TypeVar

import trio

from ..semantics.errors import HttpError, status_of_errno
from ..semantics.listing import View
from .interface import FileChanged, Listing, OpenFile, PromptDisk, Wish

Result = TypeVar("Result")
_TRIES: Final = 32  # misses of one request: a file, its sidecars, a listing, pages

Arrival: TypeAlias = OpenFile | Listing | bytes | OSError | FileChanged
"""`bytes`: a digest."""


def _close(disk: PromptDisk, arrival: Arrival) -> None:
    if isinstance(arrival, (OpenFile, Listing)):
        disk.close(arrival.file if isinstance(arrival, Listing) else arrival)


class Arrivals:
    """What misses have brought for one request, which holds all of it until its answer has ended.

    So the answer is made of what was waited for, however soon others evict it; and a result of a
    file system that may change unseen (FUSE, network) serves those who waited for it, once.
    """

    def __init__(self) -> None:
        self.made: dict[Hashable, Any] = {}
        """What others have made of it, and can use as long as it is here."""
        self._here: dict[tuple[PromptDisk, Hashable], tuple[PromptDisk, Arrival]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Give back all that is here."""
        if self._here or self.made:
            for disk, arrival in self._here.values():
                _close(disk, arrival)
            self._here.clear()
            self.made.clear()

    @property
    def count(self) -> int:
        """How many answers are here."""
        return len(self._here)

    def copy(self) -> "Arrivals":
        """Return the same for one more user, who lets go of it as well."""
        copy = Arrivals()
        for (_, key), (disk, arrival) in self._here.items():
            if isinstance(arrival, Listing):
                arrival = arrival._replace(file=disk.share(arrival.file))
            elif isinstance(arrival, OpenFile):
                arrival = disk.share(arrival)
            copy.put(disk, key, arrival)
        return copy

    def get(self, disk: PromptDisk, key: Hashable) -> Arrival | None:
        """Return what has come of a question to a disk; None: nothing yet."""
        found = self._here.get((disk, key))
        return found[1] if found else None

    def put(self, disk: PromptDisk, key: Hashable, arrival: Arrival) -> None:
        """Keep an arrival, which is closed at the end; one that is here already stays."""
        if self._here.setdefault((disk, key), (disk, arrival))[1] is not arrival:
            _close(disk, arrival)

    def hold(self, disk: PromptDisk, file: OpenFile) -> OpenFile:
        """Return a file that stays open until the end, whoever else closes theirs."""
        for _, arrival in self._here.values():
            if arrival is file or (isinstance(arrival, Listing) and arrival.file is file):
                return file
        shared = disk.share(file)
        self.put(disk, shared, shared)
        return shared


class Miss(Exception):
    """Raised where something would have to be waited for: `fill` it, and ask again.

    Each is a fresh object: one that thousands of tasks raise would keep all their frames alive.
    `patience`: seconds after which there is no answer, for questions that are not asked in earnest.
    """

    def __init__(self, disk: PromptDisk, key: Hashable) -> None:
        super().__init__()
        self.patience = math.inf
        self._disk = disk
        self._key = key

    @property
    def question(self) -> Hashable:
        """What is asked of which disk: one answer is for all whose question is the same."""
        return self._disk, self._key, self.patience

    def hold(self, came: Arrivals) -> None:
        """Keep open what the question is about, until it is asked and `came` has ended."""

    def is_late(self, came: Arrivals) -> bool:
        """Return whether it was waited for, and the time for the answer has passed."""
        arrival = came.get(self._disk, self._key)
        return isinstance(arrival, OSError) and arrival.errno == errno.ETIMEDOUT

    async def fill(self, came: Arrivals) -> None:
        """Wait for what the disk says, be it an error. A checkpoint."""
        if self.patience == math.inf:  # to make a cancel scope is costly
            await self._bring(came)
            return
        with trio.move_on_after(self.patience) as patience:
            await self._bring(came)
        if patience.cancelled_caught:
            came.put(self._disk, self._key, OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))

    async def _bring(self, came: Arrivals) -> None:
        try:
            brought: Iterable[tuple[Hashable, Arrival]] = await self._ask()
        except OSError as error:
            brought = [(self._key, error)]
        for key, arrival in brought:
            came.put(self._disk, key, arrival)

    async def _ask(self) -> Iterable[tuple[Hashable, Arrival]]:
        raise NotImplementedError


class FileMiss(Miss):
    """A path that a helper must open; `wish` says what is needed together with it."""

    def __init__(self, disk: PromptDisk, path: bytes) -> None:
        super().__init__(disk, path)
        self.path = path
        self.wish = Wish()

    async def _ask(self) -> Iterable[tuple[Hashable, Arrival]]:
        return (await self._disk.fetch(self.path, self.wish)).items()


class ListingMiss(Miss):
    """A directory that a helper must render."""

    def __init__(self, disk: PromptDisk, path: bytes, view: View) -> None:
        super().__init__(disk, (path, view))
        self._path = path
        self._view = view

    async def _ask(self) -> Iterable[tuple[Hashable, Arrival]]:
        return [(self._key, await self._disk.list(self._path, self._view))]


class DigestMiss(Miss):
    """The digest of an open file, for which a helper must read all of it."""

    def __init__(self, disk: PromptDisk, file: OpenFile) -> None:
        super().__init__(disk, ("digest", file.status.version))
        self._file = file

    def hold(self, came: Arrivals) -> None:
        """Others may close the file before it is asked for its digest."""
        self._file = came.hold(self._disk, self._file)

    async def _bring(self, came: Arrivals) -> None:
        self.hold(came)
        await super()._bring(came)

    async def _ask(self) -> Iterable[tuple[Hashable, Arrival]]:
        return [(self._key, await self._disk.digest_of(self._file))]

    def result(self, came: Arrivals | None) -> bytes:
        """Return what was waited for. Raises itself if it was not, HttpError if that has failed."""
        arrival = came.get(self._disk, self._key) if came is not None else None
        if isinstance(arrival, bytes):
            return arrival
        if isinstance(arrival, OSError):
            raise unreadable(arrival)
        raise self


class PageMiss(Miss):
    """A part of an open file that is not in memory."""

    def __init__(self, disk: PromptDisk, file: OpenFile, offset: int, end: int) -> None:
        super().__init__(disk, (file.status.version, offset, end))
        self._file = file
        self._span = offset, end

    def hold(self, came: Arrivals) -> None:
        """Others may close the file before it is asked for its pages."""
        self._file = came.hold(self._disk, self._file)

    async def _bring(self, came: Arrivals) -> None:
        """Wait until it is, at least its beginning, or until that has failed."""
        self.hold(came)
        try:
            await self._disk.ready(self._file, *self._span)
        except (FileChanged, OSError) as error:
            came.put(self._disk, self._key, error)
        else:
            came.put(self._disk, self._key, self._disk.share(self._file))

    def was_filled(self, came: Arrivals | None) -> bool:
        """Return whether it was waited for already. Raises HttpError if that has failed."""
        arrival = came.get(self._disk, self._key) if came is not None else None
        if isinstance(arrival, (FileChanged, OSError)):
            raise unreadable(arrival)
        return arrival is not None


def unreadable(error: FileChanged | OSError) -> HttpError:
    """Return what a client is told when a file cannot be read, and nothing of it was sent yet."""
    if isinstance(error, FileChanged):
        return HttpError(503, "the file changed while it was read")
    status = 503 if status_of_errno(error.errno or 0) == 503 else 500
    return HttpError(status, f"reading failed: {error.strerror}")


async def answered(ask: Callable[[], Result], came: Arrivals) -> Result:
    """Ask until there is an answer: after each miss, which is waited for, the same again.

    Raises what `ask` raises; HttpError if there is no end of misses.
    """
    for _ in range(_TRIES):
        try:
            return ask()
        except Miss as miss:
            await miss.fill(came)
    raise HttpError(503, "the disk changes faster than it can be read")
