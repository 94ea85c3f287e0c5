"""Owns which of several sites a request is for: by host, then by the start of its path. Pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from .errors import HttpError
from .target import Target, host_name, is_host, parse_target

_T = TypeVar("_T")

_ANY: Final = b""
"""The host of the sites that name none."""
_LABEL: Final = re.compile(rb"[a-z0-9_-]+")
"""What a wildcard stands for: one label, as in certificates (RFC 9525 6.3)."""


class Place(NamedTuple):
    """The `number` of a site, and the prefix of its paths: decoded, without slashes at its ends."""

    number: int
    prefix: bytes


class SamePlaceError(ValueError):
    """Two sites are at one place; `number`: of the second."""

    def __init__(self, why: str, number: int) -> None:
        super().__init__(why)
        self.number = number


class Routes:
    """Where the sites are, each told by its hosts and its prefix.

    `served`: the numbers of those that a listener serves; None: all. The host of any other one is
    at no place there, and not among those of a site that names none. Raises ValueError, naming the
    setting first, for what is none, and for two sites at one place.
    """

    def __init__(
        self,
        sites: Sequence[tuple[Sequence[str], str]],
        served: Collection[int] | None = None,
    ) -> None:
        self._by_host: dict[bytes, list[Place]] = {}
        for number, (hosts, prefix) in enumerate(sites):
            place = Place(number, read_prefix(prefix))
            for host in read_hosts(hosts):
                places = self._by_host.setdefault(host, [])
                if served is not None and number not in served:
                    continue
                if any(other.prefix == place.prefix for other in places):
                    where = f"{host.decode()}{prefix}"
                    why = f"prefix must not be that of two sites: {where}"
                    raise SamePlaceError(why, number)
                places.append(place)
        self.asks_host = self._by_host.keys() != {_ANY}
        """Whether it makes a difference which host a request is for."""

    def at_host(self, host: bytes) -> Sequence[Place]:
        """The sites that a Host field is for, in their order; none for a host that is not ours."""
        if not self.asks_host:
            return self._by_host[_ANY]
        return at_host(self._by_host, host_name(host)) or ()

    def names(self, name: bytes) -> bool:
        """Return whether a site that is served names this host (`host_name`), or a wildcard."""
        found = at_host(self._by_host, name)
        return bool(found) and found is not self._by_host.get(_ANY)


def at_host(by_host: Mapping[bytes, _T], name: bytes) -> _T | None:
    """Return what is at a host: at its name, or at a wildcard for its first label, or at any.

    The keys of `by_host` are those of `read_hosts`, and `name` is as `host_name` has it.
    """
    if b"*" not in name and (found := by_host.get(name)) is not None:
        return found
    label, dot, domain = name.partition(b".")
    if dot and _LABEL.fullmatch(label) and (found := by_host.get(b"*." + domain)) is not None:
        return found
    return by_host.get(_ANY)


def read_hosts(hosts: Sequence[str]) -> Sequence[bytes]:
    """Return the hosts of a site as they are keys of `at_host`. Raises ValueError."""
    return tuple(dict.fromkeys(map(_host, hosts))) or (_ANY,)


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
    domain = host.removeprefix(b"*.")
    if not is_host(domain) or host_name(domain) != domain or b"*" in domain:
        raise ValueError(
            "hosts must be names or addresses, without a port; a wildcard is the whole first "
            f"label, *.example.org; not {name!r}"
        )
    return host
