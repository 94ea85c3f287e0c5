"""What h11 makes of one connection: heads in, heads out, and whether another may follow. Pure."""

from http import HTTPStatus

import h11

from ..semantics.errors import HttpError
from ..semantics.request import Request
from ..semantics.response import Response, complete


class Framing:
    """The server's side of HTTP/1.1, which only ever sees whole heads (semantics/head.py): what
    it makes of them cannot depend on how they were split, and its limits never apply."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.SERVER)
        self.request: Request | None = None

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
        self.request = request
        return request

    def send(self, response: Response, now: float, *, closes: bool) -> bytes:
        """The head of a response. h11 is told all of it: it checks the framing, and decides about
        keep-alive. `closes`: whatever the client would like; `now` in seconds since 1970."""
        response = complete(response, now, closes or not self._may_go_on)
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
        return head

    @property
    def _may_go_on(self) -> bool:
        """What follows an unread body, or a CONNECT, is never parsed for a next request."""
        request = self.request
        return request is not None and not request.has_body and request.method != b"CONNECT"

    @property
    def may_send(self) -> bool:
        """Whether a response can still be sent."""
        return self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def start_next(self) -> bool:
        """Get ready for another request; whether there may be one on this connection."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        self.request = None
        return True
