"""One root: its disk, and the options of its site. Finds the file that answers a target.

Awaits the disk.
"""

import copy
import errno
import logging
import math
from dataclasses import dataclass, replace
from typing import Final

import trio

from ..config import Site
from ..disk.interface import Disk, OpenFile
from ..semantics.errors import Headers, HttpError, status_of_errno
from ..semantics.listing import CONTENT_SECURITY_POLICY, HTML, JSON, View
from ..semantics.negotiation import names_html, preferred_codings, prefers
from ..semantics.printable import printable
from ..semantics.request import Request
from ..semantics.response import Representation
from ..semantics.routing import read_prefix
from ..semantics.target import Target

log = logging.getLogger("trio_amped.serving")

_LINKS: Final = {
    errno.EXDEV: "a symbolic link leads out of the root, or is absolute: not followed",
    errno.ELOOP: "a symbolic link that is not followed",
}
_NO_FILE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_OLDER: Final = 10**9  # ns: a sidecar that is so much older than its original is not used
_REMEMBERED: Final = 10_000  # paths that have no sidecar
_TOLD: Final = 1000  # lines of the log that are not written again
_PAGE_PATIENCE: Final = 1.0  # seconds for an error page, which may be on the disk that failed
_LISTED: Final[Headers] = ((b"Cache-Control", b"no-cache"),)
_LISTED_HTML: Final[Headers] = (
    *_LISTED,
    (b"Content-Security-Policy", CONTENT_SECURITY_POLICY),
    (b"Referrer-Policy", b"no-referrer"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """An open file and what it represents; whoever got it closes the file."""

    file: OpenFile
    form: Representation


class IsDirectory(Exception):
    """There is a directory where a file was asked for."""


class DocumentRoot:
    """What is below one root, as its site wants it answered."""

    def __init__(self, disk: Disk, site: Site, revalidate: float) -> None:
        self.disk = disk
        self.policy = site.policy()
        self.application = site.application
        self._prefix = read_prefix(site.prefix)
        self._revalidate = revalidate
        self._without_sidecar: dict[bytes, float] = {}  # paths, and until when that holds
        self._told: set[str] = set()

    def on(self, disk: Disk) -> "DocumentRoot":
        """The same root on another disk, which remembers for itself what is not there."""
        other = copy.copy(self)
        other.disk, other._revalidate, other._without_sidecar = disk, 0.0, {}
        return other

    async def check_pages(self) -> None:
        """Say in the log which pages are not there, before a client finds out."""
        request = Request(b"GET", b"/", b"1.1", ())
        pages = {*self.policy.error_pages.values(), *filter(None, [self.policy.fallback])}
        with trio.move_on_after(_PAGE_PATIENCE):
            for path in sorted(pages):
                page = await self._open_page(request, path)
                if page is not None:
                    self.disk.close(page.file)

    async def find(self, request: Request, target: Target) -> Found:
        """What answers a target below it: its file, an index, a listing, the fallback.

        Raises HttpError, and IsDirectory for one that is named without its slash.
        """
        try:
            return await self._open(request, target.file_path())
        except IsDirectory:
            if target.is_directory:
                raise HttpError(404, "the index of a directory is a directory") from None
            raise
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise _refusal(error) from None
        if target.is_directory and self.policy.lists_directories:
            try:
                return await self._list(request, target)
            except OSError as error:
                if error.errno not in _NO_FILE:
                    raise _refusal(error) from None
        return await self._fall_back(request)

    async def error_page(self, request: Request, status: int) -> Found | None:
        """The page for errors of this status, if there is one."""
        path = self.policy.error_pages.get(status)
        if path is None:
            return None
        with trio.move_on_after(_PAGE_PATIENCE):
            return await self._open_page(request, path)
        return None

    async def _open(self, request: Request, path: bytes) -> Found:
        """The file at `path` in the best coding. Raises HttpError, OSError, IsDirectory."""
        file = await self.disk.open(path)
        try:
            if file.status.is_directory:
                raise IsDirectory
            if not file.status.is_regular:
                raise HttpError(404, "neither a regular file nor a directory")
            form = Representation(
                size=file.status.size,
                media_type=self.policy.media_type(path),
                mtime_ns=file.status.mtime_ns,
                headers=self.policy.headers(path),
            )
            found = await self._in_best_coding(request, path, Found(file, form))
        except BaseException:
            self.disk.close(file)
            raise
        if found.file is not file:
            self.disk.close(file)
        return found

    async def _in_best_coding(self, request: Request, path: bytes, plain: Found) -> Found:
        """The sidecar that the client would rather have, or the file as it is."""
        now = trio.current_time()
        sidecars = self.policy.sidecars(path)
        if not sidecars or now < self._without_sidecar.get(path, -math.inf):
            return plain
        accepted = request.combined(b"accept-encoding")
        preferred = preferred_codings(accepted, tuple(sidecars))
        # The others are looked for too: if there is one, another client would have got it.
        for coding in (*preferred, *(each for each in sidecars if each not in preferred)):
            sidecar = await self._open_sidecar(sidecars[coding], plain.file)
            if sidecar is None:
                continue
            form = replace(plain.form, vary=(b"Accept-Encoding",))
            if coding not in preferred:
                self.disk.close(sidecar)
                return Found(plain.file, form)
            size, mtime_ns = sidecar.status.size, sidecar.status.mtime_ns
            return Found(sidecar, replace(form, size=size, mtime_ns=mtime_ns, coding=coding))
        if len(self._without_sidecar) >= _REMEMBERED:
            self._without_sidecar.clear()
        self._without_sidecar[path] = now + self._revalidate
        return plain

    async def _open_sidecar(self, path: bytes, original: OpenFile) -> OpenFile | None:
        """A sidecar that may stand for its original; None if there is none."""
        name = printable(path)
        try:
            file = await self.disk.open(path)
        except OSError as error:
            if error.errno not in _NO_FILE:
                self._tell(f"{name} is not used: {_refusal(error).detail}")
            return None
        if not file.status.is_regular:
            problem = "it is no regular file"
        elif file.status.mtime_ns <= original.status.mtime_ns - _OLDER:
            problem = "it is older than its original"
        else:
            return file
        self.disk.close(file)
        self._tell(f"{name} is not used: {problem}")
        return None

    async def _list(self, request: Request, target: Target) -> Found:
        """The directory itself. Raises OSError."""
        accept = request.combined(b"accept")
        prefers_json = prefers(accept, JSON, b"text/html")
        view = View.select(target.query, prefers_json, self._prefix)
        listing = await self.disk.list(target.path, view)
        ours = _LISTED_HTML if view.media_type == HTML else _LISTED
        form = Representation(
            size=listing.file.status.size,
            media_type=view.media_type,
            digest=listing.digest.hex().encode(),
            headers=self.policy.listing_headers(target.path, ours),
            vary=(b"Accept",),
        )
        return Found(listing.file, form)

    async def _fall_back(self, request: Request) -> Found:
        """The page for navigations in an application of a single page. Raises HttpError."""
        path = self.policy.fallback
        if path is None:
            raise HttpError(404, "no such file")
        if names_html(request.combined(b"accept")):
            page = await self._open_page(request, path)
            if page is not None:
                return Found(page.file, replace(page.form, vary=(*page.form.vary, b"Accept")))
        raise HttpError(404, "no such file", ((b"Vary", b"Accept"),))

    async def _open_page(self, request: Request, path: bytes) -> Found | None:
        """A page that an option names; whoever runs the server is told if it is missing."""
        try:
            return await self._open(request, path)
        except OSError as error:
            problem = _refusal(error).detail
        except (IsDirectory, HttpError):
            problem = "it is no regular file"
        self._tell(f"the page {printable(path)} is not used: {problem}")
        return None

    def _tell(self, line: str) -> None:
        """Say it once: what is said for every request hides what else there is to say."""
        if line not in self._told:
            if len(self._told) >= _TOLD:
                self._told.clear()
            self._told.add(line)
            log.warning("%s", line)


def _refusal(error: OSError) -> HttpError:
    number = error.errno or errno.EIO
    detail = _LINKS.get(number, f"opening failed: {error.strerror}")
    return HttpError(status_of_errno(number), detail, is_notable=number in _LINKS)
