"""The fast lane: idle connections in one epoll object, common requests answered without a task.

Awaits its epoll object; and, with one task for all who miss the same, the disk. A connection that
needs more is handed over.
"""

import contextlib
import heapq
import logging
import math
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from ..config import Config
from ..disk.jobs import Asker, asking
from ..disk.misses import Arrivals, Miss
from ..semantics.body import Body, FileSpan
from ..semantics.recogniser import MOST_FIELDS, Match, target_of
from ..stats import Stats
from .acceptor import Acceptor, Forwarded
from .clients import Whose
from .connection import Unfinished
from .crowd import MANY, Crowd
from .entrance import Entrance
from .handover import Handover
from .parked import Group, Groups, Parked
from .replies import Replies, Reply
from .request_log import Begun, Noted, RequestLog
from .room import Room, given, guest_of
from .router import Router
from .tls import TlsSocket
from .transport import ClientGone, Turns, close_socket
from .wire import ShakesHands, Unsent, Wire

log = logging.getLogger("trio_amped.serving")

_RECEIVE: Final = 16 * 1024  # bytes
_TURN: Final = 0.002  # seconds of work before the other tasks have their turn
_LATER: Final = 0.0005  # the same of what others go before
_PIPELINED: Final = 16  # requests of one connection in one go
_LARGE: Final = 256 * 1024  # bytes of a file: more of them take longer than others should wait
_MISSES: Final = 8  # of one request; a task goes on with what has no end
_SHORT: Final = 1.0  # seconds that need not be waited for once more
_SWEPT: Final = 100  # connections that are closed in one go
_LINGER_SECONDS: Final = 5.0
_LINGER_BYTES: Final = 4 * 2**20
_SWEEP: Final = 1.0  # seconds between looks for connections that were idle for too long
_PAUSE: Final = 0.1  # seconds, when the system has no room for what is watched
_READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP
_ENDED: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Lane:
    """Watches idle connections, and answers what can be answered at once."""

    def __init__(
        self,
        config: Config,
        stats: Stats,
        router: Router,
        room: Room,
        hand_over: Callable[[Handover], None],
        log: RequestLog,
    ) -> None:
        self._config = config
        self._stats = stats
        self._match = router.recogniser.match
        self._room = room
        self._hand_over = hand_over
        self._shaking: deque[Parked] = deque()  # those whose handshakes can go on
        self._clock = router.clock
        self._limits = config.head_limits
        self._harmless = self._limits.harmless(MOST_FIELDS)
        self._keep_alive_timeout = config.keep_alive_timeout
        self._idle_until = 0.0  # the deadline of those that are answered in this turn
        self._epoll = select.epoll()
        self._events: list[tuple[int, int]] = []
        self._parked: dict[int, Parked] = {}
        self._acceptor = Acceptor(
            config, self._epoll, room, self._clock, lambda: self._has_work.set()
        )
        self._is_retiring = False
        self._has_work = trio.Event()  # set while there is anything that a sweep could end
        self._log = log
        self._note: Callable[[Noted], None] | None = None  # takes what was sent as a whole
        self._crowd = Crowd()
        self._large = math.inf  # so many large answers can be sent now: in a turn not all of them
        self._has_here = False
        self._here = Arrivals()  # what cannot be kept for longer than this moment
        self._groups: Groups = {}  # of those who wait for the disk
        self._spent = 0.0  # seconds of work for such groups since the last turn
        self._turns_of_groups = Turns(at_once=1)  # of those that come later than others
        self._nursery: trio.Nursery | None = None  # of a task for each of them

    async def run(self, listeners: Sequence[tuple[socket.socket, Entrance]]) -> None:
        """Accept and answer until cancelled; then listeners are closed, and tasks have the rest."""
        self._acceptor.begin(listeners)
        self._has_work.set()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._sweep_for_ever)
                while True:
                    await self._wait_for_events()
                    await self._take_turns()
        finally:
            self.stop_accepting()
            for came in self._acceptor.end_prefaces():
                wire, rest = _encrypted(came)
                first = wire, came.entrance, rest, came.deadline
                self._hand_over(Handover(*first, None, None, came.whose))
            for fd in list(self._parked):
                self._hand_over(Handover.at_the_end(self._unpark(fd)))
            self._crowd.came.clear()
            self._shaking.clear()
            self._epoll.close()

    async def _take_turns(self) -> None:
        while self._take_turn():
            await trio.lowlevel.checkpoint()

    def _go_on_shaking_soon(self) -> None:
        """Have turns for handshakes that were put off outside of one: epoll does not show them."""
        if self._shaking and self._nursery is not None:
            self._nursery.start_soon(self._take_turns)

    async def _wait_for_events(self) -> None:
        """Wait until a connection has something; to wait takes memory as well, epoll_ctl(2)."""
        try:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
        except OSError as error:
            log.error("the connections cannot be watched: %s", error.strerror)
            await trio.sleep(_PAUSE)

    def park(self, done: Handover, received: bytes) -> None:
        """Take a connection back that a task is done with; `received` is to be answered yet.

        It is closed if the lane has ended meanwhile.
        """
        if self._epoll.closed:
            close_socket(done.sock)
            self._room.leave(done.whose.guest)
            return
        deadline = trio.current_time() + self._config.keep_alive_timeout
        parked = self._own(done.sock, done.entrance, deadline, done.whose, is_new=False)
        parked.rest = received
        self._watch(done.sock.fileno(), parked)

    def adopt(self, sock: socket.socket, entrance: Entrance) -> None:
        """Take over a new connection, which does not block, and is counted for nobody."""
        self._room.enter()
        self._begin(sock, entrance, self._acceptor.meet(sock))
        self._begin_moment()
        self._go_on_shaking_soon()

    def _begin(self, sock: socket.socket, entrance: Entrance, whose: Whose) -> None:
        """Most have sent something already, and some are closed at once: those need not be
        watched."""
        fd, deadline = sock.fileno(), trio.current_time() + self._config.head_timeout
        wire = TlsSocket(sock, entrance.context()) if entrance.context else sock
        parked = self._own(wire, entrance, deadline, whose, is_new=True)
        self._receive(fd, parked)
        if self._parked.get(fd) is parked:
            self._watch(fd, parked)

    def _forward(self, came: Forwarded) -> None:
        """The same, where a proxy has told whose the connection is."""
        wire, rest = _encrypted(came)
        fd = wire.fileno()
        parked = self._own(wire, came.entrance, came.deadline, came.whose, is_new=True)
        parked.rest = rest
        self._receive(fd, parked)
        if self._parked.get(fd) is parked:
            self._watch(fd, parked)

    def _own(
        self, sock: Wire, entrance: Entrance, deadline: float, whose: Whose, *, is_new: bool
    ) -> Parked:
        parked = self._parked[sock.fileno()] = Parked(sock, entrance, deadline, is_new, whose)
        self._has_work.set()
        return parked

    def _watch(self, fd: int, parked: Parked) -> None:
        """Wait for more, or until more can be sent while there is something to be answered."""
        if parked.waits:
            return
        events = select.EPOLLOUT if parked.rest else _READABLE
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
            with contextlib.suppress(OSError):  # then the end of the socket does it
                self._epoll.unregister(fd)
        return parked

    def _close(self, fd: int) -> None:
        parked = self._unpark(fd)
        close_socket(parked.sock)
        self.make_room(parked.whose)

    def make_room(self, whose: Whose) -> None:
        """A connection has ended."""
        self._room.leave(whose.guest)
        self._acceptor.resume()

    async def _sweep_for_ever(self) -> None:
        while True:
            await self._has_work.wait()
            await trio.sleep(_SWEEP)
            self._clock.update()
            await self._sweep()
            self._acceptor.end_late_prefaces(self._clock.now)
            self._acceptor.look_for_room()
            self._take_forwarded()
            self._go_on_shaking_soon()
            if self._acceptor.is_on and not self._acceptor.has_prefaces and not self._parked:
                self._has_work = trio.Event()

    async def _sweep(self) -> None:
        """Close what has been idle for too long, some at a time."""
        now = self._clock.now
        late = [(fd, each) for fd, each in self._parked.items() if each.deadline <= now]
        for number, (fd, parked) in enumerate(late, 1):
            if self._parked.get(fd) is parked and parked.deadline <= now:
                self._end_idle(fd, parked)
            if number % _SWEPT == 0:
                await trio.lowlevel.checkpoint()

    def _end_idle(self, fd: int, parked: Parked) -> None:
        """Close a connection, unless a request of it has come, which is answered, now or later.

        It may have come while the whole process stood still: SIGSTOP, or a suspended machine.
        """
        answered = self._stats.requests
        self._begin_turn()
        self._receive(fd, parked)
        if self._has_here:
            self._begin_moment()
        has_asked = parked.waits or self._stats.requests != answered
        if self._parked.get(fd) is parked and not has_asked:
            self._close(fd)

    def give_way(self) -> bool:
        """Close some connections that are idle, for others; return whether there were any."""
        late = self._clock.now - self._room.late
        idle = [
            (since, fd)
            for fd, each in self._parked.items()
            if each.is_idle and ((since := self._idle_since(each)) <= late or not each.is_new)
        ]
        for _, fd in heapq.nsmallest(given(len(idle)), idle):
            if (parked := self._parked.get(fd)) is not None:
                self._end_idle(fd, parked)
        self._go_on_shaking_soon()
        return self._acceptor.end_slow_prefaces(late) or bool(idle)

    def _idle_since(self, parked: Parked) -> float:
        config = self._config
        timeout = config.head_timeout if parked.is_new else config.keep_alive_timeout
        return -math.inf if timeout == math.inf else parked.deadline - timeout

    def stop_accepting(self) -> None:
        """For good: what comes next is for whoever shares the listeners."""
        self._acceptor.stop()

    def retire(self) -> None:
        """Accept no more, and answer those who are here; each hears that it was the last answer."""
        self._is_retiring = True
        self.stop_accepting()

    def _take_turn(self) -> bool:
        """Work while there is some, but not for too long: whether there may be more."""
        stop, self._spent = self._begin_turn() + _TURN, 0.0
        while True:
            has_more = self._take_events(stop)
            self._crowd.disperse()
            if self._crowd.has_more:
                has_more |= self._take_later(self._begin_turn() + _LATER)
            if not has_more or time.monotonic() >= stop:
                break
        self._large = math.inf
        if self._shaking:
            has_more |= self._shake_hands(self._begin_turn() + _LATER)
        if self._has_here:
            self._begin_moment()
        return has_more

    def _take_later(self, stop: float) -> bool:
        """Answer what was put off, until `stop`; whether there is more."""
        crowd = self._crowd
        batch = crowd.next_batch()
        self._here, crowd.came = crowd.came, self._here
        while batch and time.monotonic() < stop:
            self._large = 1
            self._resume(batch.popleft(), None)
        self._here, crowd.came = crowd.came, self._here
        crowd.end_batch()
        return crowd.has_more

    def _take_events(self, stop: float) -> bool:
        """Answer what has come, until `stop`; whether there may be more."""
        # Those that the last turn did not come to are first: epoll would list the others again.
        while events := self._events or self._epoll.poll(0):
            self._begin_moment()
            self._large = 0
            if len(events) > MANY:
                self._crowd.gather()
            for number, (fd, event) in enumerate(events, 1):
                # An earlier event may have closed it, and a new connection may have its number:
                # then there is nothing to receive yet, and no harm is done.
                if (parked := self._parked.get(fd)) is not None:
                    if self._crowd.is_here and event & _ENDED and not parked.is_busy:
                        parked.waits = True  # it has asked for nothing that is known yet
                        self._crowd.put_off(parked)
                    else:
                        self._receive(fd, parked)
                elif self._acceptor.has(fd):
                    self._accept(fd)
                if time.monotonic() >= stop:
                    self._events = events[number:]
                    return True
            self._events = []
            self._crowd.disperse()
        return False

    def _begin_moment(self) -> None:
        """What is to be read from now on may have been sent after all that was asked so far."""
        self._clock.moment += 1
        if self._has_here:
            self._here.clear()
            self._has_here = False

    def _begin_turn(self) -> float:
        """Return when it begins, a time of `time.monotonic`."""
        self._clock.update()
        self._begin_moment()
        self._idle_until = self._clock.now + self._keep_alive_timeout
        self._note = self._log.begin_turn(self._clock.second)
        return time.monotonic()

    def _wait(self, parked: Parked, rest: bytes, miss: Miss, among: Group | None) -> None:
        """Keep a connection until what its request misses has come, which is asked for once.

        `among`: those that it has waited with before; all that has come for them stays at hand.
        """
        if not parked.misses:
            parked.asked_at = trio.current_time()
        elif among is None:  # those whom it has joined before had less time left
            miss.patience = min(miss.patience, math.ceil(self._time_left(parked)))
        parked.misses += 1
        self._hold(parked, rest)
        groups = among.following if among else self._groups
        group = groups.get(miss.question)
        if group is None:
            if among:
                came = among.came
            else:  # what is at hand now may be what they ask about
                came, self._here = self._here, Arrivals()
            group = groups[miss.question] = Group(miss, came)
            if not among:
                assert self._nursery is not None
                self._nursery.start_soon(self._serve_group, group)
        group.parked.append(parked)

    def _put_off(self, parked: Parked, rest: bytes) -> None:
        self._hold(parked, rest)
        self._crowd.put_off(parked)

    def _hold(self, parked: Parked, rest: bytes) -> None:
        parked.rest, parked.waits = rest, True
        parked.is_new, parked.deadline = False, math.inf

    async def _serve_group(self, group: Group) -> None:
        client = group.parked[0].meet()
        with group.came, asking(Asker(guest_of((client.address,)))):
            await self._bring(group)

    async def _bring(self, group: Group) -> None:
        """Wait for what is missed, and answer those who have waited for it.

        They take turns of their own: what comes meanwhile is not behind all of them, nor behind all
        groups for which something has come at the same time.
        """
        try:
            await group.miss.fill(group.came)
        except Exception:
            log.exception("a bug in the fast lane")
            for parked in group.parked:  # each gets a task, which sees for itself
                parked.misses = _MISSES
        if self._groups.get(group.miss.question) is group:
            del self._groups[group.miss.question]
        start = await self._begin_turn_of_group()
        oldest = group.parked[0]
        is_late = group.miss.is_late(group.came) and self._time_left(oldest) < _SHORT
        for parked in group.parked:
            if time.monotonic() >= start + _TURN:
                self._spent += _TURN
                start = await self._begin_turn_of_group()
            waits_on = is_late and self._time_left(parked) > _SHORT
            self._resume(parked, None if waits_on else group)
        self._spent += time.monotonic() - start
        if group.following:
            async with trio.open_nursery() as nursery:
                for following in group.following.values():
                    nursery.start_soon(self._bring, following)

    async def _begin_turn_of_group(self) -> float:
        """Wait, if groups have had enough of this round of the loop; return when it begins."""
        if self._spent >= _TURN:
            await self._turns_of_groups.next()
            self._spent = 0.0
        return self._begin_turn()

    def _time_left(self, parked: Parked) -> float:
        """Return how many seconds more the disk has for what a request misses."""
        return parked.asked_at + self._config.disk_timeout - trio.current_time()

    def _resume(self, parked: Parked, among: Group | None) -> None:
        """Go on with what was held, and watch it again."""
        fd = parked.sock.fileno()
        parked.waits = False
        if not parked.is_new:
            parked.deadline = self._idle_until
        self._receive(fd, parked, among)
        if self._parked.get(fd) is parked:
            self._watch(fd, parked)

    def _accept(self, fd: int) -> None:
        accepted = self._acceptor.accept(fd)
        self._begin_moment()
        for sock, entrance, whose in accepted:
            self._begin(sock, entrance, whose)
        if self._acceptor.forwarded:
            self._take_forwarded()

    def _take_forwarded(self) -> None:
        forwarded, self._acceptor.forwarded = self._acceptor.forwarded, []
        for came in forwarded:
            self._forward(came)

    def _receive(self, fd: int, parked: Parked, among: Group | None = None) -> None:
        try:
            if parked.waits:  # there is no need to watch it
                if parked.watched:
                    self._epoll.unregister(fd)
                    parked.watched = 0
                return
            if parked.rest:
                self._go_on(fd, parked, among)
                return
            try:
                received = parked.sock.recv(_RECEIVE)
            except ShakesHands:
                self._put_off_shaking(parked)
                return
            except Unsent:
                self._hand_over(Handover.to_flush(self._unpark(fd)))
                return
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

    def _put_off_shaking(self, parked: Parked) -> None:
        """Have a handshake go on later in the turn: first those on whom most was spent already.

        Last are those who go on after it: they say nothing that is urgent, or much too much.
        """
        assert isinstance(parked.sock, TlsSocket)
        parked.waits = True
        if parked.sock.has_begun and parked.sock.is_shaking:
            self._shaking.appendleft(parked)
        else:
            self._shaking.append(parked)

    def _shake_hands(self, stop: float) -> bool:
        """Go on with handshakes, at least one, until `stop`; return whether there are more.

        A flood of them adds a step to what the others wait for, and not the flood.
        """
        while self._shaking:
            parked = self._shaking.popleft()
            self._go_on_shaking(parked.sock.fileno(), parked)
            if time.monotonic() >= stop:
                break
        return bool(self._shaking)

    def _go_on_shaking(self, fd: int, parked: Parked) -> None:
        assert isinstance(parked.sock, TlsSocket)
        if self._parked.get(fd) is not parked:  # it was handed over, or closed
            return
        parked.waits = False
        try:
            is_complete = parked.sock.shake_hands()
        except BlockingIOError:
            is_complete = False
        except OSError as error:
            log.debug("a handshake has failed: %s", error)
            self._close(fd)
            return
        except Exception:  # the others share this task
            log.exception("a bug in the fast lane")
            self._close(fd)
            return
        if is_complete:
            self._receive(fd, parked)
        elif parked.sock.unsent or parked.deadline <= self._clock.now:
            self._unpark(fd)
            first = parked.sock, parked.entrance, b"", parked.deadline
            self._hand_over(Handover(*first, None, None, parked.whose))
        if self._parked.get(fd) is parked:
            self._watch(fd, parked)

    def _go_on(self, fd: int, parked: Parked, among: Group | None) -> None:
        """Answer what was received before."""
        received, parked.rest = parked.rest, b""
        self._answer(fd, parked, received, among)
        if self._parked.get(fd) is parked:
            self._watch(fd, parked)

    def _answer(self, fd: int, parked: Parked, received: bytes, among: Group | None = None) -> None:
        """Answer all requests that were received, or hand the connection over.

        `among`: those that the first of them has waited with.
        """
        stats, crowd, start = self._stats, self._crowd, 0
        replies = parked.entrance.replies
        for _ in range(_PIPELINED):
            match = self._match(received, start)
            if match is None:
                break
            stop = match.end()
            if stop - start > self._harmless and not self._is_allowed(match[0]):
                break
            if parked.is_proxy:
                replies = parked.entrance.replies_by(parked.hear(match[0]).scheme)
            reply = None
            if not (crowd.is_here and crowd.has_missed(match[0])):
                reply = replies.at_hand(match)
            if (crowd.is_here and not crowd.goes_first(match, reply)) or (
                reply and (span := reply.rest) and span.length > _LARGE and not self._goes_first()
            ):
                self._put_off(parked, received[start:])
                return
            if reply is None:
                try:
                    reply = self._make(replies, match, among)
                except Miss as miss:
                    if parked.misses == _MISSES:
                        break
                    self._wait(parked, received[start:], miss, among)
                    return
                if reply is None:
                    break
            start = stop
            if self._is_retiring and start == len(received) and not reply.closes:
                reply = reply.as_last()
            stats.requests += 1
            stats.by_lane += 1
            stats.responses[reply.status] += 1
            before = stats.bytes_sent
            try:
                body = parked.send(parked.sock, reply, stats)
            except (ClientGone, OSError) as error:
                self._lose(fd, error, self._log.begin_by_lane(parked, match[0], reply, before))
                return
            if body or reply.closes:
                begun = self._log.begin_by_lane(parked, match[0], reply, before)
                self._pass_on(fd, received[start:], target_of(match), reply, body, begun)
                return
            if (note := self._note) is not None and not parked.misses:
                note((parked.client or parked.meet(), match[0], reply))
            elif self._log.is_on:
                self._log.end_by_lane(parked, match[0], reply, before, stats.bytes_sent)
            parked.is_new = False
            parked.deadline = self._idle_until
            if parked.misses:
                parked.misses, among = 0, None
            if start == len(received):
                return
            self._begin_moment()
        else:  # the others have their turn
            parked.rest = received[start:]
            if parked.watched:
                self._watch(fd, parked)
            return
        self._unpark(fd)
        first_deadline = parked.deadline if parked.is_new else None
        came = among.came.copy() if among else None
        rest, asked_at = received[start:], parked.asked_at if parked.misses else None
        first = parked.sock, parked.entrance, rest, first_deadline
        self._hand_over(Handover(*first, None, came, parked.whose, asked_at))

    def _goes_first(self) -> bool:
        """Return whether one more large answer can be sent before what else has come."""
        self._large -= 1
        return self._large >= 0

    def _make(self, replies: Replies, match: Match, among: Group | None) -> Reply | None:
        """Make an answer that is not kept. Raises Miss."""
        if among:
            return replies.make(match, among.came)
        self._has_here = True
        return replies.make(match, self._here)

    def _lose(self, fd: int, error: Exception, begun: Begun | None) -> None:
        """End a connection whose client is gone."""
        log.debug("a client is gone: %s", error)
        self._close(fd)
        if begun:
            begun.end(self._stats.bytes_sent)

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
        if rest and isinstance(rest[-1], FileSpan):
            assert reply.disk is not None
            assert reply.file is not None
            disk = reply.disk
            file = disk.share(reply.file)
        parked = self._unpark(fd)
        client = parked.meet().address if parked.is_proxy else ""
        unfinished = Unfinished(target, rest, disk, file, reply.closes, begun, client)
        first = parked.sock, parked.entrance, received, None
        self._hand_over(Handover(*first, unfinished, None, parked.whose))

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

    def _is_allowed(self, head: bytes) -> bool:
        return self._limits.allow(len(head), head.index(b"\n") + 1, head.count(b"\n"))


def _encrypted(came: Forwarded) -> tuple[Wire, bytes]:
    """Return the connection behind a preface, and what it begins with; by TLS nothing yet."""
    if came.entrance.context is None:
        return came.sock, came.rest
    return TlsSocket(came.sock, came.entrance.context(), came.rest), b""
