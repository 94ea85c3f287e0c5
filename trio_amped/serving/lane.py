"""The fast lane: idle connections in one epoll object, common requests answered without a task.

Awaits its epoll object, and nothing else. A connection that needs more is handed over.
"""

import contextlib
import errno
import logging
import math
import select
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from ..config import Config
from ..disk.interface import FileChanged
from ..semantics.body import Body, FileSpan
from ..semantics.head import LINE_SLACK
from ..semantics.recogniser import MOST_FIELDS, Match, target_of
from ..stats import Stats
from .connection import Unfinished
from .replies import Replies, Reply
from .request_log import Begun, access_log, log_access
from .room import Room
from .router import Router
from .transport import ClientGone, peer_of, send_file

log = logging.getLogger("trio_amped.serving")

_RECEIVE: Final = 16 * 1024  # bytes
_TURN: Final = 0.002  # seconds of work before the other tasks have their turn
_ACCEPTED: Final = 64  # connections in one go
_PIPELINED: Final = 16  # requests of one connection in one go
_SENT: Final = 2 * 2**20  # bytes of a file in one go
_SWEPT: Final = 100  # connections that are closed in one go
_LINGER_SECONDS: Final = 5.0
_LINGER_BYTES: Final = 4 * 2**20
_SWEEP: Final = 1.0  # seconds between looks for connections that were idle for too long
_PAUSE: Final = 0.1  # seconds, when the system has no room for another connection
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Parked:
    """An idle connection; its owner is the lane for as long as it is in the lane's dict."""

    __slots__ = ("deadline", "is_new", "lingers", "rest", "sock", "watched")

    def __init__(self, sock: socket.socket, deadline: float, is_new: bool) -> None:
        self.sock = sock
        self.deadline = deadline
        self.is_new = is_new
        self.watched = 0  # for these events
        self.rest = b""  # received, and to be answered when there is room for answers
        self.lingers = 0  # our side has ended: so many bytes of theirs are still read


class Handover(NamedTuple):
    """A connection that a task of its own goes on with, and owns from here on.

    `received` follows the answer that is `unfinished`. `first_deadline`: for the first head, if
    that has not come yet.
    """

    sock: socket.socket
    received: bytes
    first_deadline: float | None = None
    unfinished: Unfinished | None = None


