"""Owns who has asked, where a trusted proxy passes a request on. Pure.

By X-Forwarded-For, -Proto and -Host, or by Forwarded (RFC 7239); never by both: a proxy that writes
one of them mostly passes the other one on as its client has sent it. In a list the entry of the
nearest proxy is the last. All entries before that of the first client which is not trusted may be
that client's own.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, Literal, NamedTuple, TypeAlias

from .networks import Networks, as_client
from .target import is_host

ForwardedFields: TypeAlias = Literal["x-forwarded", "forwarded"]
"""Which fields say who has asked."""

_MOST: Final = 32  # proxies in a row
_LONG: Final = 2048  # bytes of a head: beyond, what its fields mean is not remembered
_SCHEMES: Final = (b"http", b"https")
# A line that is folded (RFC 9112 5.2) is taken whole: the line break is in no entry that is valid.
_LINE: Final = rb":([^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+)"
_X_FORWARDED: Final = re.compile(rb"\r\n(?i:x-forwarded-(for|proto|host))" + _LINE)
_FORWARDED: Final = re.compile(rb"\r\n(?i:(forwarded))" + _LINE)
# RFC 7239 4, but that a value may have ":", "[" and "]" without quotes, as many proxies write them.
_PAIR: Final = (
    rb"[ \t]*+([!#-'*+\-.0-9A-Z^-z|~]++)="
    rb"(?:\x22((?:[^\x22\\]|\\.)*+)\x22|([!#-+\-.-:<-\[\]-~]++))[ \t]*+"
)
_PAIRS: Final = re.compile(_PAIR)
_ELEMENT: Final = re.compile(b"(?:%b)?+(?:;(?:%b)?+)*+" % (_PAIR, _PAIR), re.DOTALL)
_NODE: Final = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::[0-9A-Za-z._\-]{1,32})?|([0-9A-Fa-f:.]{2,45})"
)


class Origin(NamedTuple):
    """Who has asked, as proxies tell.

    `address`: "" where none tells. `scheme`, which the client has used: "http", "https" or "".
    `host`, which it has asked for, maybe with a port; b"".
    """

    address: str = ""
    scheme: str = ""
    host: bytes = b""


NOBODY: Final = Origin()


class Forwarding:
    """Reads who has asked, of requests that come from a proxy in these networks."""

    def __init__(self, networks: Networks, fields: ForwardedFields) -> None:
        self._networks = networks
        self._is_standard = fields == "forwarded"
        self._find = (_FORWARDED if self._is_standard else _X_FORWARDED).findall
        self._remembered = lru_cache(maxsize=1024)(self._read)

    def trusts(self, name: object) -> bool:
        """Return whether requests of a peer are read so, by what getpeername(2) says of it."""
        return self._networks.cover(name)

    def origin(self, head: bytes) -> Origin:
        """Return who has sent the request with this head to the first of the trusted proxies.

        From right to left the first address that is not trusted, or else the last one that can be
        read (as nginx has it, real_ip_recursive).
        """
        lines = tuple(self._find(head))
        if not lines:
            return NOBODY
        return self._remembered(lines) if len(head) <= _LONG else self._read(lines)

    def _read(self, lines: tuple[tuple[bytes, bytes], ...]) -> Origin:
        if self._is_standard:
            return self._first(_elements(b",".join(value for _, value in lines)))
        values = {b"for": b"", b"proto": b"", b"host": b""}
        for name, value in lines:  # of a list that was sent in several lines (RFC 9110 5.3)
            values[name.lower()] += b"," + value
        address = self._first(_listed(values[b"for"])).address
        return Origin(address, _scheme(_last(values[b"proto"])), _host(_last(values[b"host"])))

    def _first(self, origins: Iterable[Origin]) -> Origin:
        """Return the first one that is not trusted, of those from right to left."""
        best = NOBODY
        for origin in origins:
            if not origin.address:
                return best if best.address else origin
            best = origin
            if not self._networks.cover((origin.address,)):
                break
        return best


def _from_the_right(value: bytes) -> Iterator[bytes]:
    """Yield the entries of a list; the last one is all the rest, where there are too many."""
    for entry in reversed(value.rsplit(b",", _MOST)):
        yield entry.strip(b" \t")


def _last(value: bytes) -> bytes:
    return next(filter(None, _from_the_right(value)), b"")


def _listed(value: bytes) -> Iterator[Origin]:
    """Yield what X-Forwarded-For has, from right to left; one without an address is malformed."""
    for entry in _from_the_right(value):
        if entry:  # RFC 9110 5.6.1: empty members are ignored
            yield Origin(_address(entry))


def _elements(value: bytes) -> Iterator[Origin]:
    """Yield what Forwarded has, from right to left; one without an address is malformed, or hides.

    A comma within quotes ends no element. From the right, since a quote that a client has left open
    must not take in what the proxies have added.
    """
    held = b""
    for entry in _from_the_right(value):
        element = entry + b"," + held if held else entry
        if not element:
            continue
        if _ELEMENT.fullmatch(element):
            held = b""
            yield _element(element)
        else:
            held = element
    if held:
        yield NOBODY


def _element(text: bytes) -> Origin:
    pairs = [
        (name.lower(), re.sub(rb"\\(.)", rb"\1", quoted) or plain)
        for name, quoted, plain in _PAIRS.findall(text)
    ]
    said = dict(pairs)
    if len(said) < len(pairs):  # RFC 7239 4: each parameter once
        return NOBODY
    address = _address(said.get(b"for", b""))
    return Origin(address, _scheme(said.get(b"proto", b"")), _host(said.get(b"host", b"")))


def _address(text: bytes) -> str:
    """Return an address without its port; "" for any other text, as "unknown" (RFC 7239 6.2)."""
    node = _NODE.fullmatch(text)
    if node is None:
        return ""
    try:
        return str(as_client(ip_address((node[1] or node[2] or node[3]).decode())))
    except ValueError:
        return ""


def _scheme(text: bytes) -> str:
    scheme = text.lower()
    return scheme.decode() if scheme in _SCHEMES else ""


def _host(text: bytes) -> bytes:
    return text if is_host(text) else b""
