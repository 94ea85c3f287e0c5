"""All sites of a server, and which one a request is for. Awaits the disk to begin with."""

import contextlib
import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import trio

from ..config import Application, Config, Site
from ..description import fields_read, settings_of
from ..disk.interface import PromptDisk
from ..disk.local import open_disks
from ..semantics.errors import HttpError
from ..semantics.recogniser import Match, recogniser, target_of
from ..semantics.request import Asked, Request
from ..semantics.routing import Routes, longest
from ..semantics.target import Target, plain_target, read_target, target_host
from ..stats import Stats
from .clock import Clock
from .root import DocumentRoot

log = logging.getLogger("trio_amped")


class Route(NamedTuple):
    """Where a request leads.

    `root`: that of the site it is for, whose options and pages any answer has. `target`: the part
    of the site that it names, if that can be read; `below`: the same below the prefix, or why there
    can be no file of it.
    """

    root: DocumentRoot
    target: Target | None
    below: Target | HttpError

    @property
    def is_misdirected(self) -> bool:
        """Whether no site is at the host that the request is for."""
        return isinstance(self.below, HttpError) and self.below.status == 421

    @property
    def application(self) -> Application | None:
        """The application that answers where no file does, if the target could be read."""
        return self.root.application if self.target else None

    def check(self) -> Target:
        """Return the target below the root. Raises HttpError."""
        if isinstance(self.below, HttpError):
            raise self.below
        self.below.check(self.root.policy.shown)
        return self.below


@contextlib.asynccontextmanager
async def open_router(config: Config, stats: Stats) -> AsyncIterator["Router"]:
    """Open the sites of a config on the disk of this machine. Raises OSError about a root."""
    async with open_disks(config, stats) as disks:
        router = Router(config, disks)
        router.how = tuple(dict.fromkeys(disk.explain() for disk in disks))
        async with router.swept():
            yield router


class Router:
    """The sites of a config, each on its disk."""

    def __init__(self, config: Config, disks: Sequence[PromptDisk]) -> None:
        sites = config.all_sites
        self.how: tuple[str, ...] = ()
        """Which gates and helpers serve the roots: lines for the log."""
        self.clock = Clock()
        self._routes = Routes([(site.hosts, site.prefix) for site in sites])
        self.roots = [
            DocumentRoot(disk, site, config, self.clock)
            for disk, site in zip(disks, sites, strict=True)
        ]
        of_site = settings_of(Site)
        of_server = settings_of(Config).keys() - of_site.keys()
        read = [fields_read(config, of_server), *(fields_read(each, of_site) for each in sites)]
        self.recogniser = recogniser(frozenset().union(*read))
        """Recognises common requests, for all fields that the settings of any site read."""
        self._asked = self.recogniser.numbers_of(Asked._fields)
        is_everywhere = len(sites) == 1 and not self.asks_host and sites[0].prefix == "/"
        self.only = self.roots[0] if is_everywhere else None
        """The root that every request is for, if there is such a one."""

    async def introduce(self) -> None:
        """Say in the log how files are served, and which pages are missing."""
        for line in self.how:
            log.info("%s", line)
        for root in self.roots:
            await root.check_pages()

    @contextlib.asynccontextmanager
    async def swept(self) -> AsyncIterator[None]:
        """Let go of files that nobody asks for, while this lasts; at its end close all of them."""
        async with trio.open_nursery() as nursery:
            for root in self.roots:
                nursery.start_soon(root.files.sweep_for_ever)
            try:
                yield
            finally:
                self.close()
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Close all files that are kept."""
        for root in self.roots:
            root.files.close_unused(math.inf)

    @property
    def asks_host(self) -> bool:
        """Whether an answer may depend on the host that is asked for."""
        return self._routes.asks_host

    def route(self, request: Request) -> Route:
        """Return where a request leads, which need not have been checked."""
        host = b""
        if self.asks_host:  # RFC 9112 3.2.2: the target's authority stands before the field
            host = target_host(request.target) or request.field(b"host") or b""
        return self.route_to(host, request.target)

    def read(self, match: Match) -> tuple[Asked, Route]:
        """Return what a recognised request asks, and where it leads."""
        asked = Asked._make(match.group(*self._asked))
        path = match["plain"]
        target = target_of(match) if path is None else plain_target(path, match["query"])
        if self.only is not None and isinstance(target, Target):
            return asked, Route(self.only, target, target)
        host = match["host"] if self.asks_host else None
        return asked, self.route_to(host or b"", target)

    def route_to(self, host: bytes, target: bytes | Target) -> Route:
        """Return where a target leads, as it was sent or as it was read."""
        places = self._routes.at_host(host)
        if not places:
            error = HttpError(421, "a host that is none of ours")  # RFC 9110 15.5.20
            return Route(self.roots[0], None, error)
        if isinstance(target, bytes):
            try:
                target = read_target(target)
            except HttpError as error:
                return Route(self.roots[places[0].number], None, error)
        place = longest(places, target)
        if place is not None:
            below = target.below(place.prefix)
            assert below is not None
            return Route(self.roots[place.number], target, below)
        first, *_ = sorted(places, key=lambda place: self.roots[place.number].application is None)
        outside = HttpError(404, "outside of every prefix")
        return Route(self.roots[first.number], target, outside)
