"""The header by which a proxy says whose connection it forwards: PROXY protocol 1 and 2. Pure.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2. Whether a header
is to be expected is a setting, and never guessed from what a client sends.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, TypeAlias

from .networks import as_client

Source: TypeAlias = tuple[str, int]
"""The address of a client, without a zone, and its port."""

MOST: Final = 4096  # bytes of a header of version 2, with all that it tells; nginx has the same
_TEXT: Final = b"PROXY "
_MOST_TEXT: Final = 107  # bytes of a header of version 1, with its CRLF
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = 16  # bytes of a header of version 2 before its addresses
_LOCAL, _PROXY = 0x20, 0x21  # version and command
_INET, _INET6 = 0x11, 0x21  # family and protocol: TCP
# Bytes of the addresses of the families and protocols that there are. Those without a client of TCP
# (none, UDP, UNIX sockets) say nothing that we could use.
_SIZES: Final = {0x00: 0, _INET: 12, 0x12: 12, _INET6: 36, 0x22: 36, 0x31: 216, 0x32: 216}
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")


class Header(NamedTuple):
    """A whole header; `source` is None where the client is who has connected (LOCAL, UNKNOWN)."""

    length: int
    source: Source | None


def read_header(data: bytes) -> Header | None:
    """Return the header that these bytes begin with; None: more of them are needed.

    Raises ValueError, with a reason for the log, for what is no header.
    """
    if data.startswith(_TEXT):
        return _read_text(data)
    if data.startswith(_SIGNATURE):
        return _read_binary(data)
    if may_become_header(data):
        return None
    raise ValueError("no PROXY protocol header")


def may_become_header(data: bytes) -> bool:
    """Return whether these bytes begin a header, or could with more after them."""
    return any(data[: len(mark)] == mark[: len(data)] for mark in (_TEXT, _SIGNATURE))


def is_marked(data: bytes) -> bool:
    """Return whether these bytes begin as a header does, whatever follows."""
    return data.startswith((_TEXT, _SIGNATURE))


def _read_text(data: bytes) -> Header | None:
    line, end, _ = data[:_MOST_TEXT].partition(b"\r\n")
    if not end:
        if len(data) >= _MOST_TEXT:
            raise ValueError(f"a PROXY protocol header of more than {_MOST_TEXT} bytes")
        return None
    length = len(line) + len(end)
    family, *fields = line.removeprefix(_TEXT).split(b" ")
    if family == b"UNKNOWN":  # what follows is to be ignored
        return Header(length, None)
    if family not in (b"TCP4", b"TCP6") or len(fields) != 4:
        raise ValueError("a PROXY protocol header without two addresses and ports")
    kind = IPv4Address if family == b"TCP4" else IPv6Address
    source, _ = (_address(kind, each) for each in fields[:2])
    port, _ = (_port(each) for each in fields[2:])
    return Header(length, (source, port))


def _address(kind: type[IPv4Address | IPv6Address], field: bytes) -> str:
    text = field.decode("latin-1")
    if not text.isascii() or "%" in text:
        raise ValueError("a PROXY protocol header with an address that is none")
    try:
        return str(as_client(kind(text)))
    except ValueError:
        raise ValueError("a PROXY protocol header with an address that is none") from None


def _port(field: bytes) -> int:
    if not _PORT.fullmatch(field) or int(field) > 65535:
        raise ValueError("a PROXY protocol header with a port that is none")
    return int(field)


def _read_binary(data: bytes) -> Header | None:
    if len(data) < _FIXED:
        return None
    command, family = data[12], data[13]
    length = _FIXED + int.from_bytes(data[14:_FIXED], "big")
    if command not in (_LOCAL, _PROXY):
        raise ValueError("a PROXY protocol header of another version or command")
    if length > MOST:
        raise ValueError(f"a PROXY protocol header of more than {MOST} bytes")
    if command == _PROXY:
        if family not in _SIZES:
            raise ValueError("a PROXY protocol header of an unknown family")
        if length < _FIXED + _SIZES[family]:
            raise ValueError("a PROXY protocol header too short for its addresses")
    if len(data) < length:
        return None
    return Header(length, _source(data, family) if command == _PROXY else None)


def _source(data: bytes, family: int) -> Source | None:
    """Return the first address and port: what follows them tells more (TLVs), and is ignored."""
    if family == _INET:
        return str(IPv4Address(data[16:20])), int.from_bytes(data[24:26], "big")
    if family == _INET6:
        return str(as_client(IPv6Address(data[16:32]))), int.from_bytes(data[48:50], "big")
    return None


class Preface:
    """What comes before the first request of a connection, in pieces, seen by MSG_PEEK.

    A trusted peer must send a header. From another peer a header is an error, and anything else is
    the begin of its request, or of TLS.
    """

    def __init__(self, is_trusted: bool) -> None:
        self.is_complete = False
        self.source: Source | None = None  # the client, if the proxy has said so
        self._is_trusted = is_trusted
        self._held = b""

    @property
    def rest(self) -> bytes:
        """What was taken and is no header: the request begins with it."""
        return b"" if self._is_trusted else self._held

    @property
    def room(self) -> int:
        """How many bytes are best looked at next; at least one."""
        return MOST + 1 - len(self._held)

    def feed(self, seen: bytes) -> int:
        """Return how many of these bytes, which are to come next, are to be taken.

        Nothing behind a header is taken; and all of a part is, or a wait for more would not wait.
        Raises ValueError, with a reason for the log, where the connection is to be ended.
        """
        if not seen:
            raise ValueError("it ended before a PROXY protocol header")
        data = self._held + seen
        if self._is_trusted:
            header = read_header(data)
            if header is not None:
                self.is_complete, self.source = True, header.source
                return header.length - len(self._held)
        elif is_marked(data):
            raise ValueError("it is not trusted (--trust), and sent a PROXY protocol header")
        elif not may_become_header(data):
            self.is_complete = True
            return 0
        self._held = data
        return len(seen)
