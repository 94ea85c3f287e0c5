"""Who is told of answers: the log at level debug, the hook of a program, the access log.

Never waits: lines of the access log are joined here, and a thread writes them (access_log.py).
"""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple, Protocol, TypeAlias

import trio

from ..access_log import writing
from ..config import Answered, Config
from ..semantics.access_line import LogFormat, Moment, Record, moment
from ..semantics.printable import printable
from .clients import Peer
from .parked import Parked
from .replies import Reply

log = logging.getLogger("trio_amped.serving")
access_log = logging.getLogger("trio_amped.access")

_NOTED: Final = 64  # answers whose lines are made in one go, and those of a turn of the lane more
_MOST: Final = 512  # lines that are joined in one go
_DELAY: Final = 0.1  # seconds for which a line waits for others
_KEPT: Final = 256  # lines that may come again in the same second
_SHORT: Final = 4096  # bytes of a head that is kept with its line

Noted: TypeAlias = tuple[Peer, bytes, Reply]
"""A client, the head of its request, and the answer: all that a line needs within a second."""


class Sink(Protocol):
    """Who writes the lines of the access log: a Writer (access_log.py)."""

    def put(self, batch: bytes, lines: int) -> None:
        """Have whole lines written."""

    def reopen(self) -> None:
        """Have the file opened anew."""

    def replace(self, fd: int) -> None:
        """Have another descriptor written to."""


class Begun(NamedTuple):
    """An answer under way, which is told of at its end.

    `head`: of the request. `answer_head`: bytes of the head of the answer. `gate`: who has
    answered, if the disk was not waited for; `waited`: seconds for which it was, so far. `since`: a
    time of trio's; `before`: what the counter of bytes said then.
    """

    log: "RequestLog"
    head: bytes
    peer: Peer
    status: int
    answer_head: int
    gate: str
    waited: float
    since: float
    before: int

    def went_on(self, counter: int) -> "Begun":
        """The same for another counter, which begins at 0; this one says `counter`."""
        return self._replace(before=self.before - counter)

    def end(self, counter: int, waited: float = 0.0) -> None:
        """It has ended, after so many more seconds of waiting for the disk."""
        sent = counter - self.before
        body = max(0, sent - self.answer_head)
        waited += self.waited
        gate = "helper" if waited else self.gate
        seconds = trio.current_time() - self.since
        address, tls, scheme, host = self.peer
        record = Record(
            address, tls, self.head, self.status, body, sent, gate, waited, seconds, scheme, host
        )
        self.log.tell(record)


