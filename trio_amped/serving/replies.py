"""The answers to recognised requests, ready for the wire. Never waits: it raises Miss."""

import contextlib
from collections.abc import Sequence
from typing import Final, TypeAlias

from ..disk.interface import FileChanged, WouldWait
from ..disk.misses import Arrivals, PageMiss
from ..semantics.body import Body, FileSpan, hull, inlined
from ..semantics.errors import NOT_UNDERSTOOD, HttpError
from ..semantics.policy import Policy
from ..semantics.ranges import Ranges
from ..semantics.recogniser import Match
from ..semantics.request import Asked
from ..semantics.response import (
    Choice,
    Response,
    choose,
    closing,
    date_at,
    error_response,
    respond,
    wire_head,
)
from ..semantics.target import Target
from .addresses import Elsewhere
from .answer import answer, answer_error, log_refusal
from .resources import Found, Place
from .root import DocumentRoot
from .router import Route, Router

_COPIED: Final = 32 * 1024  # bytes: up to here a copy and one send are cheaper than a sendfile
_SLASH: Final = ord("/")
_KEPT: Final = frozenset(
    (200, 301, 302, 303, 304, 307, 308, 404, 412, 416)
)  # of other answers each is another one


class Reply:
    """An answer: `wire` is its head, and its body but for `rest`, a part of `file` on `disk`.

    `length` is that of the body, in bytes; `ready`: so many bytes of `rest` were just found in
    memory; `copied`: of which part of `file` the end of `wire` is a copy; `closes`: it is the last
    on its connection; `error`: why it is no good one, for the log; `second`: the time of its Date.
    """

    __slots__ = (
        *("closes", "copied", "disk", "error", "file", "length", "ready", "rest", "second"),
        *("status", "wire"),
    )

    def __init__(
        self,
        status: int,
        wire: bytes | bytearray,
        length: int,
        closes: bool,
        rest: FileSpan | None = None,
        found: Found | None = None,
    ) -> None:
        self.status = status
        self.wire = wire
        self.length = length
        self.rest = rest
        # Not `found` itself, which may keep this answer: a cycle is freed late, and all at once.
        self.disk = found.disk if found else None
        self.file = found.file if found else None
        self.closes = closes
        self.ready = 0
        self.copied: FileSpan | None = None
        self.error: HttpError | None = None
        self.second = -1

    def set_date(self, second: int, date: bytes) -> None:
        """Write the date of today into the head."""
        self.second = second
        start = date_at(self.status)
        self.wire[start : start + len(date)] = date  # type: ignore[index]

    @property
    def head_length(self) -> int:
        """How many bytes the head has."""
        return len(self.wire) - (self.length if self.rest is None else 0)

    def as_last(self) -> "Reply":
        """Return the same for a connection that is to be closed."""
        head = closing(self.wire, self.head_length)
        last = Reply(self.status, head, self.length, True, self.rest)
        last.disk, last.file = self.disk, self.file
        last.ready, last.copied = self.ready, self.copied
        return last


Key: TypeAlias = bytes | tuple[bytes, int] | tuple[bytes, int, bytes]
"""The method, if its answer is 200, or the same for all requests; else the method and status, and
the Location of a redirect to the URL of a file, or by a rule."""
Slot: TypeAlias = tuple[dict[Key, Reply], Key, Choice]
"""Where an answer is kept: among which, by which key; and which answer that is."""
Located: TypeAlias = tuple[DocumentRoot, bytes, bool, Elsewhere | None]
"""A root, the path of a file below it, whether the request has named its folder, and where it is
redirected to."""
_NOTHING: Final = Arrivals()
_NOWHERE: Final[Slot] = ({}, b"", 0)


