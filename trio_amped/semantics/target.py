"""Owns what a request target names: a path below the root, decoded and normalised. Pure."""

import re
from binascii import a2b_qp
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple
from urllib.parse import quote

from .errors import HttpError

_VISIBLE = re.compile(rb"[!-~]++")
_ABSOLUTE = re.compile(rb"https?://(?P<authority>[^/?]*+)(?P<rest>.*+)", re.IGNORECASE)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")

_PORT = re.compile(rb":[0-9]*\Z")

_NAME = rb"[A-Za-z0-9\-._~!$&'()*+,;=]"  # unreserved and sub-delims
_HOST = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]"
    rb"|\[[vV][0-9A-Fa-f]++\.(?:" + _NAME + rb"|:)++\]"
    rb"|(?:" + _NAME + rb"|%[0-9A-Fa-f]{2})++)"
    rb"(?::[0-9]*+)?"
)


MOST_SLASHES = 255
"""In a path: each segment costs the event loop a microsecond or two."""


class Target(NamedTuple):
    """What a request target names.

    `path`: decoded, relative to the root, without a slash at either end; b"" is the root. No
    segment is empty, "." or "..", and none has a NUL in it, nor a slash where there is no
    `refusal`.
    `is_directory`: the target ended in a slash or in a dot segment.
    `query`: as it was sent; None if there was no "?".
    `refusal`: why no file may be named like this, see `check`.
    """

    path: bytes
    is_directory: bool
    query: bytes | None
    refusal: str | None = None

    def check(self) -> None:
        """Raise HttpError 404 if no file may be named like this: it is hidden, for instance."""
        if self.refusal is not None:
            raise HttpError(404, self.refusal)

    def below(self, prefix: bytes) -> "Target | None":
        """The same, named from the folder `prefix` on; None if it is not in there.

        The folder itself without its slash is b"", and no directory.
        """
        if not prefix:
            return self
        if self.path != prefix and not self.path.startswith(prefix + b"/"):
            return None
        return self._replace(path=self.path[len(prefix) + 1 :])

    def file_path(self, index: bytes = b"index.html") -> bytes:
        """The path of the file to open, relative to the root: for a directory, its index."""
        if not self.is_directory:
            return self.path
        return self.path + b"/" + index if self.path else index

    def slash_location(self) -> bytes:
        """The Location of the same path as a directory, for a 301 (RFC 9110 10.2.2).

        A path-absolute with its query. It never starts with "//" (or "/\\"), which would
        name another host.
        """
        path = b"/" + quote(self.path).encode() + b"/" if self.path else b"/"
        return path if self.query is None else path + b"?" + self.query


def plain_target(path: bytes, query: bytes | None) -> Target:
    """Return the target of a path that is what it looks like (the `plain` of recogniser.py)."""
    if path.endswith(b"/"):
        return Target(path[1:-1], True, query)
    return Target(path[1:], False, query)


def is_host(value: bytes) -> bool:
    """Whether `value` is uri-host [ ":" port ] with a host (RFC 9110 7.2, RFC 3986 3.2.2)."""
    match = _HOST.fullmatch(value)
    if match is None:
        return False
    if match["ipv6"] is None:
        return True
    try:
        IPv6Address(match["ipv6"].decode())
    except AddressValueError:
        return False
    return True


def host_name(value: bytes) -> bytes:
    """What a Host field says without its port, in lower case (RFC 3986 3.2.2).

    Without the dot that ends a name which is not to be completed: it is the same host.
    """
    return _PORT.sub(b"", value).lower().removesuffix(b".")


def target_host(target: bytes) -> bytes | None:
    """The authority of a target in absolute-form, which stands before Host (RFC 9112 3.2.2)."""
    absolute = _ABSOLUTE.fullmatch(target)
    return absolute["authority"] if absolute else None


def parse_target(target: bytes) -> Target:
    """What `target` names, as `read_target`; 404 if no file may be named like this."""
    read = read_target(target)
    read.check()
    return read


def read_target(target: bytes) -> Target:
    """What `target` names, in origin-form or absolute-form (RFC 9112 3.2).

    Raises HttpError 400 if it is malformed or leads above the root, 404 if it is too deep. No
    file may have a hidden name, or a slash within its name: that is a `refusal`. Dot segments are
    removed (RFC 3986 5.2.4), also when they were escaped, after empty segments were merged.
    """
    if not _VISIBLE.fullmatch(target) or b"#" in target:
        raise HttpError(400, "target with bytes that are not allowed")
    raw, mark, query = _origin_form(target).partition(b"?")
    segments, is_directory = _normalise(_decoded_segments(raw))
    path = b"/".join(segments)
    return Target(path, is_directory, query if mark else None, _refusal(segments))


def _origin_form(target: bytes) -> bytes:
    """`target` without scheme and authority, if it had them (RFC 9112 3.2.1, 3.2.2)."""
    if target.startswith(b"/"):
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise HttpError(400, "target is neither a path nor an http URI")
    if not is_host(absolute["authority"]):
        raise HttpError(400, "target with a malformed authority")
    rest = absolute["rest"]
    return rest if rest.startswith(b"/") else b"/" + rest


def _decoded_segments(path: bytes) -> list[bytes]:
    """The segments of `path`, split first and then decoded once (RFC 3986 2.4)."""
    if _BAD_ESCAPE.search(path):
        raise HttpError(400, "target with a malformed escape")
    if path.count(b"/") > MOST_SLASHES:
        raise HttpError(404, "too many segments")
    segments = [_unescaped(each) if b"%" in each else each for each in path.split(b"/")]
    if any(b"\0" in segment for segment in segments):
        raise HttpError(400, "target with a NUL")
    return segments


def _unescaped(segment: bytes) -> bytes:
    """Decode escapes, which are well-formed (RFC 3986 2.1), of visible bytes.

    Quoted-printable (RFC 2045 6.7) is the same with another mark, and decoded in C: 2600 escapes
    take urllib, which loops over them, half a millisecond of the event loop.
    """
    return a2b_qp(segment.replace(b"=", b"=3D").replace(b"%", b"="))


def _normalise(segments: list[bytes]) -> tuple[list[bytes], bool]:
    """The segments without empty and dot segments, and whether the last one was such a one."""
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            if not kept:
                raise HttpError(400, "target leads above the root")
            kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    return kept, segments[-1] in (b"", b".", b"..")


def _refusal(segments: list[bytes]) -> str | None:
    """Hidden names are not served, but for the well-known locations (RFC 8615 3)."""
    visible = segments[1:] if segments[:1] == [b".well-known"] else segments
    if any(segment.startswith(b".") for segment in visible):
        return "hidden name"
    if any(b"/" in segment for segment in visible):
        return "slash within a name"
    return None