class RequestLog:
    """Tells of the answers of a server whoever wants to know.

    `is_on`: whether anybody does; it is to be asked anew by `renew`, since a level of logging may
    change at any time.
    """

    def __init__(self, config: Config) -> None:
        self.is_on = False
        self._hook = config.on_request
        self._place = config.access_log
        self._format = LogFormat(config.access_log_format)
        self._sink: Sink | None = None
        self._newer: int | None = None  # a descriptor that came before the sink
        self._noted: list[Noted] = []
        self._lines: list[bytes] = []
        self._has_lines = trio.Event()
        self._second = -1
        self._moment: Moment
        self._memo: dict[Noted, bytes] = {}  # of this second
        self.renew(int(time.time()))

    # ---------------------------------------------------------------- while it serves

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have the access log open, if there is one. Raises OSError."""
        place = self._place if self._newer is None else self._newer
        if place is None:
            yield
            return
        self._newer = None
        async with writing(place) as self._sink:
            if self._newer is not None:
                self._sink.replace(self._newer)
            try:
                yield
            finally:
                self._hand_over()

    @contextlib.asynccontextmanager
    async def flushed(self) -> AsyncIterator[None]:
        """Have lines written after a moment, however few they are."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_for_ever)
            yield
            nursery.cancel_scope.cancel()

    async def _flush_for_ever(self) -> None:
        while True:
            await self._has_lines.wait()
            await trio.sleep(_DELAY)
            self._hand_over()
            self._memo.clear()  # which keeps answers in memory, and nobody may ask for a long time

    def _hand_over(self) -> None:
        """Give the lines to the thread."""
        if self._noted:
            self._make_lines()
        self._has_lines = trio.Event()
        if self._lines and self._sink is not None:
            self._sink.put(b"".join(self._lines), len(self._lines))
        self._lines = []

    def reopen(self) -> None:
        """Open the file of the access log anew, if there is one: somebody has renamed it."""
        if self._sink is not None:
            self._sink.reopen()

    def replace(self, fd: int) -> None:
        """Write the access log to a descriptor from now on, which is taken over."""
        if self._sink is not None:
            self._sink.replace(fd)
        else:  # it was not opened yet
            self._newer = fd

    # ---------------------------------------------------------------- answers

    def renew(self, second: int) -> bool:
        """Note which second it is, since 1970; return whether anybody wants to know of answers."""
        if second != self._second:
            if self._noted:
                self._make_lines()
            self._second = second
            self._memo.clear()
            self._moment = _moment(second)
        is_told = self._hook is not None or access_log.isEnabledFor(logging.DEBUG)
        self.is_on = is_told or self._sink is not None
        self._is_file_alone = self.is_on and not is_told
        return self.is_on

    def begin(
        self,
        head: bytes,
        peer: Peer,
        status: int,
        length: int | None,
        *,
        answer_head: int = 0,
        gate: str = "resident",
        waited: float = 0.0,
        since: float,
        before: int,
    ) -> Begun | None:
        """An answer begins, with a body of `length` bytes (None: not known yet); see Begun."""
        if access_log.isEnabledFor(logging.DEBUG):
            line, _, _ = head.partition(b"\r\n")
            shown = "-" if length is None else length
            access_log.debug("%s %d %s", printable(line), status, shown)
        if self._hook is None and self._sink is None:
            return None
        return Begun(self, head, peer, status, answer_head, gate, waited, since, before)

    def begin_by_lane(self, parked: Parked, head: bytes, reply: Reply, before: int) -> Begun | None:
        """The same for an answer of the fast lane, whose head has been sent, or a part of it."""
        if not self.is_on:
            return None
        now = trio.current_time()
        since = parked.asked_at if parked.misses else now
        return self.begin(
            head,
            parked.meet(),
            reply.status,
            reply.length,
            answer_head=reply.head_length,
            gate="lane",
            waited=now - since,
            since=since,
            before=before,
        )

    def end_by_lane(
        self, parked: Parked, head: bytes, reply: Reply, before: int, counter: int
    ) -> None:
        """The same for one that was sent as a whole."""
        if begun := self.begin_by_lane(parked, head, reply, before):
            begun.end(counter)

    def begin_turn(self, second: int) -> Callable[[Noted], None] | None:
        """Note that a turn of the lane begins, in this second since 1970.

        Return a function that takes the answers which the lane sends as a whole and without waiting
        for the disk; None: it is to `begin` all of them. The function is `list.append`, and their
        lines are made later, together: a microsecond is a twentieth of what a small answer costs.
        """
        if len(self._noted) >= _NOTED:
            self._make_lines()
        self.renew(second)
        if not self._is_file_alone:
            return None
        self._has_lines.set()
        return self._noted.append

    def _make_lines(self) -> None:
        """Make the lines of what was noted, many of which are found among those just made."""
        memo = self._memo
        self._lines += [memo.get(each) or self._made(each) for each in self._noted]
        self._noted.clear()
        if len(self._lines) >= _MOST:
            self._hand_over()

    def _made(self, noted: Noted) -> bytes:
        peer, head, reply = noted
        sent = reply.head_length + reply.length
        address, tls, scheme, host = peer
        record = Record(
            address, tls, head, reply.status, reply.length, sent, scheme=scheme, host=host
        )
        line = self._format.line(record, self._moment)
        if len(head) <= _SHORT:
            if len(self._memo) >= _KEPT:
                self._memo.clear()
            self._memo[noted] = line
        return line

    def tell(self, record: Record) -> None:
        """Tell of an answer that has ended. What the hook raises is for the log alone."""
        if self._sink is not None:
            self.renew(int(time.time()))
            self._make_lines()  # which come first
            self._lines.append(self._format.line(record, self._moment))
            self._has_lines.set()
        if self._hook is not None:
            try:
                self._hook(_answered(record))
            except Exception:
                log.exception("on_request failed")


def _moment(second: int) -> Moment:
    now = time.localtime(second)
    return moment(*now[:3], now[3:6], now.tm_gmtoff)


def _answered(record: Record) -> Answered:
    method, target, version = map(printable, record.words)
    return Answered(
        method,
        target,
        record.status,
        record.sent,
        record.seconds,
        record.peer,
        body=record.body,
        version=version,
        host=printable(record.field("host")),
        referer=printable(record.field("referer")),
        agent=printable(record.field("user_agent")),
        tls=record.tls,
        gate=record.gate,
        waited=record.waited,
        head=record.head,
        scheme=record.scheme_used,
    )