class Replies:
    """Answers to requests that the recogniser of a router has matched."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._clock = router.clock
        only = router.only
        self._only = only if only and only.keeps_answers(router.is_secure) else None
        self._simple = self._only if self._only and self._only.addresses.is_simple else None
        number = router.recogniser.numbers_of
        self._groups = number(("plain", "method", "accept_encoding", "usual", "renewing"))
        self._of_an_address = number(("plain", "accept_encoding", "query"))
        self._of_a_copy = number(("if_none_match", "if_modified_since"))
        self._others = number(("close", "old", *Asked._fields))
        self._closing = number(("close", "old"))
        self._last: tuple[Match, tuple[Asked, Route]] | None = None  # that was read as a whole

    def at_hand(self, match: Match) -> Reply | None:
        """Return an answer that is kept, or a part of a file that is; None: make it."""
        path, method, coding, usual, renewing = match.group(*self._groups)
        root, moved = self._simple, None
        if root is not None and path:
            is_folder = path[-1] == _SLASH
            name = path[1:] + root.addresses.index if is_folder else path[1:]
        elif (found := self._locate(match)) is not None:
            root, name, is_folder, moved = found
        else:
            return None
        place = root.resources.kept(name, coding) if renewing is not None else None
        closes = False
        if type(place) is Found and moved is None and usual is not None:
            reply: Reply | None = place.replies.get(method)
        elif (
            type(place) is Found
            and moved is None
            and place.form.was_sent(*match.group(*self._of_a_copy))
        ):
            reply = place.replies.get((method, 304))
        else:
            asked, closes = self._read(match)
            if renewing is None:
                place = root.resources.kept(name, asked.codings)
            located = root, name, is_folder, moved
            replies, key, choice = self._slot(match, located, place, asked)
            if isinstance(choice, tuple):
                return self._part(root, place, asked, choice, closes=closes)
            reply = replies.get(key)
        if reply is None:
            return None
        if reply.rest is not None:
            reply.ready = self._ready(place, reply.rest)
            if not reply.ready:
                return None
        if reply.second != self._clock.second:
            reply.set_date(self._clock.second, self._clock.date)
        if reply.error is not None:
            log_refusal(match, reply.error)
        return reply.as_last() if closes else reply

    def _locate(self, match: Match) -> Located | None:
        """Return which file a request names, and of which root; None: there can be none."""
        path, coding, query = match.group(*self._of_an_address)
        if self._only is not None and path:
            address = self._only.addresses.at_hand(path[1:], coding)
            if address is not None:
                if address.moved is not None and query is not None:
                    return None
                return self._only, address.path, path[-1] == _SLASH, address.moved
        return _located(*self._read_whole(match))

    def _read_whole(self, match: Match) -> tuple[Asked, Route]:
        """Return what a request asks, and where it leads: read once, whoever needs it first."""
        if self._last is None or self._last[0] is not match:
            self._last = match, self._router.read(match)
        return self._last[1]

    def _read(self, match: Match) -> tuple[Asked, bool]:
        """Return what is asked, and whether the connection is to be closed."""
        close, old, *fields = match.group(*self._others)
        return Asked._make(fields), close is not None or old is not None

    def _slot(self, match: Match, located: Located, place: Place, asked: Asked) -> Slot:
        """Return where the answer is kept, or can be: with the `place` that its path leads to.

        Nothing that a client writes freely is a key, or it could fill the memory.
        """
        root, name, is_folder, moved = located
        method = asked.method
        if asked.origin is not None:  # its answer has more fields
            return _NOWHERE
        if moved is not None:
            owner = root.resources if moved.is_ruled else place
            if owner is None:
                return _NOWHERE
            return owner.replies, (method, moved.status, moved.location), moved.status
        if isinstance(place, Found):
            choice = choose(asked, place.form, self._clock.wall)
            if choice == 200 or isinstance(choice, tuple):
                return place.replies, method, choice
            if choice not in root.policy.error_pages:
                return place.replies, (method, choice), choice
        elif place is not None:
            if match["query"] is None and not is_folder:
                return place.replies, method, 301
        elif _says_nothing_else(root.policy, is_folder) and root.resources.is_absent(name):
            return root.resources.replies, method, 404
        return _NOWHERE

    def _keep(
        self, match: Match, asked: Asked, route: Route, found: Found | None, reply: Reply
    ) -> None:
        """Keep an answer that was made, if it is the same for all such requests."""
        located = _located(asked, route)
        if located is None:
            return
        root, name, *_ = located
        place: Place = found
        if found is None or found.owner is None or found.owner.path != name:  # a page is elsewhere
            place = root.resources.kept(name, asked.codings)
        replies, key, choice = self._slot(match, located, place, asked)
        if reply.status != choice:
            return
        replies[key] = reply
        reply.wire = bytearray(reply.wire)
        if isinstance(place, Found) and choice == 200 and reply.length and place.body is not None:
            place.body = memoryview(reply.wire)[-reply.length :]  # the bytes are in memory once

    def _part(
        self, root: DocumentRoot, place: Place, asked: Asked, ranges: Ranges, *, closes: bool
    ) -> Reply | None:
        """Return ranges of a file that is kept, if they are in memory."""
        assert isinstance(place, Found)
        response = respond(ranges, asked, place.form, root.headers(None, self._router.is_secure))
        try:
            return self._with_body(root, response, place, _NOTHING, closes=closes)
        except PageMiss:
            return None

    def make(self, match: Match, came: Arrivals) -> Reply | None:
        """Make the answer to any request; None: it is unusual, and a task's. Raises Miss.

        `came`: what misses have brought before.
        """
        asked, route = self._read_whole(match)
        closes = match.group(*self._closing) != (None, None)
        found = None
        try:
            response, found = answer(asked, route, self._clock, came)
            reply = self._with_body(route.root, response, found, came, closes=closes)
        except HttpError as error:
            if route.application is not None:
                return None
            closes = closes or error.status in NOT_UNDERSTOOD
            reply = self._error(error, asked, route, came, closes=closes)
            log_refusal(match, error)
            if reply is not None:
                reply.error = error.with_traceback(None)
        if reply is not None and reply.status in _KEPT and not reply.closes:
            self._keep(match, asked, route, found, reply)
        return reply

    def _error(
        self,
        error: HttpError,
        asked: Asked,
        route: Route,
        came: Arrivals,
        *,
        closes: bool,
    ) -> Reply | None:
        """Return the answer for an error, with a page of the site if there is one."""
        with contextlib.suppress(HttpError):
            response, page = answer_error(error, asked, route, came)
            return self._with_body(route.root, response, page, came, closes=closes)
        response = error_response(error, asked.method, route.headers(asked.origin))
        return self._with_body(route.root, response, None, came, closes=closes)

    def _with_body(
        self,
        root: DocumentRoot,
        response: Response,
        found: Found | None,
        came: Arrivals,
        *,
        closes: bool,
    ) -> Reply | None:
        """Add the body: copies of what is short, or one part for `sendfile`; None: it is a task's.

        Raises PageMiss; HttpError if it was waited for, and has failed.
        """
        status, _, body = response
        head = wire_head(response, self._clock.date, closes)
        length = sum([part.length if isinstance(part, FileSpan) else len(part) for part in body])
        if not length:
            return Reply(status, head, 0, closes)
        if found is not None and found.file.is_by_copy:
            return None
        try:
            pieces: Sequence[bytes | memoryview]
            if found is None:
                pieces = inlined(body, b"")
            elif (content := root.resources.body(found)) is not None:
                pieces = inlined(body, content)
            elif length > _COPIED:
                return self._with_rest(status, head, body, found, came, closes)
            else:
                pieces = self._copies(root, body, found, came)
        except (WouldWait, FileChanged, OSError):
            return None
        reply = Reply(status, b"".join((head, *pieces)), length, closes, None, found)
        if len(body) == 1 and isinstance(body[0], FileSpan):
            reply.copied = body[0]
        return reply

    def _copies(
        self, root: DocumentRoot, body: Body, found: Found, came: Arrivals
    ) -> Sequence[bytes | memoryview]:
        """Return the parts of a body as bytes, which are read at once where they are not far apart.

        Raises PageMiss, WouldWait, FileChanged, OSError.
        """
        if len(body) == 1:
            return [self._copy(root, body[0], found, came)]
        all_of_them = hull(body)
        if all_of_them.length > _COPIED:
            return [self._copy(root, part, found, came) for part in body]
        return inlined(body, self._copy(root, all_of_them, found, came), all_of_them.offset)

    @staticmethod
    def _copy(root: DocumentRoot, part: bytes | FileSpan, found: Found, came: Arrivals) -> bytes:
        """Return the bytes of a part. Raises PageMiss, WouldWait, FileChanged, OSError."""
        if isinstance(part, bytes):
            return part
        try:
            return root.resources.read(found.file, part.offset, part.length)
        except WouldWait:
            raise _missing(part, found, came) from None

    def _with_rest(
        self, status: int, head: bytes, body: Body, found: Found, came: Arrivals, closes: bool
    ) -> Reply | None:
        """Add a part of a file that is not copied. Raises PageMiss, WouldWait."""
        part = body[0]
        if len(body) > 1 or isinstance(part, bytes):
            return None
        ready = self._ready(found, part)
        if not ready:
            raise _missing(part, found, came)
        reply = Reply(status, head, part.length, closes, part, found)
        reply.ready = ready
        return reply

    @staticmethod
    def _ready(found: Place, part: FileSpan) -> int:
        """Return how many bytes at its start are in memory: 0 where the disk fails, too."""
        assert isinstance(found, Found)
        end = part.offset + part.length
        try:
            return found.disk.ready_at_once(found.file, part.offset, end)
        except (FileChanged, OSError):
            return 0


def _located(asked: Asked, route: Route) -> Located | None:
    """Return which file a request leads to, and of which root; None: none, or that is not kept."""
    root, below = route.root, route.below
    if not isinstance(below, Target) or below.refusal(root.policy.shown) is not None:
        return None
    if not root.keeps_answers(route.is_secure):
        return None
    if root.addresses.is_simple:
        return root, below.file_path(root.addresses.index), below.is_directory, None
    try:
        address = root.addresses.kept(below, asked.codings)
    except LookupError:
        return None
    return root, address.path, below.is_directory, address.moved


def _says_nothing_else(policy: Policy, is_folder: bool) -> bool:
    """Return whether the answer where there is no file is the same for all such paths."""
    if policy.fallback is not None or 404 in policy.error_pages:
        return False
    return not (policy.lists_directories and is_folder)


def _missing(part: FileSpan, found: Found, came: Arrivals) -> PageMiss | WouldWait:
    """Return what is to be waited for. Raises HttpError if it was, and has failed.

    WouldWait: it has come, and was evicted since, or the gate cannot tell.
    """
    miss = PageMiss(found.disk, found.file, part.offset, part.offset + part.length)
    return WouldWait() if miss.was_filled(came) else miss
