"""One root: the options of its site, and which file answers a target. Never waits: raises Miss."""

import contextlib
import functools
from typing import Final

import trio

from ..config import Config, Site
from ..disk.interface import Listing, PromptDisk
from ..disk.misses import Arrivals, FileMiss, ListingMiss, Miss, answered
from ..disk.open_files import OpenFiles
from ..semantics.errors import Headers, HttpError
from ..semantics.form import Form, Representation
from ..semantics.listing import CONTENT_SECURITY_POLICY, GZIP, HTML, JSON, NOTHING, View
from ..semantics.negotiation import names_html, preferred_codings, prefers
from ..semantics.printable import printable
from ..semantics.ranges import first_part
from ..semantics.request import Asked
from ..semantics.routing import read_prefix
from ..semantics.target import Target
from ..semantics.validators import etag
from .addresses import Addresses, Elsewhere, Outcome
from .clock import Clock
from .resources import NO_FILE, Found, Resources, refusal

_AT_FIRST: Final = 64 * 1024  # bytes of a file that are loaded together with its facts
_PAGE_PATIENCE: Final = 1.0  # seconds for an error page, which may be on the disk that failed
_LISTED: Final[Headers] = ((b"Cache-Control", b"no-cache"),)
_LISTED_HTML: Final[Headers] = (
    *_LISTED,
    (b"Content-Security-Policy", CONTENT_SECURITY_POLICY),
    (b"Referrer-Policy", b"no-referrer"),
)


def _tag(listing: Listing, view: View) -> bytes | None:
    """Return the entity tag of a listing: of its content, since a directory's date tells little."""
    size, coding = listing.file.status.size, view.coding.encode()
    return etag("digest", size, 0, 0, is_settled=True, digest=listing.digest, coding=coding)


class IsDirectory(Exception):
    """There is a directory where a file was asked for."""


