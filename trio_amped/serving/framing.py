"""What h11 makes of one connection: heads in, heads out, and whether another may follow. Pure.

Bodies pass it by, but for those that an application reads and writes.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, TypeAlias

import h11

from ..semantics.body import FileSpan
from ..semantics.dates import format_date
from ..semantics.errors import HttpError
from ..semantics.request import Request
from ..semantics.response import Response, complete

Fields: TypeAlias = Sequence[tuple[bytes, bytes]] | Sequence[tuple[str, str]]
"""The header fields of an application's answer."""

_REASONS: Final = {each.value: each.phrase for each in HTTPStatus}
_CHUNKED: Final = b"\r\nTransfer-Encoding: chunked\r\n"
_CONTINUE: Final = h11.InformationalResponse(status_code=100, headers=[], reason=_REASONS[100])


class Framing:
    """The server's side of HTTP/1.1, which only ever sees whole heads (semantics/head.py): what
    it makes of them cannot depend on how they were split, and its limits never apply."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.SERVER)
        self.request: Request | None = None
        self.head: h11.Request | None = None  # the same, as h11 says it
        self._body = bytearray()  # came, and was not read yet

    def receive(self, head: bytes) -> Request:
        """The request that a head is. Raises HttpError."""
        try:
            self._h11.receive_data(head)
            event = self._h11.next_event()
            assert isinstance(event, h11.Request)
            request = Request(event.method, event.target, event.http_version, tuple(event.headers))
            if not request.has_body:
                self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpError(error.error_status_hint, str(error)) from None
        self.request, self.head = request, event
        return request

    def send(self, response: Response, now: float, *, closes: bool) -> bytes:
        """The head of a response. h11 is told all of it: it checks the framing, and decides about
        keep-alive. `closes`: whatever the client would like; `now` in seconds since 1970."""
        head = self._send(
            h11.Response(
                status_code=response.status,
                reason=HTTPStatus(response.status).phrase,
                headers=list(complete(response, now, closes or not self._may_go_on)),
            )
        )
        # h11 adds this to HEAD without a Content-Length. No body of ours is chunked, after GET
        # neither, and no field of `--header` has this name.
        head = head.replace(_CHUNKED, b"\r\n", 1)
        if length := sum(map(len, response.body)):
            # Only the length counts; the bytes pass h11 by (its documentation: sendfile).
            body = h11.Data(data=FileSpan(0, length))  # type: ignore[arg-type]
            self._h11.send_with_data_passthrough(body)
        self._h11.send(h11.EndOfMessage())
        return head

    # What an application reads and writes is framed by h11 itself.

    def receive_body(self, data: bytes) -> None:
        """What comes after the head; b"" at the end of the stream."""
        self._h11.receive_data(data)

    def next_body(self) -> bytes | None:
        """Some bytes of the body; b"" at its end; None: more must be received.

        Raises HttpError where there is no telling what is body.
        """
        if not self.has_body_here() and not self._body:
            return None
        body = bytes(self._body)
        self._body.clear()
        return body

    def has_body_here(self) -> bool:
        """Whether all of the body has been received. Raises HttpError."""
        try:
            while self._h11.their_state is h11.SEND_BODY:
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    return False
                if isinstance(event, h11.Data):
                    self._body += event.data
        except h11.RemoteProtocolError as error:
            raise HttpError(400, f"a malformed body: {error}") from None
        if self._h11.their_state is h11.ERROR:
            raise HttpError(400, "a malformed body")
        return True

    def go_on(self) -> bytes:
        """The 100 (Continue) that the client waits for before it sends its body, if it does."""
        if not self._h11.they_are_waiting_for_100_continue:
            return b""
        return self._h11.send(_CONTINUE) or b""

    def start(self, response: h11.Response, now: float, *, closes: bool) -> bytes:
        """The head of an application's answer, with Date (RFC 9110 6.6.1). What is left of the
        body of its request is never parsed for a next one. Raises h11.LocalProtocolError."""
        names = {name for name, _ in response.headers}
        headers = response.headers.raw_items()
        if b"date" not in names:
            headers = [(b"Date", format_date(now)), *headers]
        if closes and b"connection" not in names:
            headers = [*headers, (b"Connection", b"close")]
        status = response.status_code
        reason = _REASONS.get(status, "")
        return self._send(h11.Response(status_code=status, headers=headers, reason=reason))

    def send_body(self, data: bytes) -> bytes:
        """A part of its body; nothing of it follows HEAD. Raises h11.LocalProtocolError."""
        assert self.request is not None
        return self._send(h11.Data(data=b"" if self.request.method == b"HEAD" else data))

    def end(self) -> bytes:
        """The end of its body. Raises h11.LocalProtocolError where a part is missing."""
        return self._send(h11.EndOfMessage())

    def _send(self, event: h11.Event) -> bytes:
        return self._h11.send(event) or b""

    @property
    def trailing(self) -> bytes:
        """What was received after the body."""
        return self._h11.trailing_data[0]

    @property
    def _may_go_on(self) -> bool:
        """What follows an unread body, or a CONNECT, is never parsed for a next request."""
        request = self.request
        return request is not None and not request.has_body and request.method != b"CONNECT"

    def start_next(self) -> bool:
        """Get ready for another request; whether there may be one on this connection."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        if self.trailing:  # it only ever sees whole heads
            self._h11 = h11.Connection(h11.SERVER)
        else:
            self._h11.start_next_cycle()
        self.request = self.head = None
        self._body.clear()
        return True
