"""The life of a request, from top to bottom. Awaits the disk and the client."""

import contextlib
import logging
import os
import time
from typing import Protocol

from ..disk.interface import FileChanged, OpenFile
from ..semantics.errors import HttpError, status_of_errno
from ..semantics.request import Request, check_request
from ..semantics.response import (
    Response,
    error_response,
    options,
    redirect,
    select_response,
    with_headers,
    with_page,
)
from ..semantics.target import parse_target
from .body import BodySender
from .site import IsDirectory, Site
from .transport import Outlet

log = logging.getLogger("trio_amped.serving")


class Exchange(Protocol):
    """The side of a connection that a handler sees: one request, one response."""

    @property
    def transport(self) -> Outlet:
        """Where the body goes."""

    async def respond(self, response: Response, body: BodySender) -> None:
        """Send the response. Raises ClientGone, FileChanged, OSError."""


async def handle(request: Request, site: Site, exchange: Exchange) -> Response:
    """Answer one request: target -> open -> select the response -> send the body.

    Returns what was sent. Raises ClientGone, and FileChanged or OSError where a body that has
    begun cannot be finished: nothing may follow on that connection.
    """
    with contextlib.ExitStack() as open_files:
        try:
            response, file = await _choose(request, site, open_files)  # the path gate
            response = with_headers(response, site.policy.cors.headers(request))
            body = BodySender(exchange.transport, site.disk, file, response.body)
            await _prepare(body)  # the page gate
        except HttpError as error:
            _log_refusal(request, error)
            response, body = await _answer_error(request, site, error, exchange, open_files)
        await exchange.respond(response, body)  # the page gate, for every window
        return response


async def _choose(
    request: Request, site: Site, open_files: contextlib.ExitStack
) -> tuple[Response, OpenFile | None]:
    """The response, and the file that its body is of. Raises HttpError."""
    check_request(request)
    if request.method == b"OPTIONS":
        if request.target != b"*":
            parse_target(request.target)
        return options(), None
    target = parse_target(request.target)
    try:
        found = await site.find(request, target)
    except IsDirectory:  # its URL ends in a slash, so that relative links in its index work
        return redirect(target.slash_location(), request), None
    open_files.callback(site.disk.close, found.file)
    return select_response(request, found.form, time.time()), found.file


async def _prepare(body: BodySender) -> None:
    """Raises HttpError: nothing was sent yet, so a disk that fails can be answered for."""
    try:
        await body.prepare()
    except FileChanged:
        raise HttpError(503, "the file changed while it was read") from None
    except OSError as error:
        status = 503 if status_of_errno(error.errno or 0) == 503 else 500
        raise HttpError(status, f"reading failed: {error.strerror}") from None


async def _answer_error(
    request: Request,
    site: Site,
    error: HttpError,
    exchange: Exchange,
    open_files: contextlib.ExitStack,
) -> tuple[Response, BodySender]:
    """The answer for an error: a page of the site, or else a line of text."""
    response = error_response(error, request.method)
    response = with_headers(response, site.policy.cors.headers(request))
    page = await site.error_page(request, error.status)
    if page is not None:
        open_files.callback(site.disk.close, page.file)
        with contextlib.suppress(HttpError):
            with_text = with_page(response, page.form, request.method)
            body = BodySender(exchange.transport, site.disk, page.file, with_text.body)
            await _prepare(body)
            return with_text, body
    return response, BodySender(exchange.transport, site.disk, None, response.body)


def _log_refusal(request: Request, error: HttpError) -> None:
    if error.status >= 500 and error.status not in (501, 505):
        level = logging.WARNING
    elif error.is_notable:
        level = logging.INFO
    else:
        level = logging.DEBUG
    target = os.fsdecode(request.target)
    log.log(level, "%s for %s: %s", error.status, target, error.detail)
