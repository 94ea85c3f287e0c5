"""The answer to a request for a file: one way for the lane, for tasks and for ASGI. Never waits.

Where something would have to be waited for, `answer` raises Miss. A task waits and asks again
(disk/misses.py); the lane parks the connection, and goes on when what is missed has come.
"""

import logging

from ..disk.misses import Arrivals
from ..semantics.errors import HttpError
from ..semantics.printable import printable
from ..semantics.recogniser import Match, target_of
from ..semantics.request import Asked
from ..semantics.response import (
    Response,
    error_response,
    redirect,
    select_response,
    with_headers,
    with_page,
)
from .addresses import Elsewhere
from .clock import Clock
from .resources import Found
from .root import IsDirectory
from .router import Moved, Route

log = logging.getLogger("trio_amped.serving")


def answer(
    asked: Asked, route: Route, clock: Clock, came: Arrivals | None
) -> tuple[Response, Found | None]:
    """Return the response to a GET or HEAD, and the file that its body is of.

    `came`: what misses have brought before. Raises Miss, and HttpError for an error, which
    `answer_error` answers.
    """
    headers = route.headers(asked.origin)
    if isinstance(route.below, Moved):
        return redirect(route.below.location, asked.method, headers, status=308), None
    try:
        found = route.root.find(asked, route.check(), came)
    except IsDirectory:  # its URL ends in a slash, so that relative links in its index work
        assert route.target is not None
        location = route.target.slash_location()
        return redirect(location, asked.method, headers), None
    except Elsewhere as there:
        return redirect(there.location, asked.method, headers, status=there.status), None
    return select_response(asked, found.form, clock.wall, headers), found


def answer_error(
    error: HttpError, asked: Asked, route: Route, came: Arrivals | None
) -> tuple[Response, Found | None]:
    """Return the response for an error: a page of the site, or else a line of text. Raises Miss."""
    headers = route.headers(asked.origin)
    page = route.root.error_page(asked, error.status, came)
    if page is None:
        return error_response(error, asked.method, headers), None
    response = with_headers(error_response(error, asked.method), headers)
    return with_page(response, page.form.representation, asked.method), page


def log_refusal(target: bytes | Match, error: HttpError) -> None:
    """Say why a request is refused; loudly, if whoever runs the server may want to mend that."""
    if error.__cause__:
        level = logging.ERROR
    elif error.status >= 500 and error.status not in (501, 505):
        level = logging.WARNING
    elif error.is_notable:
        level = logging.INFO
    else:
        level = logging.DEBUG
    if log.isEnabledFor(level):
        name = printable(target if isinstance(target, bytes) else target_of(target))
        log.log(level, "%s for %s: %s", error.status, name, error.detail, exc_info=error.__cause__)
