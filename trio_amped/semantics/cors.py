"""Owns what the scripts of other sites may read (the Fetch Standard, 3.3: CORS). Pure."""

import re
from collections.abc import Sequence
from typing import Final

from .errors import Headers
from .request import Request

# As browsers write it: a host in ASCII, and a port that is not the usual one.
_ORIGIN: Final = re.compile(
    r"(?!https://[^/]*:443$|http://[^/]*:80$)[a-z][a-z0-9+.\-]*://"
    r"([a-z0-9._\-]+|\[[0-9a-f:.]+\])(:[0-9]+)?",
    re.IGNORECASE,
)
_VARY: Final = (b"Vary", b"Origin")
_EXPOSED: Final = (
    b"Access-Control-Expose-Headers",
    b"Accept-Ranges, Content-Encoding, Content-Length, Content-Range, ETag",
)
_PREFLIGHT: Final[Headers] = (
    (b"Access-Control-Allow-Methods", b"GET, HEAD, OPTIONS"),
    (b"Access-Control-Allow-Headers", b"*"),
    (b"Access-Control-Max-Age", b"86400"),  # seconds
)


class Cors:
    """Who may read the answers: any site (an origin "*"), those named, or (none) no other."""

    def __init__(self, origins: Sequence[str]) -> None:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"must be an origin (https://host), or *, not {origin!r}")
        self._is_open = "*" in origins
        self._origins = frozenset(origin.lower().encode() for origin in origins)

        self._any_site: Headers = ((b"Access-Control-Allow-Origin", b"*"), _EXPOSED)

    @property
    def reads_origin(self) -> bool:
        """Whether an answer may depend on the Origin of its request."""
        return bool(self._origins) and not self._is_open

    def headers(self, origin: bytes | None) -> Headers:
        """Return the fields for any answer to a request with this Origin field."""
        if not self._origins:
            return ()
        if self._is_open:
            return self._any_site
        if origin is None or origin.lower() not in self._origins:
            return (_VARY,)
        return ((b"Access-Control-Allow-Origin", origin), _EXPOSED, _VARY)

    def preflight(self, request: Request) -> Headers:
        """Return the fields that an answer to OPTIONS has besides."""
        origin = request.field(b"origin")
        is_allowed = self._is_open or (origin is not None and origin.lower() in self._origins)
        is_preflight = origin is not None and request.count(b"access-control-request-method") > 0
        return _PREFLIGHT if is_allowed and is_preflight else ()
