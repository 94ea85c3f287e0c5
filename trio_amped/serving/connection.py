"""One connection: heads in, responses out, and its deadlines. Awaits the client."""

import logging
import time
from http import HTTPStatus

import h11
import trio

from ..config import Config
from ..disk.interface import FileChanged
from ..semantics.errors import HttpError
from ..semantics.head import HeadReader
from ..semantics.request import Request
from ..semantics.response import Response, complete, error_response
from ..stats import Stats
from .body import BodySender
from .handler import handle
from .site import Site
from .transport import ClientGone, Transport

log = logging.getLogger("trio_amped.serving")
access_log = logging.getLogger("trio_amped.access")


class Connection:
    """Serves one client until it or we have enough."""

    def __init__(self, transport: Transport, config: Config, site: Site, stats: Stats) -> None:
        self.transport = transport
        self._config = config
        self._site = site
        self._stats = stats
        self._h11 = h11.Connection(h11.SERVER)
        self._reader = HeadReader(config.max_head, config.max_target, config.max_fields)
        self._idle_scope: trio.CancelScope | None = None
        self._is_draining = False
        self._request: Request | None = None
        self._method: bytes | None = None
        self._first_deadline: float | None = trio.current_time() + config.head_timeout

    async def run(self) -> None:
        """Answer the requests in their order; closes the transport."""
        try:
            while await self._serve_next():
                await trio.lowlevel.checkpoint()
        except ClientGone as gone:
            log.debug("a client is gone: %s", gone)
        except FileChanged:
            log.warning("%s: the file changed while it was sent", self._target())
        except OSError as error:
            log.warning("%s: reading failed while it was sent: %s", self._target(), error)
        except Exception:
            log.exception("a bug: %s", self._target())
            await self._answer_for_bug()
        finally:
            await self.transport.close()

    def drain(self) -> None:
        """Finish what is being answered, and then close; an idle connection closes at once."""
        self._is_draining = True
        if self._idle_scope:
            self._idle_scope.cancel()

    async def _serve_next(self) -> bool:
        """Answer one request; whether another may follow."""
        self._request, self._method = None, None
        try:
            self._request = await self._next_request()
        except HttpError as error:
            await self._refuse(error)
            return False
        if self._request is None:
            return False
        self._stats.requests += 1
        response = await handle(self._request, self._site, self)
        self._log_access(self._request, response)
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            await self.transport.finish()
            return False
        self._h11.start_next_cycle()
        return True

    async def _next_request(self) -> Request | None:
        """The next request; None: there is none any more. Raises HttpError, ClientGone."""
        head = await self._next_head()
        if head is None:
            return None
        try:
            # h11 only ever sees whole heads, so what it makes of them cannot depend on how
            # they were split, and its own limit for incomplete ones never applies.
            self._method = head.partition(b" ")[0]
            self._h11.receive_data(head)
            event = self._h11.next_event()
            assert isinstance(event, h11.Request)
            request = Request(event.method, event.target, event.http_version, tuple(event.headers))
            if not request.has_body:
                self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpError(error.error_status_hint, str(error)) from None
        return request

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
            if not await self._first_bytes(deadline or idle_until):
                return None
        with trio.move_on_at(deadline or trio.current_time() + self._config.head_timeout):
            while (head := self._reader.next_head()) is None:
                if not await self._receive():
                    if not self._reader.pending:
                        return None  # nothing but empty lines, which are no head
                    raise HttpError(400, "the connection ended within a head")
            return head
        if not self._reader.pending:
            return None
        raise HttpError(408, "the head took too long")

    async def _first_bytes(self, idle_until: float) -> bool:
        """Whether a head begins before this time; `drain` ends the wait."""
        if self._is_draining:
            return False
        with trio.move_on_at(idle_until) as self._idle_scope:
            return await self._receive()
        return False

    async def _receive(self) -> bool:
        """Whether there was more to receive. Raises ClientGone."""
        data = await self.transport.receive()
        self._reader.feed(data)
        return bool(data)

    async def respond(self, response: Response, body: BodySender) -> None:
        """Send a response. Raises ClientGone, FileChanged, OSError."""
        await body.send(self._head(response))

    def _head(self, response: Response, *, is_last: bool = False) -> bytes:
        """Tell h11 the whole response: it checks the framing and decides about keep-alive."""
        close = is_last or self._is_draining or not self._may_go_on
        response = complete(response, time.time(), close)
        head = self._h11.send(
            h11.Response(
                status_code=response.status,
                reason=HTTPStatus(response.status).phrase,
                headers=list(response.headers),
            )
        )
        for part in response.body:
            # Only the length counts; the bytes pass h11 by (its documentation: sendfile).
            self._h11.send_with_data_passthrough(h11.Data(data=part))  # type: ignore[arg-type]
        self._h11.send(h11.EndOfMessage())
        assert head is not None
        self._stats.responses[response.status] += 1
        return head

    @property
    def _may_go_on(self) -> bool:
        """What follows an unread body, or a CONNECT, is never parsed for a next request."""
        request = self._request
        return request is not None and not request.has_body and request.method != b"CONNECT"

    async def _refuse(self, error: HttpError) -> None:
        """Answer what is no request, or a bug, and end."""
        log.debug("%s: %s", error.status, error.detail)
        # h11 knows the method of a request that it understood, and counts the body after it.
        response = error_response(error, self._request.method if self._request else None)
        sent = () if self._method == b"HEAD" else response.body
        body = BodySender(self.transport, self._site.disk, None, sent)
        await body.send(self._head(response, is_last=True))
        await self.transport.finish()

    async def _answer_for_bug(self) -> None:
        """Nothing but Cancelled may leave a connection: the others share its nursery."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            try:
                await self._refuse(HttpError(500, "a bug"))
            except ClientGone:
                pass
            except Exception:
                log.exception("a bug in the answer for a bug")

    def _target(self) -> str:
        return self._request.target.decode("latin-1") if self._request else "a request"

    def _log_access(self, request: Request, response: Response) -> None:
        if access_log.isEnabledFor(logging.DEBUG):
            length = sum(map(len, response.body))
            line = b"%s %s HTTP/%s" % (request.method, request.target, request.http_version)
            access_log.debug("%s %d %d", line.decode("latin-1"), response.status, length)
