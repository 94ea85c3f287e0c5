"""Owns the expected errors of HTTP, and which status an errno of opening a file is. Pure."""

import errno
from typing import Final, TypeAlias

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Field lines in order. Names: lower-case in requests (h11), Title-Case in what we send."""

NOSNIFF = (b"X-Content-Type-Options", b"nosniff")
"""A file is what its Content-Type says, whatever it looks like (the Fetch Standard, 3.6)."""


class HttpError(Exception):
    """An expected error: what the client is told, and what the log is told.

    `status` is a 4xx or 5xx code. `detail` is for the log and never for the client.
    `headers` are the fields that the status asks for (Allow, Content-Range). `is_notable`: whoever
    runs the server may want to mend it, so the log says it without being asked.
    """

    def __init__(
        self, status: int, detail: str, headers: Headers = (), *, is_notable: bool = False
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.is_notable = is_notable


NOT_UNDERSTOOD: Final = frozenset((400, 505))
"""After these nothing more is read from a client: where its next request begins, and for whom it
is, may be another matter to us than to a proxy in between (RFC 9112 2.2, 11.2)."""

# A forbidden path, a path out of the root and a missing one must look alike.
_NO_SUCH_FILE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EXDEV,  # leads out of the root (RESOLVE_BENEATH)
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,  # a name this file system cannot have
        errno.EILSEQ,  # the same, where names must be UTF-8
        errno.ENXIO,  # a socket, or a device with no driver
        errno.ENODEV,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
    }
)

_TRY_LATER = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ETIMEDOUT,
        errno.ESTALE,
    }
)


def status_of_errno(code: int) -> int:
    """The status for an errno of opening a file: 404, 503 (try later), or else 500."""
    if code in _NO_SUCH_FILE:
        return 404
    if code in _TRY_LATER:
        return 503
    return 500
