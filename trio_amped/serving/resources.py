"""What paths below one root lead to, ready to be answered from. Never waits: it raises Miss."""

import errno
import logging
import math
import os
from functools import lru_cache
from typing import Any, Final, TypeAlias

from ..disk.interface import FileChanged, OpenFile, PromptDisk, Wish, WouldWait
from ..disk.misses import Arrivals, DigestMiss, FileMiss
from ..disk.open_files import Lookup, OpenFiles
from ..semantics.errors import HttpError, status_of_errno
from ..semantics.form import Form, Representation
from ..semantics.negotiation import preferred_codings
from ..semantics.policy import Policy
from ..semantics.printable import printable
from ..semantics.validators import TagKind, etag, needs_digest
from .clock import Clock

log = logging.getLogger("trio_amped.serving")

_NOTABLE: Final = {
    errno.EXDEV: "a symbolic link leads out of the root, or is absolute: not followed",
    errno.ELOOP: "a symbolic link that is not followed",
    errno.EACCES: "the server may not read it; see chmod(1) and --confine",
    errno.EPERM: "the server may not read it; see chmod(1) and --confine",
}
"""What looks like a file that is missing, and can be mended by whoever runs the server."""
NO_FILE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_OLDER: Final = 10**9  # ns: a sidecar that is so much older than its original is not used
_SMALL: Final = 64 * 1024  # bytes: a body of this size is kept, and goes in one send with its head
_TOLD: Final = 1000  # lines of the log that are not written again
_LONG: Final = 256  # bytes of an Accept-Encoding: beyond, what it means is not remembered

ABSENT: Final = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

_remembered_codings = lru_cache(maxsize=1024)(preferred_codings)


class Found:
    """A file that answers a request: its form, the open file, and its bytes if they are few.

    `owner`: the lookup that it is kept with; None for what serves one request. `replies`: the
    answers that are kept with it (replies.py).
    """

    __slots__ = ("body", "checked_at", "disk", "file", "form", "owner", "replies")

    def __init__(
        self, disk: PromptDisk, file: OpenFile, form: Form, owner: Lookup | None = None
    ) -> None:
        self.disk = disk
        self.file = file
        self.form = form
        self.owner = owner
        self.body: bytes | memoryview | None = None
        self.checked_at = -1  # a moment, see Clock
        self.replies: dict[Any, Any] = {}


class Resource:
    """What a path leads to: a file in its forms, a directory, or nothing that can be sent.

    `original` is the lookup of the path itself, and `offered` has those of the sidecars that may
    stand for it, by coding; `absent` are the paths of those whose folder has no such name. It holds
    while all `lookups` do and those are absent, which is asked again at `valid_until`, and while no
    file was written into, asked at each moment (`checked_at`). `replies`: the answers that are kept
    with it, if it is a directory.
    """

    __slots__ = (
        *("absent", "checked_at", "forms", "lookups", "offered", "original", "replies", "usual"),
        "valid_until",
    )

    def __init__(
        self,
        original: Lookup,
        lookups: list[Lookup],
        offered: dict[bytes, Lookup],
        absent: list[bytes],
    ) -> None:
        self.original = original
        self.absent = absent
        self.lookups = lookups
        self.offered = offered
        self.forms: dict[tuple[bytes | None, bool], Found] = {}
        self.usual: Found | None = None  # of them: as it is
        self.replies: dict[Any, Any] = {}
        self.checked_at = -1
        self.valid_until = -math.inf

    @property
    def is_directory(self) -> bool:
        found = self.original.found
        return found is not None and found.is_directory

    def best_coding(self, accept_encoding: bytes | None) -> bytes | None:
        """Return the coding, of those that are there, that the client prefers to none."""
        if not self.offered or accept_encoding is None:
            return None
        ask = _remembered_codings if len(accept_encoding) <= _LONG else preferred_codings
        return next(iter(ask(accept_encoding, tuple(self.offered))), None)


Place: TypeAlias = Found | Resource | None
"""What a path is known to lead to: a file, a directory; or nothing is known, or nothing there."""