class Lane:
    """Watches idle connections, and answers what can be answered at once."""

    def __init__(
        self,
        config: Config,
        stats: Stats,
        router: Router,
        room: Room,
        hand_over: Callable[[Handover], None],
    ) -> None:
        self._config = config
        self._stats = stats
        self._match = router.recogniser.match
        self._replies = Replies(router)
        self._room = room
        self._hand_over = hand_over
        self._clock = router.clock
        # Bytes of a head that cannot be beyond any limit: a field has four at least.
        self._always_allowed = min(config.max_head, config.max_target)
        if config.max_fields < MOST_FIELDS:
            self._always_allowed = min(self._always_allowed, 4 * config.max_fields)
        self._keep_alive_timeout = config.keep_alive_timeout
        self._idle_until = 0.0  # the deadline of those that are answered in this turn
        self._epoll = select.epoll()
        self._events: list[tuple[int, int]] = []
        self._parked: dict[int, Parked] = {}
        self._listeners: dict[int, socket.socket] = {}
        self._is_accepting = False
        self._accepts_at = 0.0
        self._has_work = trio.Event()  # set while there is anything that a sweep could end
        self._tells = config.on_request is not None  # whoever wants to know of answers

    async def run(self, listeners: list[socket.socket]) -> None:
        """Accept and answer until cancelled; then listeners are closed, and tasks have the rest."""
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._resume_accepting()
        self._has_work.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep_for_ever)
                while True:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    while self._take_turn():
                        await trio.lowlevel.checkpoint()
        finally:
            self.stop_accepting()
            for listener in listeners:
                listener.close()
            for fd in list(self._parked):
                self._hand_over(self._left(self._unpark(fd)))
            self._epoll.close()

    def _left(self, parked: Parked) -> Handover:
        """What a task does about it in the end: wait for the end of their side, or answer what was
        received and what has just come, and say that this is the last."""
        if not parked.lingers:
            return Handover(parked.sock, parked.rest)
        last = Unfinished(b"", (), None, None, closes=True)
        return Handover(parked.sock, b"", None, last)

    def park(self, sock: socket.socket, received: bytes) -> None:
        """Take over a connection that a task is done with; `received` is to be answered yet.

        It is closed if the lane has ended meanwhile.
        """
        if self._epoll.closed:
            sock.close()
            self._room.leave()
            return
        deadline = trio.current_time() + self._config.keep_alive_timeout
        parked = self._own(sock, deadline, is_new=False)
        parked.rest = received
        self._watch(sock.fileno(), parked)

    def adopt(self, sock: socket.socket) -> None:
        """Take over a new connection, which does not block. Most have sent something already, and
        some are closed at once: those need not be watched."""
        self._room.enter()
        fd, deadline = sock.fileno(), trio.current_time() + self._config.head_timeout
        parked = self._own(sock, deadline, is_new=True)
        self._receive(fd, parked)
        if self._parked.get(fd) is parked:
            self._watch(fd, parked)

    def _own(self, sock: socket.socket, deadline: float, *, is_new: bool) -> Parked:
        parked = self._parked[sock.fileno()] = Parked(sock, deadline, is_new)
        self._has_work.set()
        return parked

    def _watch(self, fd: int, parked: Parked) -> None:
        """Wait for more, or until more can be sent while there is something to be answered."""
        events = select.EPOLLOUT if parked.rest else select.EPOLLIN
        try:
            if not parked.watched:
                self._epoll.register(fd, events)
            elif parked.watched != events:
                self._epoll.modify(fd, events)
        except OSError as error:  # ENOSPC, ENOMEM; epoll_ctl(2)
            log.error("a connection cannot be watched: %s", error.strerror)
            self._close(fd)
        else:
            parked.watched = events

    def _unpark(self, fd: int) -> Parked:
        """The connection, whose owner is now the caller."""
        parked = self._parked.pop(fd)
        if parked.watched:
            self._epoll.unregister(fd)
        return parked

    def _close(self, fd: int) -> None:
        self._unpark(fd).sock.close()
        self.make_room()

    def make_room(self) -> None:
        """A connection has ended."""
        self._room.leave()
        self._resume_accepting()

    async def _sweep_for_ever(self) -> None:
        while True:
            await self._has_work.wait()
            await trio.sleep(_SWEEP)
            self._clock.update()
            await self._sweep()
            self._resume_accepting()
            if self._is_accepting and not self._parked:
                self._has_work = trio.Event()

    async def _sweep(self) -> None:
        """Close what has been idle for too long, some at a time."""
        now = self._clock.now
        late = [(fd, each) for fd, each in self._parked.items() if each.deadline <= now]
        for number, (fd, parked) in enumerate(late, 1):
            if self._parked.get(fd) is parked and parked.deadline <= now:
                self._close(fd)
            if number % _SWEPT == 0:
                await trio.lowlevel.checkpoint()

    def _resume_accepting(self) -> None:
        if not self._is_accepting and self._room.has_place and self._clock.now >= self._accepts_at:
            self._is_accepting = True
            for fd in self._listeners:
                try:
                    self._epoll.register(fd, select.EPOLLIN)
                except FileExistsError:
                    pass
                except OSError as error:  # ENOSPC, ENOMEM: the next sweep tries again
                    log.error("a listener cannot be watched: %s", error.strerror)
                    self._is_accepting = False

    def stop_accepting(self) -> None:
        """For good: what comes next is for whoever shares the listeners."""
        self._pause_accepting()
        self._accepts_at = math.inf

    def _pause_accepting(self) -> None:
        self._has_work.set()  # a sweep looks whether there is room again
        if self._is_accepting:
            self._is_accepting = False
            for fd in self._listeners:
                with contextlib.suppress(FileNotFoundError):
                    self._epoll.unregister(fd)

    def _take_turn(self) -> bool:
        """Work while there is some, but not for too long: whether there may be more."""
        self._clock.update()
        self._idle_until = self._clock.now + self._keep_alive_timeout
        is_logged = access_log.isEnabledFor(logging.DEBUG)
        self._tells = is_logged or self._config.on_request is not None
        stop = time.monotonic() + _TURN
        # Those that the last turn did not come to are first: epoll would list the others again.
        while events := self._events or self._epoll.poll(0):
            self._clock.update()  # what is to be read now was sent before
            for number, (fd, _) in enumerate(events, 1):
                # An earlier event may have closed it, and a new connection may have its number:
                # then there is nothing to receive yet, and no harm is done.
                if (parked := self._parked.get(fd)) is not None:
                    self._receive(fd, parked)
                elif self._is_accepting and (listener := self._listeners.get(fd)) is not None:
                    self._accept(listener)
                if time.monotonic() >= stop:
                    self._events = events[number:]
                    return True
            self._events = []
        return False

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED):
            if not self._room.has_place:
                self._pause_accepting()
                return
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    log.error("accepting a connection failed: %s", error.strerror)
                    self._accepts_at = self._clock.now + _PAUSE
                    self._pause_accepting()
                    return
                continue  # it is gone already; accept(2)
            sock.setblocking(False)
            self._clock.update()
            self.adopt(sock)

    def _receive(self, fd: int, parked: Parked) -> None:
        try:
            if parked.rest:
                self._go_on(fd, parked)
                return
            try:
                received = parked.sock.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError:
                received = b""
            if received and not parked.lingers:
                self._answer(fd, parked, received)
            else:
                self._linger(fd, parked, len(received))
        except Exception:  # the others share this task
            log.exception("a bug in the fast lane")
            if self._parked.get(fd) is parked:
                self._close(fd)

    def _go_on(self, fd: int, parked: Parked) -> None:
        """Answer what was received before."""
        received, parked.rest = parked.rest, b""
        self._answer(fd, parked, received)
        if self._parked.get(fd) is parked:
            self._watch(fd, parked)

    def _answer(self, fd: int, parked: Parked, received: bytes) -> None:
        """Answer all requests that were received, or hand the connection over."""
        stats, start, begun = self._stats, 0, None
        for _ in range(_PIPELINED):
            match = self._match(received, start)
            if match is None:
                break
            stop = match.end()
            if stop - start > self._always_allowed and not self._is_allowed(match):
                break
            reply = self._replies.reply(match)
            if reply is None:
                break
            start = stop
            stats.requests += 1
            stats.by_lane += 1
            stats.responses[reply.status] += 1
            if self._tells:
                begun = self._begin(parked.sock, match, reply)
            try:
                body = self._send(parked.sock, reply)
            except (ClientGone, OSError) as error:
                log.debug("a client is gone: %s", error)
                self._close(fd)
                if begun:
                    begun.end(stats.bytes_sent)
                return
            if body or reply.closes:
                self._pass_on(fd, received[start:], target_of(match), reply, body, begun)
                return
            if begun:
                begun.end(stats.bytes_sent)
            parked.is_new = False
            parked.deadline = self._idle_until
            if start == len(received):
                return
            self._clock.update()  # the next one may have been sent later
        else:  # the others have their turn
            parked.rest = received[start:]
            if parked.watched:
                self._watch(fd, parked)
            return
        self._unpark(fd)
        first_deadline = parked.deadline if parked.is_new else None
        self._hand_over(Handover(parked.sock, received[start:], first_deadline))

    def _begin(self, sock: socket.socket, match: Match, reply: Reply) -> Begun | None:
        """Tell the access log; what is to be told to the hook."""
        line, _, _ = match[0].partition(b"\r\n")
        log_access(line, reply.status, reply.length)
        hook, before = self._config.on_request, self._stats.bytes_sent
        if hook is None:
            return None
        return Begun(hook, line, reply.status, peer_of(sock), trio.current_time(), before)

    def _pass_on(
        self,
        fd: int,
        received: bytes,
        target: bytes,
        reply: Reply,
        rest: Body,
        begun: Begun | None,
    ) -> None:
        """Hand the connection over with an answer of which a part is sent, or which is the last."""
        if begun and rest:
            begun = begun.went_on(self._stats.bytes_sent)
        elif begun:
            begun.end(self._stats.bytes_sent)
            begun = None
        if reply.closes and not rest and not received:
            self._finish(fd)
            return
        disk = file = None
        if rest and reply.rest is not None:
            assert reply.found is not None
            disk = reply.found.disk
            file = disk.share(reply.found.file)
        unfinished = Unfinished(target, rest, disk, file, reply.closes, begun)
        self._hand_over(Handover(self._unpark(fd).sock, received, None, unfinished))

    def _finish(self, fd: int) -> None:
        """End our side, and wait for the end of theirs: to close on what they send meanwhile is a
        reset, which can destroy our answer (RFC 9112 9.6)."""
        parked = self._parked[fd]
        parked.lingers = _LINGER_BYTES
        parked.deadline = self._clock.now + _LINGER_SECONDS
        try:
            parked.sock.shutdown(socket.SHUT_WR)
        except OSError:  # it is gone
            self._close(fd)

    def _linger(self, fd: int, parked: Parked, count: int) -> None:
        """They have sent so much after our end, or (0) have ended as well."""
        parked.lingers -= count
        if count == 0 or parked.lingers <= 0:
            self._close(fd)

    def _is_allowed(self, match: Match) -> bool:
        """Whether a head is within the limits of semantics/head.py."""
        config, head = self._config, match[0]
        if len(head) > config.max_head or head.count(b"\n") > config.max_fields + 2:
            return False
        return head.index(b"\n") < config.max_target + LINE_SLACK

    def _send(self, sock: socket.socket, reply: Reply) -> Body:
        """Send what the socket takes now, and what is in memory; what is left of it.

        Raises ClientGone, OSError: it is gone.
        """
        data, rest = reply.wire, reply.rest
        try:
            sent = sock.send(data, socket.MSG_MORE if rest else 0)
        except BlockingIOError:
            sent = 0
        self._stats.bytes_sent += sent
        if sent < len(data):
            left = bytes(data[sent:])
            return (left, rest) if rest else (left,)
        return self._send_file(sock, reply, rest) if rest else ()

    def _send_file(self, sock: socket.socket, reply: Reply, part: FileSpan) -> Body:
        """The same for the file itself; whoever gets the rest sees what is wrong with it."""
        assert reply.found is not None
        disk, file = reply.found.disk, reply.found.file
        offset, end = part.offset, part.offset + part.length
        stop = min(end, offset + _SENT)
        with contextlib.suppress(FileChanged, OSError):
            while offset < stop:
                count = disk.ready_at_once(file, offset, end)
                sent = send_file(sock, file.fd, offset, count) if count else None
                if not sent:
                    break
                self._stats.bytes_sent += sent
                offset += sent
        return (FileSpan(offset, end - offset),) if offset < end else ()
