"""The life of a request, from top to bottom. Awaits the disk and the client."""

import contextlib
import logging
import time
from typing import Protocol

from ..config import Application
from ..disk.interface import FileChanged, OpenFile
from ..semantics.errors import HttpError, status_of_errno
from ..semantics.printable import printable
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
from .body import BodySender
from .root import DocumentRoot, IsDirectory
from .router import Route, Router
from .transport import Outlet

log = logging.getLogger("trio_amped.serving")


class Responder(Protocol):
    """The side of a connection that a handler sees: one request, one response."""

    @property
    def transport(self) -> Outlet:
        """Where the body goes."""

    async def respond(self, response: Response, body: BodySender) -> None:
        """Send the response. Raises ClientGone, FileChanged, OSError."""

    async def pass_on(self, application: Application) -> None:
        """Have an application answer. Raises HttpError if it has sent nothing."""


async def handle(request: Request, router: Router, responder: Responder) -> None:
    """Answer one request: target -> open -> select the response -> send the body.

    What is no file's is an application's, where there is one. Raises ClientGone, and CutOff,
    FileChanged or OSError where a body that has begun cannot be finished: nothing may follow on
    that connection.
    """
    route = router.route(request)
    root = route.root
    with contextlib.ExitStack() as open_files:
        try:
            chosen = await _choose(request, route, open_files)  # the path gate
            if chosen is None:
                assert route.application is not None
                await responder.pass_on(route.application)
                return
            response, file = chosen
            response = with_headers(response, root.policy.cors.headers(request))
            body = BodySender(responder.transport, root.disk, file, response.body)
            await _prepare(body)  # the page gate
        except HttpError as error:
            _log_refusal(request, error)
            response, body = await _answer_error(request, root, error, responder, open_files)
        await responder.respond(response, body)  # the page gate, for every window


async def _choose(
    request: Request, route: Route, open_files: contextlib.ExitStack
) -> tuple[Response, OpenFile | None] | None:
    """The response, and the file that its body is of; None: the application answers.

    Raises HttpError.
    """
    has_application = route.application is not None
    check_request(request, any_method=has_application or route.is_misdirected)
    if route.is_misdirected:  # which methods there are is not for us to say
        route.check()
    if request.method == b"OPTIONS" and not has_application:
        if request.target != b"*":
            route.check()
        return options(), None
    if request.method not in (b"GET", b"HEAD", b"OPTIONS"):
        return None
    try:
        found = await route.root.find(request, route.check())
        open_files.callback(route.root.disk.close, found.file)
    except IsDirectory:
        found = None
    except HttpError as error:
        if has_application and error.status == 404:
            return None
        raise
    if request.method == b"OPTIONS":  # of what is there: its CORS is ours
        return options(), None
    if found is None:  # its URL ends in a slash, so that relative links in its index work
        assert route.target is not None
        return redirect(route.target.slash_location(), request), None
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
    root: DocumentRoot,
    error: HttpError,
    responder: Responder,
    open_files: contextlib.ExitStack,
) -> tuple[Response, BodySender]:
    """The answer for an error: a page of the site, or else a line of text."""
    response = error_response(error, request.method)
    response = with_headers(response, root.policy.cors.headers(request))
    page = await root.error_page(request, error.status)
    if page is not None:
        open_files.callback(root.disk.close, page.file)
        with contextlib.suppress(HttpError):
            with_text = with_page(response, page.form, request.method)
            body = BodySender(responder.transport, root.disk, page.file, with_text.body)
            await _prepare(body)
            return with_text, body
    return response, BodySender(responder.transport, root.disk, None, response.body)


def _log_refusal(request: Request, error: HttpError) -> None:
    if error.__cause__:
        level = logging.ERROR
    elif error.status >= 500 and error.status not in (501, 505):
        level = logging.WARNING
    elif error.is_notable:
        level = logging.INFO
    else:
        level = logging.DEBUG
    target = printable(request.target)
    log.log(level, "%s for %s: %s", error.status, target, error.detail, exc_info=error.__cause__)
