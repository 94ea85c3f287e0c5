"""The life of a request, from top to bottom. Awaits the disk and the client."""

import errno
import logging
import os
import time
from typing import Final, Protocol

from ..disk.interface import Disk, FileChanged, OpenFile
from ..semantics.errors import HttpError, status_of_errno
from ..semantics.media_types import media_type
from ..semantics.request import Request, check_request
from ..semantics.response import (
    Representation,
    Response,
    error_response,
    options,
    redirect,
    select_response,
)
from ..semantics.target import Target, parse_target
from .body import BodySender
from .transport import Transport

log = logging.getLogger("trio_amped.serving")

_LINKS: Final = {
    errno.EXDEV: "a symbolic link leads out of the root, or is absolute: not followed",
    errno.ELOOP: "a symbolic link that is not followed",
}


class Exchange(Protocol):
    """The side of a connection that a handler sees: one request, one response."""

    transport: Transport

    async def respond(self, response: Response, body: BodySender) -> None:
        """Send the response. Raises ClientGone, FileChanged, OSError."""


async def handle(request: Request, disk: Disk, exchange: Exchange) -> Response:
    """Answer one request: target -> open -> select the response -> send the body.

    Returns what was sent. Raises ClientGone, and FileChanged or OSError where a body that has
    begun cannot be finished: nothing may follow on that connection.
    """
    file: OpenFile | None = None
    try:
        try:
            check_request(request)
            if request.method == b"OPTIONS":
                if request.target != b"*":
                    parse_target(request.target)
                response = options()
            else:
                target = parse_target(request.target)
                path = target.file_path()
                file = await _open(disk, path)  # the path gate
                if file.status.is_directory:
                    response = _to_directory(target, request)
                else:
                    response = select_response(request, _representation(file, path), time.time())
            body = BodySender(exchange.transport, disk, file, response.body)
            await _prepare(body)  # the page gate
        except HttpError as error:
            _log_refusal(request, error)
            response = error_response(error, request.method)
            body = BodySender(exchange.transport, disk, None, response.body)
        await exchange.respond(response, body)  # the page gate, for every window
        return response
    finally:
        if file is not None:
            disk.close(file)


async def _open(disk: Disk, path: bytes) -> OpenFile:
    """Raises HttpError."""
    try:
        file = await disk.open(path)
    except OSError as error:
        raise _refusal(error) from None
    if file.status.is_regular or file.status.is_directory:
        return file
    disk.close(file)
    raise HttpError(404, "neither a regular file nor a directory")


def _to_directory(target: Target, request: Request) -> Response:
    """A directory has its URL with a slash, so that relative links in its index work."""
    if target.is_directory:
        raise HttpError(404, "the index of a directory is a directory")
    return redirect(target.slash_location(), request)


def _representation(file: OpenFile, path: bytes) -> Representation:
    return Representation(file.status.size, file.status.mtime_ns, media_type(path))


async def _prepare(body: BodySender) -> None:
    """Raises HttpError: nothing was sent yet, so a disk that fails can be answered for."""
    try:
        await body.prepare()
    except FileChanged:
        raise HttpError(503, "the file changed while it was read") from None
    except OSError as error:
        status = 503 if status_of_errno(error.errno or 0) == 503 else 500
        raise HttpError(status, f"reading failed: {error.strerror}") from None


def _refusal(error: OSError) -> HttpError:
    number = error.errno or errno.EIO
    detail = _LINKS.get(number, f"opening failed: {error.strerror}")
    return HttpError(status_of_errno(number), detail, is_notable=number in _LINKS)


def _log_refusal(request: Request, error: HttpError) -> None:
    if error.status >= 500 and error.status not in (501, 505):
        level = logging.WARNING
    elif error.is_notable:
        level = logging.INFO
    else:
        level = logging.DEBUG
    target = os.fsdecode(request.target)
    log.log(level, "%s for %s: %s", error.status, target, error.detail)
