"""Whose a connection is, and whose each of its requests. Never waits."""

from typing import NamedTuple

from ..semantics.forwarding import NOBODY, Forwarding


class Peer(NamedTuple):
    """A client as a log knows it; "" where it has no address, or no TLS.

    `scheme` and `host`: what it has asked for, where a trusted proxy has told; or else "" and b"".
    """

    address: str
    tls: str
    scheme: str = ""
    host: bytes = b""


class Whose(NamedTuple):
    """What is known of a connection from its begin.

    `guest`: whom it is counted for (room.py). `address`: of the client; "" where it has none.
    `forwarding`: what reads whose each request is, if the client is a trusted proxy; or else None.
    """

    guest: str = ""
    address: str = ""
    forwarding: Forwarding | None = None

    def sender(self, head: bytes, own: Peer) -> Peer:
        """Return who has sent the request with this head; `own`: who is at the other end."""
        origin = NOBODY if self.forwarding is None else self.forwarding.origin(head)
        if origin is NOBODY:
            return own
        return Peer(origin.address or own.address, own.tls, origin.scheme, origin.host)


def whose(guest: str, name: object, forwarding: Forwarding | None) -> Whose:
    """Return whose a new connection is, by its getpeername(2); `forwarding`: of the trusted."""
    return Whose(guest, address_of(name), forwarding if is_proxy(name, forwarding) else None)


def is_proxy(name: object, forwarding: Forwarding | None) -> bool:
    """Return whether a peer may tell whose its connections or requests are, by getpeername(2)."""
    return forwarding is not None and forwarding.trusts(name)


def address_of(name: object) -> str:
    """Return the address of a client, by its getpeername(2); "" where it has none, or is gone.

    An IPv4 client of a socket that is for IPv6 as well is shown as what it is (RFC 4291 2.5.5.2).
    """
    host = str(name[0]) if isinstance(name, tuple) else ""
    return host.removeprefix("::ffff:") if "." in host else host
