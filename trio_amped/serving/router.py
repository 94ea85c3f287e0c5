"""All sites of a server, and which one a request is for. Awaits the disk to begin with."""

import contextlib
import copy
import logging
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from ..config import Application, Config
from ..disk.interface import Disk, PromptDisk
from ..disk.local import open_disks
from ..semantics.errors import HttpError
from ..semantics.request import Request
from ..semantics.routing import Routes, longest
from ..semantics.target import Target, read_target, target_host
from ..stats import Stats
from .root import DocumentRoot

log = logging.getLogger("trio_amped")


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
    def is_misdirected(self) -> bool:
        """Whether no site is at the host that the request is for."""
        return isinstance(self.below, HttpError) and self.below.status == 421

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


@contextlib.asynccontextmanager
async def open_router(config: Config, stats: Stats) -> AsyncIterator["Router"]:
    """The sites of a config on the disk of this machine. Raises OSError about a root."""
    async with open_disks(config, stats) as disks:
        router = Router(config, disks)
        router.is_prompt = config.max_open_files > 0 and any(disk.is_prompt for disk in disks)
        router.how = tuple(dict.fromkeys(disk.explain() for disk in disks))
        yield router


class Router:
    """The sites of a config, each on its disk."""

    def __init__(self, config: Config, disks: Sequence[PromptDisk]) -> None:
        sites = config.all_sites
        self.disks = disks
        self.is_prompt = False
        """Whether answers may be kept: files can be opened and read at once."""
        self.how: tuple[str, ...] = ()
        """Which gates and helpers serve the roots: lines for the log."""
        self._routes = Routes([(site.hosts, site.prefix) for site in sites])
        self.roots = [
            DocumentRoot(disk, site, config.revalidate)
            for disk, site in zip(disks, sites, strict=True)
        ]

    def on(self, disks: Sequence[Disk]) -> "Router":
        """The same sites on other disks."""
        other = copy.copy(self)
        other.roots = [root.on(disk) for root, disk in zip(self.roots, disks, strict=True)]
        return other

    async def introduce(self) -> None:
        """Say in the log how files are served, and which pages are missing."""
        for line in self.how:
            log.info("%s", line)
        for root in self.roots:
            await root.check_pages()

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
        places = self._routes.at_host(_host(request) if self.asks_host else b"")
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


def _host(request: Request) -> bytes:
    """RFC 9112 3.2.2: what the target says stands before the field."""
    return target_host(request.target) or request.field(b"host") or b""
