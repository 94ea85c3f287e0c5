"""All sites of a server, and which one a request is for. Awaits the disk to begin with."""

import contextlib
import copy
import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

import trio

from ..binds import Bind
from ..config import Application, Config, Site
from ..description import fields_read, settings_of
from ..disk.interface import PromptDisk
from ..disk.local import open_disks
from ..places import routes_at
from ..semantics.errors import Headers, HttpError
from ..semantics.recogniser import Match, recogniser, target_of
from ..semantics.request import Asked, Request
from ..semantics.routing import longest
from ..semantics.target import (
    Target,
    host_name,
    https_location,
    plain_target,
    read_target,
    target_host,
)
from ..stats import Stats
from .clock import Clock
from .root import DocumentRoot

log = logging.getLogger("trio_amped")

_CHALLENGES: Final = b".well-known/acme-challenge/"  # RFC 8555 8.3


class Moved(NamedTuple):
    """A target that is elsewhere, whatever the method: at this Location, by TLS."""

    location: bytes


class Route(NamedTuple):
    """Where a request leads.

    `root`: that of the site it is for, whose options and pages any answer has. `target`: the part
    of the site that it names, if that can be read; `below`: the same below the prefix, or why there
    can be no file of it. `is_secure`: the site is asked by TLS.
    """

    root: DocumentRoot
    target: Target | None
    below: Target | HttpError | Moved
    is_secure: bool = False

    @property
    def is_misdirected(self) -> bool:
        """Whether no site is at the host that the request is for, or not by this listener."""
        if isinstance(self.below, Moved):
            return True
        return isinstance(self.below, HttpError) and self.below.status == 421

    def headers(self, origin: bytes | None) -> Headers:
        """Return the fields of any answer to a request with this Origin."""
        return self.root.headers(origin, self.is_secure)

    @property
    def application(self) -> Application | None:
        """The application that answers where no file does, if the target could be read."""
        return self.root.application if self.target else None

    def check(self) -> Target:
        """Return the target below the root, where that is not `Moved`. Raises HttpError."""
        assert not isinstance(self.below, Moved)
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
    """The sites of a config, each on its disk, as one listener serves them (see `at`)."""

    def __init__(self, config: Config, disks: Sequence[PromptDisk]) -> None:
        sites = config.all_sites
        self.how: tuple[str, ...] = ()
        """Which gates and helpers serve the roots: lines for the log."""
        self.clock = Clock()
        self._config = config
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
        self._serve_at(None, is_secure=False)

    def at(self, bind: Bind | None, *, is_secure: bool) -> "Router":
        """Return the same sites as a listener serves them.

        `bind`: None for a listener of no bind. `is_secure`: its clients have TLS, with us
        or with a proxy.
        """
        other = copy.copy(self)
        other._serve_at(bind, is_secure=is_secure)
        return other

    def _serve_at(self, bind: Bind | None, *, is_secure: bool) -> None:
        sites = self._config.all_sites
        self._bind = bind
        self._by_other_scheme: Router | None = None  # once that was asked for
        self._routes = routes_at(self._config, bind)
        self.is_secure = is_secure
        is_redirected = bind is not None and bind.plain and not is_secure
        self._https_port = self._config.redirect_http if is_redirected else None
        is_everywhere = len(sites) == 1 and not self.asks_host and sites[0].prefix == "/"
        self.only = self.roots[0] if is_everywhere and self._routes.at_host(b"") else None
        """The root that every request is for, if there is such a one."""

    def by(self, scheme: str) -> "Router":
        """Return the same sites as they are served to a client that has used a scheme.

        `scheme`: "http" or "https", as a trusted proxy tells, which may end TLS, or begin it; "":
        nobody has told, and the scheme is that of the listener.
        """
        if not scheme or (scheme == "https") == self.is_secure:
            return self
        if self._by_other_scheme is None:
            self._by_other_scheme = self.at(self._bind, is_secure=not self.is_secure)
        return self._by_other_scheme

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
            return asked, Route(self.only, target, target, self.is_secure)
        host = match["host"] if self.asks_host else None
        if self._https_port is not None:
            target = target_of(match)
        return asked, self.route_to(host or b"", target)

    def route_to(self, host: bytes, target: bytes | Target) -> Route:
        """Return where a target leads, as it was sent or as it was read."""
        places = self._routes.at_host(host)
        if not places:
            error = HttpError(421, "a host that is none of ours here")  # RFC 9110 15.5.20
            return Route(self.roots[0], None, error)
        sent = target
        if isinstance(target, bytes):
            try:
                target = read_target(target)
            except HttpError as error:
                return Route(self.roots[places[0].number], None, error, self.is_secure)
        if self._https_port is not None and not target.path.startswith(_CHALLENGES):
            assert isinstance(sent, bytes)
            return Route(self.roots[places[0].number], None, self._moved(host, sent))
        place = longest(places, target)
        if place is not None:
            below = target.below(place.prefix)
            assert below is not None
            return Route(self.roots[place.number], target, below, self.is_secure)
        first, *_ = sorted(places, key=lambda place: self.roots[place.number].application is None)
        outside = HttpError(404, "outside of every prefix")
        return Route(self.roots[first.number], target, outside, self.is_secure)

    def _moved(self, host: bytes, target: bytes) -> Moved | HttpError:
        """Return where the same is by TLS. It is at a host that a site names, and nowhere else: a
        client could have a redirect lead anywhere, and a cache give it to others."""
        name = host_name(host)
        if not self._routes.names(name):
            return HttpError(421, "a host that no site names, and none to redirect to")
        assert self._https_port is not None
        return Moved(https_location(name, self._https_port, target))
