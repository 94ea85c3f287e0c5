"""One connection: heads in, responses out, and its deadlines. Awaits the client."""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import NamedTuple

import trio

from ..config import Application, Config
from ..deadlines import until
from ..disk.interface import Disk, FileChanged, OpenFile
from ..disk.jobs import ASKER, Asker, Waits, asking
from ..disk.misses import Arrivals
from ..semantics.body import Body
from ..semantics.dates import format_date
from ..semantics.errors import NOT_UNDERSTOOD, HttpError
from ..semantics.forwarding import Forwarding
from ..semantics.head import HeadReader
from ..semantics.printable import printable
from ..semantics.recogniser import Match, target_of
from ..semantics.request import Asked
from ..semantics.response import Response, error_response, wire_head
from ..stats import Stats
from .body import BodySender
from .clients import Peer, Whose
from .exchange import CutOff, Exchange, run
from .framing import Framing
from .handler import handle, handle_common
from .request_log import Begun, RequestLog
from .room import guest_of
from .router import Route, Router
from .transport import ClientGone, Transport, Turns

log = logging.getLogger("trio_amped.serving")


class Unfinished(NamedTuple):
    """An answer of which a part is sent: `rest` follows, of the `file` on `disk`; `closes`: it is
    the last. `begun`: whom to tell of it. `client`: the address of who has asked, where a proxy has
    told it.
    """

    target: bytes
    rest: Body
    disk: Disk | None
    file: OpenFile | None
    closes: bool
    begun: Begun | None = None
    client: str = ""


class Wait(NamedTuple):
    """The wait of a connection for a request, or (not `is_idle`) for the rest of its head.

    `since` is a time of trio's; `is_new`: it is the first request of the client.
    """

    scope: trio.CancelScope
    since: float
    is_idle: bool
    is_new: bool


