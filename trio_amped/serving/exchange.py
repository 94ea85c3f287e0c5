"""One request and its answer, for an application: both bodies are streams. Awaits the client."""

import logging
import time
from collections.abc import Callable
from typing import Final

import h11
import trio

from ..config import Application
from ..deadlines import within
from ..semantics.errors import HttpError
from ..semantics.printable import printable
from .framing import Fields, Framing
from .transport import ClientGone, Transport

log = logging.getLogger("trio_amped.serving")

_NO_CONTENT: Final = (204, 304)


class CutOff(Exception):
    """An application failed in the middle of its answer, which the log has been told."""


class Exchange:
    """One request, and the way to answer it: what the application of a `Site` is called with.

    `request` is its head. Its body can be read, and the answer sent, in any order and by two tasks
    at the same time; an answer that has not ended is ended when the application returns, which must
    have begun one. Where the body was not read to its end, and has not come by itself either, the
    connection ends with the answer. After that, it is of no more use: RuntimeError.

    If the application raises an Exception, or does not answer, that is logged, and the client gets
    a 500, or no end of an answer that has begun. It is not logged if it is ClientGone, which may
    well leave the application, also in an ExceptionGroup. The application is cancelled with the
    server.
    """

    def __init__(
        self,
        framing: Framing,
        transport: Transport,
        body_timeout: float,
        start_answer: Callable[[int], bool],
        note_head: Callable[[int], object],
        peer: str,
    ) -> None:
        """`body_timeout`: seconds to wait for more of the body. `start_answer` is called with the
        status when an answer begins, and says whether it is the last on its connection; `note_head`
        with the length of its head. `peer`: see there."""
        assert framing.head is not None
        self.request: h11.Request = framing.head
        self._refusal: HttpError | None = None
        self._has_started = False
        self._framing = framing
        self._transport = transport
        self._body_timeout = body_timeout
        self._start_answer = start_answer
        self._note_head = note_head
        self._has_ended = False
        self._is_cut_off = False
        self._is_over = False
        self._peer = peer

    @property
    def peer(self) -> str:
        """The address of the client; "" where it has none: a UNIX socket, a stream in memory.

        Where a trusted proxy sends the request (`Config.trust`), as that tells.
        """
        return self._peer

    async def receive_some(self) -> bytes:
        """Some bytes of the request's body; b"" at its end.

        A client that waits to be told so is told to send it (100-continue), unless an answer has
        begun: then it decides for itself when it has waited enough. Always a checkpoint; when it is
        cancelled nothing is lost. Raises ClientGone, also where the body is malformed or does not
        come for `head_timeout` seconds; then the client gets the 400 or 408 for it, if no answer
        has begun.
        """
        await trio.lowlevel.checkpoint()
        self._check_use()
        try:
            while (data := self._framing.next_body()) is None:
                if not self._has_started and (invitation := self._framing.go_on()):
                    await self._transport.send(invitation)
                self._framing.receive_body(await self._receive())
        except HttpError as error:
            self._refusal = error
            raise ClientGone(error.detail) from None
        return data

    async def _receive(self) -> bytes:
        with within(self._body_timeout):
            return await self._transport.receive()
        raise HttpError(408, "the body took too long")

    async def respond(self, status: int, headers: Fields = (), body: bytes = b"") -> None:
        """Send a whole answer; its Content-Length, if it is not there, and Date are added.

        Nothing of the body follows HEAD. A checkpoint, unless it raises; when it is cancelled the
        answer is cut off, and the connection ends. Raises ClientGone; RuntimeError if an answer has
        begun; h11.LocalProtocolError for one that HTTP does not know.
        """
        response = _response(status, headers)
        if self.request.method != b"HEAD":  # before it is sent: so the client can still get a 500
            _check_length(response, body)
        if status not in _NO_CONTENT and not _lengths(response):
            length = (b"Content-Length", b"%d" % len(body))
            response = h11.Response(
                status_code=status, headers=[*response.headers.raw_items(), length]
            )
        head = self._start(response)
        rest = self._framing.send_body(body) + self._framing.end()
        self._has_ended = True
        await self._send(head + rest)

    async def start(self, status: int, headers: Fields = ()) -> None:
        """Begin an answer whose body is sent by `send_all`: chunked, if its Content-Length is not
        given, or until the connection ends for HTTP/1.0.

        The same holds as for `respond`.
        """
        await self._send(self._start(_response(status, headers)))

    async def send_all(self, data: bytes) -> None:
        """Send a part of the body. The same holds as for `respond`, but that `start` comes first.

        Also raises h11.LocalProtocolError for more than the Content-Length. The client must take
        `send_minimum` bytes in each `send_timeout` seconds, or else it is gone.
        """
        self._check_use()
        if not self._has_started or self._has_ended:
            raise RuntimeError("there is no answer that has begun and not ended")
        await self._send(self._framing.send_body(data))

    def _start(self, response: h11.Response) -> bytes:
        self._check_use()
        if self._has_started:
            raise RuntimeError("an answer has begun already")
        self._has_started = True
        closes = self._start_answer(response.status_code) or not self._has_read_all()
        head = self._framing.start(response, time.time(), closes=closes)
        self._note_head(len(head))
        return head

    def _check_use(self) -> None:
        """A task that an application has left behind must not answer the next request."""
        if self._is_over:
            raise RuntimeError("the application has returned: this exchange is over")

    def _has_read_all(self) -> bool:
        try:
            return self._framing.has_body_here()
        except HttpError:
            return False

    async def _send(self, data: bytes) -> None:
        if self._is_cut_off:
            raise ClientGone("an earlier part of the answer was not sent")
        self._is_cut_off = True
        await trio.lowlevel.checkpoint()
        await self._transport.send(data)
        self._is_cut_off = False

    async def _finish(self) -> None:
        """End an answer that has begun."""
        if not self._has_started:
            raise RuntimeError("the application has not answered")
        if not self._has_ended:
            self._has_ended = True
            end = self._framing.end()
            if end or self._is_cut_off:
                await self._send(end)
        elif self._is_cut_off:
            raise ClientGone("the answer was cut off")


