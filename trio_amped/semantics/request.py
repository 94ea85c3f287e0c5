"""Owns what a request is, and which requests are refused before their target is read. Pure."""

import re
from dataclasses import dataclass
from typing import NamedTuple, Self

from .errors import Headers, HttpError
from .target import is_host
from .validators import is_tag, names_coded_form

ALLOW = (b"Allow", b"GET, HEAD, OPTIONS")

_SERVED = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_KNOWN = frozenset({b"POST", b"PUT", b"DELETE", b"PATCH", b"CONNECT", b"TRACE"})
_ZERO = re.compile(rb"0+")


@dataclass(frozen=True, slots=True)
class Request:
    """A request head. `http_version` is b"1.1"; names in `headers` are lower-case."""

    method: bytes
    target: bytes
    http_version: bytes
    headers: Headers

    def count(self, name: bytes) -> int:
        """How many field lines have this (lower-case) name."""
        return len(self._values(name))

    def field(self, name: bytes) -> bytes | None:
        """The value of a field that is no list; None unless there is exactly one line of it."""
        values = self._values(name)
        return values[0] if len(values) == 1 else None

    def combined(self, name: bytes) -> bytes | None:
        """The value of a list-valued field: all its lines joined (RFC 9110 5.3), or None."""
        values = self._values(name)
        return b", ".join(values) if values else None

    def _values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.headers if known == name]

    @property
    def has_body(self) -> bool:
        """Whether content follows the head (RFC 9112 6.3); in doubt, yes."""
        if self.count(b"transfer-encoding"):
            return True
        return any(not _ZERO.fullmatch(value) for value in self._values(b"content-length"))


class Asked(NamedTuple):
    """The part of a request that has a say in which answer a file gets.

    Nothing else of a request reaches the code that selects an answer, so a setting that reads
    another field declares it here, and the recogniser of common requests (recogniser.py) captures
    it. None: the field is not there. A list that was sent in several lines is joined (RFC 9110
    5.3); any other field that was sent twice counts as malformed, which If-Range has as b"".
    """

    method: bytes
    accept: bytes | None = None
    accept_encoding: bytes | None = None
    origin: bytes | None = None
    if_match: bytes | None = None
    if_unmodified_since: bytes | None = None
    if_none_match: bytes | None = None
    if_modified_since: bytes | None = None
    if_range: bytes | None = None
    range: bytes | None = None

    @property
    def codings(self) -> bytes | None:
        """The Accept-Encoding that counts.

        Whoever asks for a part gets one of the file as it is, since most of those who do decode
        nothing (fsspec, requests), unless a tag names a coded form, or a date may be of one.
        """
        if self.range is None or self.method != b"GET":
            return self.accept_encoding
        if self.if_range is not None and not is_tag(self.if_range):
            return self.accept_encoding
        may_have_one = any(map(names_coded_form, filter(None, (self.if_range, self.if_match))))
        return self.accept_encoding if may_have_one else None

    @property
    def is_conditional(self) -> bool:
        """Whether there are preconditions (RFC 9110 13.1), but for that of a range."""
        return self[4:8] != (None, None, None, None)

    @classmethod
    def of(cls, request: Request) -> Self:
        """Return the selecting fields of a request that was read by h11, or came by ASGI."""
        if_range = request.field(b"if-range")
        return cls(
            method=request.method,
            accept=request.combined(b"accept"),
            accept_encoding=request.combined(b"accept-encoding"),
            origin=request.field(b"origin"),
            if_match=request.combined(b"if-match"),
            if_unmodified_since=request.field(b"if-unmodified-since"),
            if_none_match=request.combined(b"if-none-match"),
            if_modified_since=request.field(b"if-modified-since"),
            if_range=if_range or b"" if request.count(b"if-range") else None,
            range=request.field(b"range"),
        )


def check_request(request: Request, *, any_method: bool = False) -> None:
    """Raise HttpError if the request is refused whatever its target: 505, 400, 405, 501, 417.

    `any_method`: an application answers those that are not for files. A CONNECT is none of its.
    """
    _check_version(request)
    _check_framing(request)
    _check_host(request)
    if not any_method or request.method == b"CONNECT":
        _check_method(request)
    _check_expect(request)


def _check_version(request: Request) -> None:
    """RFC 9110 15.6.6: 505 for another major version."""
    if not request.http_version.startswith(b"1."):
        raise HttpError(505, "HTTP version is not 1.x")


def _check_framing(request: Request) -> None:
    """RFC 9112 6.1, 6.3: both ways to delimit the content is an attempt at smuggling."""
    if request.count(b"content-length") and request.count(b"transfer-encoding"):
        raise HttpError(400, "Content-Length with Transfer-Encoding")


def _check_host(request: Request) -> None:
    """RFC 9112 3.2: exactly one valid Host; HTTP/1.0 may leave it out."""
    count = request.count(b"host")
    if count == 0 and request.http_version == b"1.0":
        return
    if count != 1:
        raise HttpError(400, "no Host" if count == 0 else "more than one Host")
    if not is_host(request.field(b"host") or b""):
        raise HttpError(400, "malformed Host")


def _check_method(request: Request) -> None:
    """RFC 9110 9.1: 405 for a method that is known and not allowed, 501 for an unknown one."""
    if request.method in _SERVED:
        return
    if request.method in _KNOWN:
        raise HttpError(405, "method not allowed", (ALLOW,))
    raise HttpError(501, "unknown method")


def _check_expect(request: Request) -> None:
    """RFC 9110 10.1.1: 417 for an expectation we do not know; HTTP/1.0 has none."""
    if request.http_version == b"1.0":
        return
    for member in (request.combined(b"expect") or b"").split(b","):
        if member.strip(b" \t").lower() not in (b"", b"100-continue"):
            raise HttpError(417, "unknown expectation")
