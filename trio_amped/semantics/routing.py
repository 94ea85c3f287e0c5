"""Owns which of several sites a request is for: by host, then by the start of its path. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from .errors import HttpError
from .target import Target, host_name, is_host, parse_target

_ANY: Final = b""
"""The host of the sites that name none."""


class Place(NamedTuple):
    """The `number` of a site, and the prefix of its paths: decoded, without slashes at its ends."""

    number: int
    prefix: bytes


class Routes:
    """Where the sites are, each told by its hosts and its prefix.

    Raises ValueError, naming the setting first, for what is none, and for two sites at one place.
    """

    def __init__(self, sites: Sequence[tuple[Sequence[str], str]]) -> None:
        self._by_host: dict[bytes, list[Place]] = {}
        for number, (hosts, prefix) in enumerate(sites):
            place = Place(number, read_prefix(prefix))
            for host in dict.fromkeys(map(_host, hosts)) or (_ANY,):
                places = self._by_host.setdefault(host, [])
                if any(other.prefix == place.prefix for other in places):
                    where = f"{host.decode()}{prefix}"
                    raise ValueError(f"prefix must not be that of two sites: {where}")
                places.append(place)
        self.asks_host = self._by_host.keys() != {_ANY}
        """Whether it makes a difference which host a request is for."""

    def at_host(self, host: bytes) -> Sequence[Place]:
        """The sites that a Host field is for, in their order; none for a host that is not ours."""
        if not self.asks_host:
            return self._by_host[_ANY]
        return self._by_host.get(host_name(host), self._by_host.get(_ANY, []))


def longest(places: Sequence[Place], target: Target) -> Place | None:
    """The one with the longest prefix that the target is below, whole segments of it."""
    found = [place for place in places if target.below(place.prefix) is not None]
    return max(found, key=lambda place: len(place.prefix), default=None)


def read_prefix(prefix: str) -> bytes:
    """As it stands in a Place. Raises ValueError."""
    try:
        target = parse_target(prefix.encode("utf-8", "surrogateescape"))
    except HttpError:
        target = None
    if target is None or target.query is not None or not prefix.startswith("/"):
        raise ValueError(f"prefix must be the path of a folder, as in a URL, not {prefix!r}")
    return target.path


def _host(name: str) -> bytes:
    host = name.encode("utf-8", "surrogateescape").lower().removesuffix(b".")
    if not is_host(host) or host_name(host) != host or b"*" in host:
        raise ValueError(
            f"hosts must be names or addresses, without a port or a wildcard, not {name!r}"
        )
    return host
