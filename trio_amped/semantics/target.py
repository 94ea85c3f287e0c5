"""Owns what a request target names: a path below the root, decoded and normalised. Pure."""

import re
from binascii import a2b_qp
from ipaddress import AddressValueError, IPv6Address
from posixpath import normpath, relpath
from typing import NamedTuple
from urllib.parse import quote

from .errors import HttpError

_VISIBLE = bytes(range(ord("!"), ord("~") + 1))
_ABSOLUTE = re.compile(rb"https?://(?P<authority>[^/?]*+)(?P<rest>.*+)", re.IGNORECASE)
_PORT = re.compile(rb":[0-9]*\Z")

_NAME = rb"[A-Za-z0-9\-._~!$&'()*+,;=]"  # unreserved and sub-delims
_HOST = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]"
    rb"|\[[vV][0-9A-Fa-f]++\.(?:" + _NAME + rb"|:)++\]"
    rb"|(?:" + _NAME + rb"|%[0-9A-Fa-f]{2})++)"
    rb"(?::[0-9]*+)?"
)


MOST_SLASHES = 255
"""In a path; no folder of a site is so deep."""

_SPECIAL = (b"", b".", b"..")  # last segments that name a directory
_WELL_KNOWN = b".well-known"
_HIDDEN = re.compile(rb"(?:\A|(?<=/))\.[^/]*+")


class Target(NamedTuple):
    """What a request target names.

    `path`: decoded, relative to the root, without a slash at either end; b"" is the root. No
    segment is empty, "." or "..", and none has a NUL in it, nor a slash where `is_file_path`.
    `is_directory`: the target ended in a slash or in a dot segment.
    `query`: as it was sent; None if there was no "?".
    `is_file_path`: no name in it had an escaped slash, which no file's name can have.
    `hidden`: the names in it that begin with a dot, but for the well-known locations (RFC 8615 3).
    """

    path: bytes
    is_directory: bool
    query: bytes | None
    is_file_path: bool = True
    hidden: frozenset[bytes] = frozenset()

    def refusal(self, shown: frozenset[bytes]) -> str | None:
        """Return why no file may be named like this; `shown`: the hidden names that are served."""
        if not self.is_file_path:
            return "slash within a name"
        return "hidden name" if self.hidden and not self.hidden <= shown else None

    def check(self, shown: frozenset[bytes] = frozenset()) -> None:
        """Raise HttpError 404 if no file may be named like this, see `refusal`."""
        refusal = self.refusal(shown)
        if refusal is not None:
            raise HttpError(404, refusal)

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
        """Return the Location of the same path as a directory, for a 301 (RFC 9110 10.2.2).

        Not for the root, which has no name.
        """
        return self.location_of(self._replace(is_directory=True))

    def location_of(self, other: "Target") -> bytes:
        """Return the Location of another path, with the query of this one, for a redirect.

        A reference that is relative to the target as the client has sent it: so a proxy may have
        taken off a prefix of the path, or have put one before it.
        """
        parent, _, name = (b"/" + other.path).rpartition(b"/")
        if other.is_directory:
            parent, name = b"/" + other.path, b""
        # Every byte that means something is escaped, but for slashes between names. A colon could
        # end a scheme (RFC 3986 4.2), and "//" (or "/\\") at the start would name another host.
        location = quote(self._way_to(parent or b"/") + name).encode()
        return location if self.query is None else location + b"?" + self.query

    def location_below_root(self, rest: bytes) -> bytes:
        """Return the Location of a reference that is relative to the root, and escaped."""
        return self._way_to(b"/") + rest

    def _way_to(self, folder: bytes) -> bytes:
        """Return how the absolute path of a folder is named from here: b"./", b"../a/"."""
        here = self.path if self.is_directory else self.path.rpartition(b"/")[0]
        return relpath(folder, b"/" + here) + b"/"


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


def https_location(name: bytes, port: int, target: bytes) -> bytes:
    """The Location of a target, which `read_target` has read, at a host and a port by TLS.

    Its path is as it was sent: what it decodes to may be spelled in several ways.
    """
    authority = name if port == 443 else b"%b:%d" % (name, port)
    return b"https://%b%b" % (authority, _origin_form(target))


def parse_target(target: bytes) -> Target:
    """What `target` names, as `read_target`; 404 if no file may be named like this on any site."""
    read = read_target(target)
    read.check()
    return read


def read_target(target: bytes) -> Target:
    """What `target` names, in origin-form or absolute-form (RFC 9112 3.2).

    Raises HttpError 400 if it is malformed or leads above the root, 404 if it is too deep. Dot
    segments are removed (RFC 3986 5.2.4), also when they were escaped, after empty segments were
    merged. Which of them are no names of files is not decided here: `Target.check`.

    A client chooses how many segments and escapes there are, so none of the steps loops over them
    in Python: 255 segments would take 0.1 to 1 ms of the event loop.
    """
    if not target or target.translate(None, _VISIBLE) or b"#" in target:
        raise HttpError(400, "target with bytes that are not allowed")
    raw, mark, query = _origin_form(target).partition(b"?")
    decoded, dotted = _decoded(raw) if b"%" in raw else (raw, raw)
    if raw.count(b"/") > MOST_SLASHES:
        raise HttpError(404, "too many segments")
    _, _, last = dotted.rpartition(b"/")
    names = _normalised(dotted)
    path = _part_of(decoded, raw, names)
    is_file_path = names.count(b"/") == path.count(b"/")
    return Target(path, last in _SPECIAL, query if mark else None, is_file_path, _hidden(path))


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


def _decoded(path: bytes) -> tuple[bytes, bytes]:
    """Return a path decoded, and with the escapes of dots decoded. Raises HttpError 400."""
    decoded = _unescaped(path)
    # Each escape is two bytes shorter, and a malformed one is not (nor are two of them together).
    if len(decoded) != len(path) - 2 * path.count(b"%"):
        raise HttpError(400, "target with a malformed escape")
    if b"\0" in decoded:
        raise HttpError(400, "target with a NUL")
    if decoded.count(b".") == path.count(b"."):
        return decoded, path
    return decoded, path.replace(b"%2e", b".").replace(b"%2E", b".")


def _part_of(decoded: bytes, path: bytes, names: bytes) -> bytes:
    """Return `names` decoded, which are mostly all of a path but for the slashes at its ends."""
    if names == path[1:]:
        return decoded[1:]
    if names == path[1:-1]:
        return decoded[1:-1]
    return _unescaped(names)


def _unescaped(path: bytes) -> bytes:
    """Decode escapes once, among visible bytes (RFC 3986 2.4).

    Quoted-printable (RFC 2045 6.7) is the same with another mark, and decoded in C.
    """
    return a2b_qp(path.replace(b"=", b"=3D").replace(b"%", b"="))


def _normalised(path: bytes) -> bytes:
    """The segments without empty and dot segments, joined; normpath does that in C, for a str."""
    if b"//" not in path and b"/." not in path:
        return path.strip(b"/")
    names = normpath(path.decode("ascii").lstrip("/")).encode()
    if names == b".":
        return b""
    if names == b".." or names.startswith(b"../"):
        raise HttpError(400, "target leads above the root")
    return names


def _hidden(path: bytes) -> frozenset[bytes]:
    """Return the hidden names in a path, see `Target`."""
    if path == _WELL_KNOWN or path.startswith(_WELL_KNOWN + b"/"):
        path = path[1:]
    if not (path.startswith(b".") or b"/." in path):
        return frozenset()
    return frozenset(_HIDDEN.findall(path))
