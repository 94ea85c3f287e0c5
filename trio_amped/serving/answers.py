"""Answers that are ready to be sent, found by what a common request says. Never waits, but for
the sweep."""

import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine
from itertools import islice
from typing import Any, Final, TypeVar

import trio

from ..config import Config
from ..disk.interface import Disk, FileChanged, OpenFile, WouldWait
from ..disk.open_files import Lookup, OpenFiles
from ..semantics.common import GROUPS, match_common
from ..semantics.dates import format_date
from ..semantics.errors import HttpError
from ..semantics.request import Request
from ..semantics.response import select_response, wire_head, with_headers
from ..semantics.validators import weak_match
from .root import IsDirectory
from .router import Router

_SMALL: Final = 64 * 1024  # bytes: a body of this size goes from memory, in one send with its head
_MOST: Final = 10_000  # answers: Python's garbage collector looks at all of them at once
_SWEPT: Final = 100  # that are let go of in one go
_SWEEP: Final = 1.0  # seconds between looks for what nobody has asked for lately
_MOST_BYTES: Final = 128 * 2**20  # of bodies, in all answers
_DATE_LENGTH: Final = 29

_DEPENDS_ON: Final = tuple(
    GROUPS[name] for name in ("method", "path", "close", "accept_encoding", "if_none_match")
)

Key = tuple[Any, ...]
Result = TypeVar("Result")


class Clock:
    """The time of day as a Date says it, and the time by which deadlines are kept."""

    def __init__(self) -> None:
        self.second = -1
        self.update()

    def update(self) -> None:
        self.now = trio.current_time()
        second = int(time.time())
        if second != self.second:
            self.second = second
            self.date = format_date(second)


class Answer:
    """What a common request gets for as long as the `lookups` hold that it follows from.

    `wire` is the head, with the Date of `second`, and the body if that is small; `rest` bytes of
    the file follow, which is one of `files`. `length` is that of the body; `closes`: it is the
    last on its connection.
    """

    __slots__ = (
        "_date_at",
        "checked_at",
        "closes",
        "file",
        "files",
        "length",
        "lookups",
        "others",
        "rest",
        "second",
        "status",
        "tag",
        "valid_until",
        "wire",
    )

    def __init__(
        self,
        status: int,
        closes: bool,
        head: bytes,
        body: bytes,
        length: int,
        tag: bytes,
        files: OpenFiles,
        file: OpenFile,
        lookups: list[Lookup],
    ) -> None:
        self.status = status
        self.closes = closes
        self.length = length
        self.rest = length - len(body)
        self.tag = tag
        self.files = files
        self.file = file
        self.lookups = lookups
        found = (lookup.file for lookup in lookups if lookup.file)
        self.others = tuple(other for other in found if other is not file)  # as a rule, none
        self.valid_until = -math.inf
        self.checked_at = -1  # a moment, see Answers
        self.wire = bytearray(head + body)
        self.second = -1
        self._date_at = head.index(b"\r\nDate: ") + 8

    def date(self, clock: Clock) -> None:
        """Have it say the time; only the Date differs from one second to the next."""
        at = self._date_at
        self.wire[at : at + _DATE_LENGTH] = clock.date
        self.second = clock.second

    def renew(self, max_age: float) -> None:
        """It is as old as the oldest of its lookups, which other answers may share."""
        checked_at = min((lookup.checked_at for lookup in self.lookups), default=-math.inf)
        self.valid_until = checked_at + max_age

    def weight(self, key: Key) -> int:
        """The bytes that it takes, nearly: what clients say counts as well."""
        return len(self.wire) + sum(len(part) for part in key if part)