async def run(application: Application, exchange: Exchange) -> None:
    """Have an application answer.

    Raises HttpError if it has sent nothing; ClientGone, or CutOff, if nothing can follow.
    """
    try:
        await application(exchange)
        await exchange._finish()
    except Exception as error:
        if _is_gone(error):
            if exchange._refusal and not exchange._has_started:
                raise exchange._refusal from None
            raise ClientGone(str(error)) from None
        if not exchange._has_started:
            raise HttpError(500, "the application failed") from error
        _log_failure(exchange, error)
        raise CutOff from None
    except BaseExceptionGroup as group:  # it failed while it was cancelled
        failure, rest = group.split(Exception)
        if failure and not _is_gone(failure):
            _log_failure(exchange, failure)
        assert rest is not None
        raise rest from None
    finally:
        exchange._is_over = True


def _log_failure(exchange: Exchange, error: Exception) -> None:
    target = printable(exchange.request.target)
    log.error("the application failed: %s", target, exc_info=error)


def _is_gone(error: Exception) -> bool:
    """Whether it says that the client is gone, and nothing else."""
    if isinstance(error, ExceptionGroup):
        return all(map(_is_gone, error.exceptions))
    return isinstance(error, ClientGone)


def _response(status: int, headers: Fields) -> h11.Response:
    """Raises h11.LocalProtocolError."""
    return h11.Response(status_code=status, headers=list(headers))  # type: ignore[arg-type]


def _lengths(response: h11.Response) -> list[int]:
    return [int(value) for name, value in response.headers if name == b"content-length"]


def _check_length(response: h11.Response, body: bytes) -> None:
    """Raises h11.LocalProtocolError where the body is not the one that the head announces."""
    expected = [0] if response.status_code in _NO_CONTENT else _lengths(response)
    if expected and expected != [len(body)]:
        raise h11.LocalProtocolError(f"a body of {len(body)} bytes, where the head says another")