class Connection:
    """Serves one client until it or we have enough.

    `parks`: it is not kept for longer than an answer, see `run`. `first_deadline`: for its first
    head. `log`: who is told of answers; None: whom the config names. `turns`: of all those who
    begin an answer; None: they need none. `forwarding`: what reads whose each request is, where a
    trusted proxy sends them. With `fast_lane` common requests are read by the recogniser, and the
    others by h11.
    """

    def __init__(
        self,
        transport: Transport,
        config: Config,
        router: Router,
        stats: Stats,
        *,
        parks: bool = False,
        first_deadline: float | None = None,
        log: RequestLog | None = None,
        turns: Turns | None = None,
        forwarding: Forwarding | None = None,
    ) -> None:
        self.transport = transport
        self._turns = turns
        self._config = config
        self._router = router
        self._stats = stats
        self._parks = parks
        self._framing = Framing()
        self._reader = HeadReader(config.head_limits)
        self.waits: Wait | None = None  # for a request
        self._gives_way = False
        self._is_draining = False
        self._is_retiring = False
        self._request = b""  # the head of what is answered; b"" where it could not be read
        self._asked = b""  # the target of the request that is answered, for the log
        self._common: Match | None = None  # the request, if it was recognised
        self._has_begun = False  # an answer to it
        self._is_last = False  # the answer to it
        self._unfinished: Unfinished | None = None
        self._came = Arrivals()  # for the request that is answered
        self._first_deadline = first_deadline
        self._log = log or RequestLog(config)
        self._forwarding = forwarding
        self._whose = Whose(address=transport.peer, forwarding=forwarding)
        self._waits = Waits()  # for the disk
        self._first_asked_at: float | None = None
        self._asked_at = trio.current_time()
        self._begun: Begun | None = None  # the answer that is to be told of at its end

    async def run(
        self,
        received: bytes = b"",
        unfinished: Unfinished | None = None,
        came: Arrivals | None = None,
        asked_at: float | None = None,
    ) -> bytes | None:
        """Answer the requests in their order; if it `parks`, one of them.

        None: the transport is closed. Otherwise the connection is to be parked, and these bytes are
        to be answered. `received` comes before what there is to receive, and after `unfinished`,
        an answer on its way. `came`: what its first request has waited for, since `asked_at`.
        """
        self._came = came or self._came
        self._first_asked_at = asked_at
        self._reader.feed(received)
        with asking(Asker(guest_of((self._whose.address,)), waits=self._waits)):
            return await self._serve(unfinished)

    async def _serve(self, unfinished: Unfinished | None) -> bytes | None:
        left = None
        try:
            goes_on = await (self._finish(unfinished) if unfinished else self._serve_next())
            while goes_on:
                await trio.lowlevel.checkpoint()
                if self._parks and not self._is_draining:
                    left = self._reader.buffered
                    break
                goes_on = await self._serve_next()
        except ClientGone as gone:
            log.debug("a client is gone: %s", gone)
        except CutOff:
            pass
        except FileChanged:
            log.warning("%s: the file changed while it was sent", self._target())
        except OSError as error:
            log.warning("%s: reading failed while it was sent: %s", self._target(), error)
        except Exception:
            log.exception("a bug: %s", self._target())
            await self._answer_for_bug()
        finally:
            self._note_end()
            self._came.clear()
            if left is None:
                await self.transport.close()
        return left

    @property
    def _client(self) -> str:
        """The address of who has asked, where a trusted proxy has told it; or else ""."""
        return self._forwarding.origin(self._request).address if self._forwarding else ""

    @contextlib.contextmanager
    def _asking_for(self, client: str) -> Iterator[None]:
        """Inside, the disk is asked for a client whose address a proxy has told, if it has."""
        asker = ASKER.get()
        with asking(asker._replace(client=guest_of((client,))) if client else asker):
            yield

    def drain(self) -> None:
        """Finish what is being answered, and then close; an idle connection closes at once."""
        self._is_draining = True
        if self.waits and self.waits.is_idle:
            self.waits.scope.cancel()

    def retire(self) -> None:
        """Go on, but say of the next answer that it is the last."""
        self._is_retiring = True

    def give_way(self) -> None:
        """Close at once, for another client, if no complete request of this one is here."""
        if self.waits:
            self._gives_way = True
            self.waits.scope.cancel()

    async def _finish(self, unfinished: Unfinished) -> bool:
        """Send the rest of an answer, and close its file; whether another request may follow."""
        self._unfinished = unfinished
        self._asked = unfinished.target
        if unfinished.begun:
            self._begun = unfinished.begun
        disk, file, rest = unfinished.disk, unfinished.file, unfinished.rest
        if file is None:
            await self.transport.send(b"".join(rest))  # type: ignore[arg-type]
        else:
            assert disk is not None
            try:
                with self._asking_for(unfinished.client):
                    await BodySender(self.transport, disk, file, rest).send(b"")
            finally:
                disk.close(file)
        self._unfinished = None
        self._note_end()
        if unfinished.closes:
            await self.transport.finish()
        return not unfinished.closes

    async def _serve_next(self) -> bool:
        """Answer one request; whether another may follow."""
        self._request = self._asked = b""
        self._common = None
        self._has_begun = self._is_last = False
        try:
            head = await self._next_head()
            if head is None:
                await self.transport.end()
                return False
            self._asked_at = self._waits.begin(self._first_asked_at)
            self._first_asked_at = None
            self._request = head
            if self._turns:
                await self._turns.next()
            router = self._router
            if self._forwarding:
                router = router.by(self._forwarding.origin(head).scheme)
            if self._config.fast_lane and (match := router.recogniser.match(head)):
                asked, route = router.read(match)
                if route.application is None:
                    return await self._serve_common(match, asked, route)
            request = self._framing.receive(head)
        except HttpError as error:
            await self._refuse(error)
            return False
        self._asked = request.target
        self._stats.requests += 1
        with self._asking_for(self._client):
            await handle(request, router, self, self._came)
        self._note_end()
        trailing = self._framing.trailing
        if self._framing.start_next():
            self._reader.feed(trailing)
            return True
        await self.transport.finish()
        return False

    async def _serve_common(self, match: Match, asked: Asked, route: Route) -> bool:
        """Answer a request that the recogniser has read; whether another may follow."""
        self._common = match
        self._asked = target_of(match)
        self._stats.requests += 1
        with self._asking_for(self._client):
            await handle_common(asked, self._asked, route, self._router, self, self._came)
        self._note_end()
        if self._is_last:
            await self.transport.finish()
        return not self._is_last

    async def _next_head(self) -> bytes | None:
        """The next head; None when the client has nothing to ask. Raises HttpError, ClientGone.

        The deadline of the first head runs from the start, that of a later one from its first
        byte: it is absolute, so that a byte now and then does not help.
        """
        deadline, self._first_deadline = self._first_deadline, None
        if (head := self._reader.next_head()) is not None:
            return head
        if not self._reader.pending:
            idle_until = trio.current_time() + self._config.keep_alive_timeout
            if not await self._first_bytes(deadline or idle_until, is_new=deadline is not None):
                return None
            if (head := self._reader.next_head()) is not None:
                return head
        with self._waiting(deadline or trio.current_time() + self._config.head_timeout):
            while (head := self._reader.next_head()) is None:
                if not await self._receive():
                    if not self._reader.pending:
                        return None  # nothing but empty lines, which are no head
                    raise HttpError(400, "the connection ended within a head")
            return head
        while self._receive_now():
            if (head := self._reader.next_head()) is not None:
                return head
        if not self._reader.pending or self._gives_way:
            return None
        raise HttpError(408, "the head took too long")

    async def _first_bytes(self, idle_until: float, *, is_new: bool) -> bool:
        """Whether a head begins before this time; `drain` ends the wait, but not what is here."""
        if (has_more := self._receive_now()) is not None:
            return has_more
        if self._is_draining:
            return False
        with self._waiting(idle_until, is_idle=True, is_new=is_new):
            return await self._receive()
        return bool(self._receive_now())

    @contextlib.contextmanager
    def _waiting(
        self, deadline: float, *, is_idle: bool = False, is_new: bool = False
    ) -> Iterator[None]:
        self._gives_way = False
        is_kept = is_idle and not is_new
        most = self._config.keep_alive_timeout if is_kept else self._config.head_timeout
        with until(deadline, most) as scope:
            self.waits = Wait(scope, trio.current_time(), is_idle, is_new)
            try:
                yield
            finally:
                self.waits = None

    def _receive_now(self) -> bool | None:
        """Receive without waiting: whether there was more; None: nothing is here yet.

        Also where a wait has ended: a request may have come at the same moment. Raises ClientGone.
        """
        if (data := self.transport.try_receive()) is None:
            return None
        self._reader.feed(data)
        return bool(data)

    async def _receive(self) -> bool:
        """Whether there was more to receive. Raises ClientGone."""
        data = await self.transport.receive()
        self._reader.feed(data)
        return bool(data)

    async def respond(self, response: Response, body: BodySender) -> None:
        """Send a response. Raises ClientGone, FileChanged, OSError."""
        head = self._head(response, response.body)
        await body.send(head)

    async def pass_on(self, application: Application) -> None:
        """Have an application answer. Raises ClientGone, CutOff; HttpError if it sent nothing."""
        request = self._framing.request
        if request and request.has_body and (received := self._reader.take()):
            self._framing.receive_body(received)
        exchange = Exchange(
            self._framing,
            self.transport,
            self._config.head_timeout,
            self._start_answer,
            self._note_head,
            self._client or self._whose.address,
        )
        await run(application, exchange)

    def _start_answer(self, status: int) -> bool:
        """An application begins to answer; whether that is the last on this connection."""
        self._note_begin(status, None)
        return self._ends_here()

    def _ends_here(self) -> bool:
        """Return whether the answer that begins is the last one, since the server ends.

        While it retires there is no hurry: requests that have been received are answered first.
        """
        return self._is_draining or (self._is_retiring and not self._reader.pending)

    def _head(self, response: Response, sent: Body, *, is_last: bool = False) -> bytes:
        """The head of a response, of whose body `sent` follows."""
        closes = is_last or self._ends_here() or response.status in NOT_UNDERSTOOD
        if self._common is not None:
            closes = closes or bool(self._common["close"] or self._common["old"])
            self._is_last = closes
            head = wire_head(response, format_date(time.time()), closes)
        else:
            head = self._framing.send(response, time.time(), closes=closes)
        self._note_begin(response.status, sum(map(len, sent)), len(head))
        return head

    def _note_begin(self, status: int, length: int | None, answer_head: int = 0) -> None:
        """An answer begins; `length` is that of its body, if it is known, the other its head's."""
        self._has_begun = True
        self._stats.responses[status] += 1
        if self._log.renew(int(time.time())):
            self._begun = self._log.begin(
                self._request,
                self._whose.sender(self._request, Peer(self._whose.address, self.transport.tls)),
                status,
                length,
                answer_head=answer_head,
                since=self._asked_at,
                before=self.transport.sent,
            )

    def _note_head(self, length: int) -> None:
        """The head of an application's answer has so many bytes."""
        if self._begun:
            self._begun = self._begun._replace(answer_head=length)

    def _note_end(self) -> None:
        """An answer has ended, one way or the other."""
        if self._begun:
            self._begun.end(self.transport.sent, self._waits.take())
            self._begun = None

    async def _refuse(self, error: HttpError) -> None:
        """Answer what is no request, or a bug, and end."""
        log.debug("%s: %s", error.status, error.detail)
        # h11 knows the method of a request that it understood, and counts the body after it.
        request = self._framing.request
        response = error_response(error, request.method if request else None)
        sent = () if self._request.startswith(b"HEAD ") else response.body
        body = BodySender(self.transport, None, None, sent)
        await body.send(self._head(response, sent, is_last=True))
        self._note_end()
        await self.transport.finish()

    async def _answer_for_bug(self) -> None:
        """Nothing but Cancelled may leave a connection: the others share its nursery."""
        if not self._has_begun and not self._unfinished:
            try:
                await self._refuse(HttpError(500, "a bug"))
            except ClientGone:
                pass
            except Exception:
                log.exception("a bug in the answer for a bug")

    def _target(self) -> str:
        return printable(self._asked) or "a request"
