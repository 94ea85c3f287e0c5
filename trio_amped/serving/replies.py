"""The answers to recognised requests, ready for the wire. Never waits: it raises Miss."""

import contextlib
from typing import Final

from ..disk.interface import FileChanged, WouldWait
from ..disk.misses import Arrivals, PageMiss
from ..semantics.body import FileSpan
from ..semantics.errors import HttpError
from ..semantics.recogniser import Match, target_of
from ..semantics.request import Asked
from ..semantics.response import Response, error_response, whole, wire_head
from .answer import answer, answer_error, log_refusal
from .resources import Found
from .root import DocumentRoot
from .router import Router

_COPIED: Final = 32 * 1024  # bytes: up to here a copy and one send are cheaper than a sendfile
_DATE_AT: Final = len(b"HTTP/1.1 200 OK\r\nDate: ")
_DATE_LENGTH: Final = 29
_SLASH: Final = ord("/")


class Reply:
    """An answer: `wire` is its head, and its body but for `rest`, which is of the file `found`.

    `length` is that of the body, in bytes; `closes`: it is the last on its connection; `second`:
    the time of its Date.
    """

    __slots__ = ("closes", "found", "length", "rest", "second", "status", "wire")

    def __init__(
        self,
        status: int,
        wire: bytes | bytearray,
        length: int,
        rest: FileSpan | None,
        found: Found | None,
        closes: bool,
    ) -> None:
        self.status = status
        self.wire = wire
        self.length = length
        self.rest = rest
        self.found = found
        self.closes = closes
        self.second = -1


class Replies:
    """Answers to requests that the recogniser of a router has matched."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._clock = router.clock
        self._only = router.only
        self._groups = router.recogniser.numbers_of(("plain", "method", "accept_encoding", "usual"))
        self._closing = router.recogniser.numbers_of(("close", "old"))

    def kept(self, match: Match) -> Reply | None:
        """Return the answer to a plain GET that is kept with its file; None: there is none."""
        path, method, coding, usual = match.group(*self._groups)
        root = self._only
        if root is None or not path or method != b"GET" or usual is None:
            return None
        path = path[1:] if path[-1] != _SLASH else path[1:] + b"index.html"
        found = root.resources.kept(path, coding)
        if found is None:
            return None
        reply: Reply | None = found.reply
        if reply is None:
            response = whole(b"GET", found.form, root.policy.cors.headers(None))
            try:
                reply = self._with_body(root, response, found, Arrivals(), closes=False)
            except PageMiss:
                return None
            if reply is None or found.owner is None:
                return reply
            self._keep(found, reply)
        elif reply.rest is not None and not self._is_resident(found, reply.rest):
            return None
        if reply.second != self._clock.second:
            reply.second = self._clock.second
            reply.wire[_DATE_AT : _DATE_AT + _DATE_LENGTH] = self._clock.date  # type: ignore[index]
        return reply

    def _keep(self, found: Found, reply: Reply) -> None:
        """Keep an answer with its file, whose bytes are in memory once."""
        found.reply = reply
        reply.wire = bytearray(reply.wire)
        if found.body is not None:
            found.body = memoryview(reply.wire)[-reply.length :]

    def make(self, match: Match, came: Arrivals) -> Reply | None:
        """Make the answer to any request; None: it is unusual, and a task's. Raises Miss.

        `came`: what misses have brought before.
        """
        asked, route = self._router.read(match)
        closes = match.group(*self._closing) != (None, None)
        try:
            response, found = answer(asked, route, self._clock, came)
            return self._with_body(route.root, response, found, came, closes=closes)
        except HttpError as error:
            if route.application is not None:
                return None
            reply = self._error(error, asked, route.root, came, closes=closes)
            log_refusal(target_of(match), error)
            return reply

    def _error(
        self,
        error: HttpError,
        asked: Asked,
        root: DocumentRoot,
        came: Arrivals,
        *,
        closes: bool,
    ) -> Reply | None:
        """Return the answer for an error, with a page of the site if there is one."""
        with contextlib.suppress(HttpError):
            response, page = answer_error(error, asked, root, came)
            return self._with_body(root, response, page, came, closes=closes)
        response = error_response(error, asked.method, root.policy.cors.headers(asked.origin))
        return self._with_body(root, response, None, came, closes=closes)

    def _with_body(
        self,
        root: DocumentRoot,
        response: Response,
        found: Found | None,
        came: Arrivals,
        *,
        closes: bool,
    ) -> Reply | None:
        """Add the body, if it is not in several parts. Raises PageMiss, HttpError."""
        status, _, body = response
        head = wire_head(response, self._clock.date, closes)
        if not body:
            return Reply(status, head, 0, None, found, closes)
        if len(body) > 1:
            return None
        (part,) = body
        if isinstance(part, bytes):
            return Reply(status, head + part, len(part), None, found, closes)
        assert found is not None
        return self._with_part(root, status, head, part, found, came, closes)

    def _with_part(
        self,
        root: DocumentRoot,
        status: int,
        head: bytes,
        part: FileSpan,
        found: Found,
        came: Arrivals,
        closes: bool,
    ) -> Reply | None:
        """Add a part of a file: by a copy, or for `sendfile` if it is large.

        Raises PageMiss; HttpError if it was waited for, and has failed.
        """
        offset, length = part.offset, part.length
        if not length:
            return Reply(status, head, 0, None, found, closes)
        if found.file.is_by_copy:
            return None
        content = root.resources.body(found)
        try:
            if content is not None:
                wire = head + (
                    content if length == len(content) else content[offset : offset + length]
                )
            elif length <= _COPIED:
                wire = head + root.resources.read(found.file, offset, length)
            elif self._is_resident(found, part):
                return Reply(status, head, length, part, found, closes)
            else:
                raise WouldWait
        except WouldWait:
            miss = PageMiss(found.disk, found.file, offset, offset + length)
            if miss.was_filled(came):  # and was evicted, or the gate cannot tell
                return None
            raise miss from None
        except (FileChanged, OSError):
            return None
        return Reply(status, wire, length, None, found, closes)

    def _is_resident(self, found: Found, part: FileSpan) -> bool:
        """Whether its first window is in memory: a disk that fails gets an honest answer."""
        end = part.offset + part.length
        try:
            return found.disk.ready_at_once(found.file, part.offset, end) > 0
        except (FileChanged, OSError):
            return False
