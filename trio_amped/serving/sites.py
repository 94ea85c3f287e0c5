"""All sites of a server, and which one a request is for. Pure."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

from ..config import Application, Config
from ..disk.interface import Disk, PromptDisk
from ..semantics.errors import HttpError
from ..semantics.request import Request
from ..semantics.routing import Routes, longest
from ..semantics.target import Target, read_target, target_host
from .root import DocumentRoot


class Route(NamedTuple):
    """Where a request leads.

    `number`: which site it is for, whose options and pages any answer has. `target`: what it names,
    if that can be read; `below`: the same below the prefix, or why there can be no file of it.
    """

    number: int
    root: DocumentRoot
    target: Target | None
    below: Target | HttpError

    @property
    def application(self) -> Application | None:
        """What answers where no file does, if the target could be read."""
        return self.root.application if self.target else None

    def check(self) -> Target:
        """What is to be found below the root. Raises HttpError."""
        if isinstance(self.below, HttpError):
            raise self.below
        self.below.check()
        return self.below


class Sites:
    """The sites of a config, each on its disk."""

    def __init__(self, config: Config, disks: Sequence[PromptDisk]) -> None:
        sites = config.all_sites
        self.disks = disks
        self._routes = Routes([(site.hosts, site.prefix) for site in sites])
        self.roots = [
            DocumentRoot(disk, site, config.revalidate)
            for disk, site in zip(disks, sites, strict=True)
        ]

    def on(self, disks: Sequence[Disk]) -> "Sites":
        """The same sites on other disks."""
        other = copy.copy(self)
        other.roots = [root.on(disk) for root, disk in zip(self.roots, disks, strict=True)]
        return other

    @property
    def any_disk(self) -> Disk:
        """For a body that is of no file."""
        return self.roots[0].disk

    @property
    def asks_host(self) -> bool:
        """Whether an answer may depend on the host that is asked for."""
        return self._routes.asks_host

    def route(self, request: Request) -> Route:
        """Where a request leads, which need not have been checked."""
        host = target_host(request.target) or request.field(b"host") or b""
        places = self._routes.at_host(host)
        if not places:
            error = HttpError(421, "a host that is none of ours")  # RFC 9110 15.5.20
            return self._at(0, None, error)
        try:
            target = read_target(request.target)
        except HttpError as error:
            return self._at(places[0].number, None, error)
        place = longest(places, target)
        if place is not None:
            below = target.below(place.prefix)
            assert below is not None
            return self._at(place.number, target, below)
        first, *_ = sorted(places, key=lambda place: self.roots[place.number].application is None)
        return self._at(first.number, target, HttpError(404, "outside of every prefix"))

    def _at(self, number: int, target: Target | None, below: Target | HttpError) -> Route:
        return Route(number, self.roots[number], target, below)