class DocumentRoot:
    """What is below one root, as its site wants it answered."""

    def __init__(self, disk: PromptDisk, site: Site, config: Config, clock: Clock) -> None:
        self.disk = disk
        self.policy = site.policy()
        self.application = site.application
        self.files = OpenFiles(
            disk,
            config.max_open_files,
            config.revalidate,
            config.open_file_timeout,
            len(config.all_sites),
        )
        self.resources = Resources(self.files, self.policy, clock, config.revalidate, config.etag)
        self.addresses = Addresses(self.resources, self.policy, config.max_open_files)
        self._prefix = read_prefix(site.prefix)
        self.clock = clock

    def headers(self, origin: bytes | None, is_secure: bool) -> Headers:
        """Return the fields of any answer to a request with this Origin; `is_secure`: by TLS."""
        fields = self.policy.cors.headers(origin)
        return fields + self.policy.hsts if is_secure else fields  # RFC 6797 7.2

    def keeps_answers(self, is_secure: bool) -> bool:
        """Return whether answers are kept: without TLS they lack a field of those that are."""
        return is_secure or not self.policy.hsts

    async def check_pages(self) -> None:
        """Say in the log which pages are not there, before a client finds out."""
        asked = Asked(b"GET")
        pages = {*self.policy.error_pages.values(), *filter(None, [self.policy.fallback])}
        with trio.move_on_after(_PAGE_PATIENCE):
            for path in sorted(pages):
                # One that cannot be read now, for its digest, may be later.
                with contextlib.suppress(HttpError), Arrivals() as came:
                    ask = functools.partial(self._page, asked, path, came)
                    await answered(ask, came)

    def find(self, asked: Asked, target: Target, came: Arrivals | None) -> Found:
        """Return what answers a target below it: its file, an index, a listing, the fallback.

        `came`: what misses have brought before. Raises Miss, HttpError, Elsewhere, and IsDirectory
        for a directory that is named without its slash.
        """
        rule = self.addresses.rule(target)
        if rule is not None:
            raise Elsewhere(rule.location(target), rule.status)
        look = functools.partial(self._look, asked, came)
        path, found = self.addresses.lead(target, look)
        if isinstance(found, Found):
            url = self.addresses.url(target, path, look)
            if url is not target:
                raise Elsewhere(target.location_of(url))
            return found
        if found is None:
            if target.is_directory:
                raise HttpError(404, "the index of a directory is a directory")
            raise IsDirectory
        if found.errno not in NO_FILE:
            raise refusal(found)
        if target.is_directory and self.policy.lists_directories:
            listing = self._listing(asked, target, came)
            if listing is not None:
                return listing
        return self._fall_back(asked, came)

    def _look(self, asked: Asked, came: Arrivals | None, path: bytes) -> Outcome:
        """Return what is at a path, see `Resources.find`. Raises Miss, HttpError."""
        try:
            return self.resources.find(path, asked.codings, came)
        except FileMiss as miss:
            if self.resources.files.get(path) is None:  # of an open file the gate is asked first
                offset, length = first_part(asked, _AT_FIRST)
                miss.wish = miss.wish._replace(offset=offset, length=length)
            raise

    def error_page(self, asked: Asked, status: int, came: Arrivals | None) -> Found | None:
        """Return the page for errors of this status, if there is one. Raises Miss."""
        path = self.policy.error_pages.get(status)
        if path is None:
            return None
        try:
            return self._page(asked, path, came)
        except Miss as miss:
            miss.patience = _PAGE_PATIENCE
            raise

    def _listing(self, asked: Asked, target: Target, came: Arrivals | None) -> Found | None:
        """Return the directory itself, rendered; None if there is none. Raises Miss, HttpError."""
        prefers_json = prefers(asked.accept, JSON, b"text/html")
        gzip = bool(preferred_codings(asked.codings, (GZIP,)))
        view = View.select(target.query, prefers_json, self._prefix, self.policy.shown, gzip=gzip)
        # To make a page that is not sent costs as much. Only a precondition has to know its tag.
        is_made = asked.method != b"HEAD" or asked.is_conditional
        shown = view if is_made else NOTHING
        listing = came.get(self.disk, (target.path, shown)) if came is not None else None
        if listing is None:
            raise ListingMiss(self.disk, target.path, shown)
        if isinstance(listing, OSError):
            if listing.errno in NO_FILE:
                return None
            raise refusal(listing)
        assert isinstance(listing, Listing)
        ours = _LISTED_HTML if view.media_type == HTML else _LISTED
        form = Representation(
            size=listing.file.status.size,
            media_type=view.media_type,
            tag=_tag(listing, view) if is_made else None,
            coding=view.coding.encode() or None,
            headers=self.policy.listing_headers(target.path, ours),
            vary=(b"Accept", b"Accept-Encoding"),
            is_made=is_made,
        )
        return Found(self.disk, listing.file, Form(form, self.clock.wall))

    def _fall_back(self, asked: Asked, came: Arrivals | None) -> Found:
        """Return the page for navigations in a single-page application. Raises Miss, HttpError."""
        path = self.policy.fallback
        if path is None:
            raise HttpError(404, "no such file")
        if names_html(asked.accept):
            page = self._page(asked, path, came, by_accept=True)
            if page is not None:
                return page
        raise HttpError(404, "no such file", ((b"Vary", b"Accept"),))

    def _page(
        self, asked: Asked, path: bytes, came: Arrivals | None, *, by_accept: bool = False
    ) -> Found | None:
        """Return a page that an option names; whoever runs the server is told if it is missing."""
        problem = "it is no regular file"
        try:
            page = self.resources.find(path, asked.codings, came, by_accept=by_accept)
        except HttpError as error:
            if error.status != 404:  # it is there, and cannot be read
                raise
            page = None
        if isinstance(page, Found):
            return page
        if page is not None:
            problem = refusal(page).detail
        self.resources.tell(f"the page {printable(path)} is not used: {problem}")
        return None
