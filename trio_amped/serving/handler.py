"""The life of a request that a task answers, from top to bottom. Awaits the disk and the client."""

import contextlib
from collections.abc import Callable
from typing import Protocol, TypeAlias

from ..config import Application
from ..disk.interface import FileChanged
from ..disk.jobs import ASKER, asking
from ..disk.misses import Arrivals, answered, unreadable
from ..semantics.body import inlined
from ..semantics.errors import HttpError
from ..semantics.request import Asked, Request, check_request
from ..semantics.response import Response, error_response, options, with_headers
from .addresses import Elsewhere
from .answer import answer, answer_error, log_refusal
from .body import BodySender
from .resources import Found
from .root import DocumentRoot, IsDirectory
from .router import Route, Router
from .transport import Outlet

Chosen: TypeAlias = tuple[Response, Found | None]
"""A response, and the file that its body is of."""


class Responder(Protocol):
    """The side of a connection that a handler sees: one request, one response."""

    @property
    def transport(self) -> Outlet:
        """Where the body goes."""

    async def respond(self, response: Response, body: BodySender) -> None:
        """Send the response. Raises ClientGone, FileChanged, OSError."""

    async def pass_on(self, application: Application) -> None:
        """Have an application answer. Raises HttpError if it has sent nothing."""


async def handle(
    request: Request, router: Router, responder: Responder, came: Arrivals | None = None
) -> None:
    """Answer a request that h11, or an ASGI server, has read.

    `came`: what it has waited for already, which is let go of. What is no file's is an
    application's, where there is one. Raises ClientGone, and CutOff, FileChanged or OSError where a
    body that has begun cannot be finished: nothing may follow on that connection.
    """
    route, asked = router.route(request), Asked.of(request)

    def choose(came: Arrivals) -> Chosen | None:
        router.clock.update()
        return _choose(request, asked, route, router, came)

    await _answer(choose, asked, request.target, route, responder, came or Arrivals())


async def handle_common(
    asked: Asked,
    target: bytes,
    route: Route,
    router: Router,
    responder: Responder,
    came: Arrivals,
) -> None:
    """Answer a GET or HEAD that was recognised: nothing is wrong with it but, maybe, its target.

    Not for a route with an application. Raises as `handle` does.
    """

    def choose(came: Arrivals) -> Chosen:
        router.clock.update()
        return answer(asked, route, router.clock, came)

    await _answer(choose, asked, target, route, responder, came)


async def _answer(
    choose: Callable[[Arrivals], Chosen | None],
    asked: Asked,
    target: bytes,
    route: Route,
    responder: Responder,
    came: Arrivals,
) -> None:
    """Target -> open -> select the response -> send the body."""
    with came, asking(ASKER.get()._replace(is_admitted=came.count > 0)):
        try:
            chosen = await answered(lambda: choose(came), came)  # the path gate
            if chosen is None:
                assert route.application is not None
                await responder.pass_on(route.application)
                return
            response, found = chosen
            body = _body(response, found, route.root, came, responder)
            await _prepare(body)  # the page gate
        except HttpError as error:
            response, body = await _answer_error(error, asked, route, came, responder)
            log_refusal(target, error)
        await responder.respond(response, body)  # the page gate, for every window


def _choose(
    request: Request, asked: Asked, route: Route, router: Router, came: Arrivals
) -> Chosen | None:
    """Return the response, or None where the application answers. Raises Miss, HttpError."""
    has_application = route.application is not None
    check_request(request, any_method=has_application or route.is_misdirected)
    if route.is_misdirected:  # which methods there are is not for us to say
        return answer(asked, route, router.clock, came)
    if request.method == b"OPTIONS" and not has_application:
        if request.target != b"*":
            route.check()
        return _options(request, asked, route), None
    if request.method not in (b"GET", b"HEAD", b"OPTIONS"):
        return None
    try:
        if request.method != b"OPTIONS":
            return answer(asked, route, router.clock, came)
        with contextlib.suppress(IsDirectory, Elsewhere):
            route.root.find(asked, route.check(), came)
    except HttpError as error:
        if has_application and error.status == 404:
            return None
        raise
    return _options(request, asked, route), None  # of what is there: its CORS is ours


def _options(request: Request, asked: Asked, route: Route) -> Response:
    preflight = route.root.policy.cors.preflight(request)
    return with_headers(options(), route.headers(asked.origin) + preflight)


def _body(
    response: Response,
    found: Found | None,
    root: DocumentRoot,
    came: Arrivals,
    responder: Responder,
) -> BodySender:
    """Return the body, whose file stays open until the answer has ended."""
    if found is None or not response.body:
        return BodySender(responder.transport, None, None, response.body)
    content = root.resources.body(found)
    if content is not None:
        return BodySender(responder.transport, None, None, inlined(response.body, content))
    file = came.hold(found.disk, found.file)
    return BodySender(responder.transport, found.disk, file, response.body)


async def _prepare(body: BodySender) -> None:
    """Raises HttpError: nothing was sent yet, so a disk that fails can be answered for."""
    try:
        await body.prepare()
    except (FileChanged, OSError) as error:
        raise unreadable(error) from None


async def _answer_error(
    error: HttpError, asked: Asked, route: Route, came: Arrivals, responder: Responder
) -> tuple[Response, BodySender]:
    """Return the answer for an error: a page of the site, or else a line of text."""

    def choose() -> Chosen:
        route.root.clock.update()
        return answer_error(error, asked, route, came)

    with contextlib.suppress(HttpError):
        response, page = await answered(choose, came)
        body = _body(response, page, route.root, came, responder)
        await _prepare(body)
        return response, body
    response = error_response(error, asked.method, route.headers(asked.origin))
    return response, BodySender(responder.transport, None, None, response.body)
