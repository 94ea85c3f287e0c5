"""Networks of addresses, and who is in them. Pure."""

from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, TypeAlias

UNIX: Final = "unix"
"""What stands for those who come by a UNIX socket, where networks are named."""

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


def read_network(text: str) -> Network:
    """Return a network, such as 10.0.0.0/8, or that of one address.

    Raises ValueError, with a reason for the user.
    """
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("a network is such as 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32") from None
    raise ValueError(f"the network is {meant}")


def as_client(address: Address) -> Address:
    """Return an address as it is; a client of IPv4 is one of IPv4, also where written as IPv6."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


class Networks:
    """Several networks; `has_unix`: and all who come by a UNIX socket, whose file says who may."""

    def __init__(self, networks: Sequence[Network], *, has_unix: bool = False) -> None:
        self._networks = tuple(networks)
        self._has_unix = has_unix

    def cover(self, name: object) -> bool:
        """Return whether a peer, by what getpeername(2) says of it, is in one of them.

        An IPv4 address counts as such also where it is written as an IPv6 one.
        """
        if not isinstance(name, tuple):
            return self._has_unix and name is not None
        try:
            address = as_client(ip_address(str(name[0]).partition("%")[0]))
        except ValueError:
            return False
        return any(address in network for network in self._networks)