class Answers:
    """The answers for the common requests to all sites."""

    def __init__(self, router: Router, config: Config) -> None:
        self._max_age = config.revalidate
        self._unused_after = config.open_file_timeout
        most, shares = config.max_open_files, len(router.disks)
        self.files = [
            OpenFiles(disk, most, self._max_age, self._unused_after, shares)
            for disk in router.disks
        ]
        self._router = router.on(self.files)
        self.depends_on = (GROUPS["host"], *_DEPENDS_ON) if router.asks_host else _DEPENDS_ON
        """The groups of a common request that its answer depends on: they are the key to it."""
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self._bytes = 0
        self._has_some = trio.Event()
        self.clock = Clock()
        self.moment = 0
        """A file is asked once in a moment whether it has changed: who uses this object begins a
        new one, `moment += 1`, before it answers a request that may have been sent since."""

    @property
    def any_disk(self) -> Disk:
        """For a body that is of no file."""
        return self._router.any_disk

    def find_now(self, head: bytes) -> Answer | None:
        """The answer to a whole head that has just come, ready to be sent; None: it is not."""
        match = match_common(head)
        if match is None:
            return None
        self.clock.update()
        self.moment += 1
        answer = self.find(match.group(*self.depends_on))
        return answer if answer and self.is_resident(answer) else None

    def is_resident(self, answer: Answer) -> bool:
        """Whether its first window is in memory: a disk that fails gets an honest answer."""
        try:
            return not answer.rest or answer.files.ready_at_once(answer.file, 0, answer.rest) > 0
        except (FileChanged, OSError):
            return False

    def find(self, key: Key) -> Answer | None:
        """The answer to a request that `match_common` has understood; None: it is not ready."""
        answer = self._answers.get(key)
        if answer and (answer.checked_at == self.moment or self._is_valid(key, answer)):
            return answer
        self._forget(key)
        *others, tag = key
        if tag is not None:
            # A tag that is not the file's own is not remembered: there are too many of them.
            whole = self.find((*others, None))
            if whole is None or not weak_match(tag, whole.tag):
                return whole
        return self._remember(key)

    def _is_valid(self, key: Key, answer: Answer) -> bool:
        """Whether it still is the answer at this moment."""
        if self.clock.now >= answer.valid_until and not self._renew(key, answer):
            return False
        if not answer.files.is_unchanged(answer.file):
            return False
        for file in answer.others:
            if not answer.files.is_unchanged(file):
                return False
        answer.checked_at = self.moment
        if answer.second != self.clock.second:
            answer.date(self.clock)
        return True

    def _renew(self, key: Key, answer: Answer) -> bool:
        """Whether all paths lead where they did. Since it is done again and again, what is asked
        for is what was renewed lately: the order of an LRU."""
        now = self.clock.now
        self._answers.move_to_end(key)
        is_current = all(answer.files.is_current(lookup, now) for lookup in answer.lookups)
        answer.renew(self._max_age)
        return is_current

    def _remember(self, key: Key) -> Answer | None:
        """Its answer of today, if there can be one."""
        self._has_some.set()  # a file may be open even if there is no answer
        answer = self._make(key)
        if answer is not None:
            answer.renew(self._max_age)
            answer.checked_at = self.moment
            answer.date(self.clock)
            self._answers[key] = answer
            self._bytes += answer.weight(key)
            while self._bytes > _MOST_BYTES or len(self._answers) > _MOST:
                self._forget(next(iter(self._answers)))
        return answer

    def _forget(self, key: Key) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self._bytes -= answer.weight(key)

    @contextlib.asynccontextmanager
    async def swept(self) -> AsyncIterator[None]:
        """While this lasts, what nobody asks for is let go of; at its end all files are closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep_for_ever)
            try:
                yield
            finally:
                for files in self.files:
                    files.close_unused(math.inf)
                nursery.cancel_scope.cancel()

    async def _sweep_for_ever(self) -> None:
        while True:
            await self._has_some.wait()
            await trio.sleep(_SWEEP)
            self.clock.update()
            while self.sweep():
                await trio.lowlevel.checkpoint()
            if not self._answers and all(files.is_empty for files in self.files):
                self._has_some = trio.Event()

    def sweep(self) -> bool:
        """Let go of some of what nobody has asked for lately; whether there is more."""
        now = self.clock.now
        have_more = [files.close_unused(now, at_most=_SWEPT) for files in self.files]
        for key, answer in list(islice(self._answers.items(), _SWEPT)):
            if now < answer.valid_until + self._unused_after:
                return any(have_more)
            self._forget(key)
        return any(have_more) or bool(self._answers)

    def _make(self, key: Key) -> Answer | None:
        """The answer to a request that says this and nothing else, on which it could depend.

        None where something would have to be waited for, or is wrong: that is for a task.
        """
        *host, method, path, close, coding, tag = key
        fields = [(b"host", host[0] if host else b"_")]
        fields += [(b"connection", close)] if close else []
        fields += [(b"accept-encoding", coding)] if coding else []
        fields += [(b"if-none-match", tag)] if tag else []
        request = Request(method, path, b"1.1", tuple(fields))
        now = time.time()
        route = self._router.route(request)
        root, files = route.root, self.files[route.number]
        try:
            with files.watched() as lookups:
                found = _at_once(root.find(request, route.check()))
            response = select_response(request, found.form, now)
            length = sum(map(len, response.body))
            body = b""
            if 0 < length <= _SMALL:
                body = _at_once(self._read(files, found.file, length))
        except (WouldWait, HttpError, IsDirectory, FileChanged, OSError):
            return None
        response = with_headers(response, root.policy.cors.headers(request))
        return Answer(
            response.status,
            close is not None,
            wire_head(response, now, close is not None),
            body,
            length,
            found.form.etag(now),
            files,
            found.file,
            list(lookups),
        )

    async def _read(self, files: OpenFiles, file: OpenFile, size: int) -> bytes:
        pieces, offset = [], 0
        while offset < size:
            pieces.append(await files.read(file, offset, size))
            offset += len(pieces[-1])
        return b"".join(pieces)


def _at_once(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    coroutine.close()
    raise AssertionError("it waits")