class Resources:
    """The resources of one root. Those that can be kept live as long as their lookups do."""

    def __init__(
        self,
        files: OpenFiles,
        policy: Policy,
        clock: Clock,
        max_age: float,
        tags: TagKind = "mtime",
    ) -> None:
        self.files = files
        self._disk = files.disk
        self._policy = policy
        self._clock = clock
        self._max_age = max_age
        self._tags = tags
        self._told: set[str] = set()
        self.replies: dict[Any, Any] = {}
        """The answers that are kept where there is no file (replies.py)."""

    def find(
        self,
        path: bytes,
        accept_encoding: bytes | None,
        came: Arrivals | None,
        *,
        by_accept: bool = False,
    ) -> Found | OSError | None:
        """Return the file at a path, in the form that suits the client best; None: a directory.

        `by_accept`: it was chosen by the Accept field as well. An OSError is the answer of the
        disk. Raises Miss, and HttpError (404) for what is neither a file nor a directory.
        """
        if self.is_absent(path, came):
            return ABSENT
        try:
            resource = self.get(path, came)
        except FileMiss as miss:
            raise self._whole(miss, path, accept_encoding, came) from None
        original = resource.original
        if original.file is None:
            if original.found is None:
                return OSError(original.errno, original.why)
            if resource.is_directory:
                return None
            raise HttpError(404, "neither a regular file nor a directory")
        coding = resource.best_coding(accept_encoding)
        found = resource.forms.get((coding, by_accept))
        if found is None:
            found = self._form(resource, path, coding, by_accept, came)
            if found.owner is not None or original.made is not resource:
                resource.forms[coding, by_accept] = found
                if coding is None and not by_accept:
                    resource.usual = found
        if coding and found.owner is not None and not self._sidecar_is_unchanged(found):
            self.files.forget(resource.offered[coding])
            original.made = None
            return self.find(path, accept_encoding, came, by_accept=by_accept)
        return found

    def kept(self, path: bytes, accept_encoding: bytes | None) -> Place:
        """Return what `find` would, if it was found so before; a directory as it is."""
        lookup = self.files.get(path)
        resource: Resource | None = lookup.made if lookup is not None else None
        if resource is None:
            return None
        if resource.checked_at != self._clock.moment and not self._still_holds(resource):
            return None
        resource.original.is_used = True
        if not resource.offered:
            return resource.usual or (resource if resource.is_directory else None)
        coding = resource.best_coding(accept_encoding)
        found = resource.forms.get((coding, False))
        if found is None or (coding and not self._sidecar_is_unchanged(found)):
            return None
        if coding:
            resource.offered[coding].is_used = True
        return found

    def is_absent(self, path: bytes, came: Arrivals | None = None) -> bool:
        """Return whether nothing is known of a path, and its folder has no such name."""
        if not self._disk.lacks(path, self._clock.now, self._clock.moment):
            return False
        if self.files.get(path) is not None:
            return False
        return came is None or came.get(self._disk, path) is None

    def _whole(
        self, miss: FileMiss, path: bytes, accept_encoding: bytes | None, came: Arrivals | None
    ) -> FileMiss:
        """Return one miss for a file and all that may stand for it, where one of them is missed.

        If the file itself has already come, return the sidecar's own miss.
        """
        if miss.path != path:
            if came is not None and came.get(self._disk, path) is not None:
                return miss
            miss = FileMiss(self._disk, path)
        miss.wish = self._beside(path, accept_encoding)
        return miss

    def _beside(self, path: bytes, accept_encoding: bytes | None) -> Wish:
        """Return which sidecars are to be opened together with a file: the preferred ones first."""
        sidecars = self._policy.sidecars(path)
        best = preferred_codings(accept_encoding or b"", tuple(sidecars))
        others = [coding for coding in sidecars if coding not in best]
        beside = [
            each
            for coding in (*best, *others)
            if not self._disk.lacks(each := sidecars[coding], self._clock.now, self._clock.moment)
        ]
        return Wish(tuple(beside), sum(sidecars[coding] in beside for coding in best))

    def _sidecar_is_unchanged(self, found: Found) -> bool:
        """Return whether nobody has written into a sidecar since it was opened."""
        if found.checked_at != self._clock.moment:
            if not self.files.is_unchanged(found.file):
                return False
            found.checked_at = self._clock.moment
        return True

    def get(self, path: bytes, came: Arrivals | None) -> Resource:
        """Return what a path leads to. Raises Miss."""
        moment, lookup = self._clock.moment, self.files.get(path)
        if lookup is not None:
            kept: Resource | None = lookup.made
            if kept is not None and (kept.checked_at == moment or self._still_holds(kept)):
                lookup.is_used = True
                return kept
        if came is not None:
            at_hand: Resource | None = came.made.get((self, path))
            if at_hand is not None and (
                at_hand.checked_at == moment or self._is_unchanged(at_hand.lookups)
            ):
                at_hand.checked_at = moment
                return at_hand
        return self._make(path, came)

    def _is_unchanged(self, lookups: list[Lookup]) -> bool:
        """Return whether nobody has written into any of these files since they were opened."""
        files = [each.file for each in lookups if each.file is not None]
        return all(map(self.files.is_unchanged, files))

    def _still_holds(self, resource: Resource) -> bool:
        """Ask whether it is current, and unchanged at this moment."""
        now = self._clock.now
        if now >= resource.valid_until:
            if not all(self.files.is_current(each, now) for each in resource.lookups):
                return False
            moment = self._clock.moment
            if not all(self._disk.lacks(each, now, moment) for each in resource.absent):
                return False
            self._renew(resource)
        file = resource.original.file
        if file is not None and not self.files.is_unchanged(file):
            return False
        resource.checked_at = self._clock.moment
        return True

    def _renew(self, resource: Resource) -> None:
        """Set how long it holds: as long as the oldest of its lookups, which others may share."""
        resource.valid_until = min(each.checked_at for each in resource.lookups) + self._max_age

    def _make(self, path: bytes, came: Arrivals | None) -> Resource:
        now = self._clock.now
        original = self.files.look(path, came, (), now)
        lookups, offered, absent = [original], {}, list[bytes]()
        if original.file is not None:
            for coding, beside in self._policy.sidecars(path).items():
                if self.is_absent(beside, came):
                    absent.append(beside)
                    continue
                sidecar = self.files.look(beside, came, lookups, now)
                lookups.append(sidecar)
                if self._may_stand_for(original, sidecar):
                    offered[coding] = sidecar
        resource = Resource(original, lookups, offered, absent)
        resource.checked_at = self._clock.moment
        if all(each.is_kept for each in (original, *offered.values())):
            original.made = resource
            self._renew(resource)
        elif came is not None and not any(each.is_kept and each.file for each in lookups):
            came.made[self, path] = resource  # nobody else closes a file of it
        return resource

    def _may_stand_for(self, original: Lookup, sidecar: Lookup) -> bool:
        """Return whether a sidecar can be used; whoever runs the server is told why not."""
        assert original.found is not None
        if sidecar.found is None:
            if sidecar.errno not in NO_FILE:
                error = OSError(sidecar.errno, sidecar.why)
                self.tell(f"{printable(sidecar.path)} is not used: {refusal(error).detail}")
            return False
        if not sidecar.found.is_regular:
            problem = "it is no regular file"
        elif sidecar.found.mtime_ns <= original.found.mtime_ns - _OLDER:
            problem = "it is older than its original"
        else:
            return True
        self.tell(f"{printable(sidecar.path)} is not used: {problem}")
        return False

    def _form(
        self,
        resource: Resource,
        path: bytes,
        coding: bytes | None,
        by_accept: bool,
        came: Arrivals | None,
    ) -> Found:
        """Raises DigestMiss, HttpError."""
        lookup = resource.offered[coding] if coding else resource.original
        status, file = lookup.found, lookup.file
        assert status is not None
        assert file is not None
        vary = (b"Accept-Encoding",) if resource.offered else ()
        form = Representation(
            size=status.size,
            media_type=self._policy.media_type(path),
            tag=etag(
                self._tags,
                *(status.size, status.mtime_ns, status.ctime_ns),
                is_settled=file.is_settled,
                digest=self._digest(file, came),
                coding=coding or b"",
            ),
            mtime_ns=status.mtime_ns,
            coding=coding,
            headers=self._policy.headers(path),
            vary=(*vary, b"Accept") if by_accept else vary,
        )
        made = Form(form, self._clock.wall)
        is_kept = resource.original.made is resource and made.has_lasting_date
        return Found(self._disk, file, made, resource.original if is_kept else None)

    def _digest(self, file: OpenFile, came: Arrivals | None) -> bytes:
        """Return what an entity tag is made of, where tags are digests; b"": nothing.

        What was written too lately has none: it may change again, and nothing would tell. Raises
        DigestMiss, HttpError.
        """
        if not file.is_settled or not needs_digest(file.size, self._tags):
            return b""
        known = self._disk.known_digest(file)
        return DigestMiss(self._disk, file).result(came) if known is None else known

    def body(self, found: Found) -> bytes | memoryview | None:
        """Return the bytes of a small file that is kept, if they are in memory; else None."""
        size = found.form.size
        if found.body is None and found.owner is not None and 0 < size <= _SMALL:
            try:
                found.body = self.read(found.file, 0, size)
            except (WouldWait, FileChanged, OSError):
                return None
            self.files.weigh(found.owner, size)
        return found.body

    def read(self, file: OpenFile, offset: int, length: int) -> bytes:
        """Read a part of a file that is in memory. Raises WouldWait, FileChanged, OSError."""
        end = offset + length
        data = self._disk.read_at_once(file, offset, end)
        if len(data) == length:
            return data
        pieces = [data]
        while (offset := offset + len(pieces[-1])) < end:
            pieces.append(self._disk.read_at_once(file, offset, end))
        return b"".join(pieces)

    def tell(self, line: str) -> None:
        """Say it once: a line for every request hides what else there is to say."""
        if line not in self._told:
            if len(self._told) >= _TOLD:
                self._told.clear()
            self._told.add(line)
            log.warning("%s", line)


def refusal(error: OSError) -> HttpError:
    """Return what a client is told of an error of opening a file."""
    number = error.errno or errno.EIO
    detail = _NOTABLE.get(number, f"opening failed: {error.strerror}")
    return HttpError(status_of_errno(number), detail, is_notable=number in _NOTABLE)
