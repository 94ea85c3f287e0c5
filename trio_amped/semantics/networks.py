"""Networks of addresses, and who is in them. Pure."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

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


class Networks:
    """Several networks."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)

    def cover(self, name: object) -> bool:
        """Return whether a peer, by what getpeername(2) says of it, is in one of them.

        An IPv4 address counts as such also where it is written as an IPv6 one. Who comes by a UNIX
        socket has no address, and is covered: its file says who may.
        """
        if not isinstance(name, tuple):
            return name is not None
        try:
            address = ip_address(str(name[0]).partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)
