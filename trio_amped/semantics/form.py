"""Owns what is known of one form of a resource, and the fields of its answers. Pure."""

from typing import Final, NamedTuple

from .dates import format_date
from .errors import Headers
from .validators import has_come, last_modified

_RANGES: Final = b"Accept-Ranges: bytes\r\n"


class Representation(NamedTuple):
    """One of the forms in which a resource can be sent, as its open file shows it.

    `size` in bytes; `tag`: every form has its own (RFC 9110 8.8.3.3), None if there are no tags;
    `mtime_ns` since 1970, None if it has no date; `coding`: None for the file as it is; `headers`:
    those that the policy adds; `vary`: the request fields by which it was chosen among others;
    `is_made`: not for HEAD of what is generated, whose size and tag are known only when its content
    is (RFC 9110 9.3.2).
    """

    size: int
    media_type: bytes
    tag: bytes | None = None
    mtime_ns: int | None = None
    coding: bytes | None = None
    headers: Headers = ()
    vary: tuple[bytes, ...] = ()
    is_made: bool = True

    def has_lasting_date(self, now: float) -> bool:
        """Return whether `last_modified` stays what it is now: a date that has not come does not.

        `now` in seconds since 1970.
        """
        return self.mtime_ns is None or has_come(self.mtime_ns, now)

    def last_modified(self, now: float) -> int | None:
        return None if self.mtime_ns is None else last_modified(self.mtime_ns, now)


class Blocks(NamedTuple):
    """Field lines of a form, ready to be sent, for one result of CORS.

    `described`: for 200 and 206, without type and length; `undated`: for a 206 to If-Range, whose
    client has the date from before (RFC 9110 15.3.7); `chosen`: for 304 (15.4.5).
    """

    described: bytes
    undated: bytes
    chosen: bytes


class Form:
    """A representation at a time: its validators, and the fields of its answers rendered once.

    What does not change may be kept and used again, but where its date is in the future: the one
    that is sent instead is that of the answer (RFC 9110 8.8.2.1).
    """

    __slots__ = (
        *("_blocks", "_shown", "date", "has_lasting_date", "media_type", "modified"),
        *("representation", "size", "tag"),
    )

    def __init__(self, representation: Representation, now: float) -> None:
        """`now` in seconds since 1970."""
        self.representation = representation
        self.size = representation.size
        self.media_type = representation.media_type
        self.tag = representation.tag
        self.has_lasting_date = representation.has_lasting_date(now)
        self.modified = representation.last_modified(now)
        self.date = None if self.modified is None else format_date(self.modified)
        self._shown: Headers | None = None  # the result of CORS that was asked for last
        self._blocks: Blocks

    def was_sent(self, tag: bytes | None, date: bytes | None) -> bool:
        """Return whether a client has this form, by If-None-Match or else If-Modified-Since.

        Only where it sends back what it was sent: of all others `evaluate` knows (RFC 9110 13.2.2).
        """
        return date == self.date if tag is None else tag == self.tag

    def blocks(self, cors: Headers) -> Blocks:
        """Return the field lines beside these of CORS, which are the same for most requests."""
        if cors is not self._shown and cors != self._shown:
            self._shown, self._blocks = cors, self._render(cors)
        return self._blocks

    def _render(self, cors: Headers) -> Blocks:
        form = self.representation
        vary: Headers = ((b"Vary", b", ".join(form.vary)),) if form.vary else ()  # RFC 9110 12.5.5
        tag: Headers = ((b"ETag", self.tag),) if self.tag else ()
        chosen = merge_vary((*tag, *vary, *form.headers))
        shown = render(merge_vary((*chosen, *cors)) if cors else chosen)
        coding = b"Content-Encoding: %b\r\n" % form.coding if form.coding else b""  # 8.4
        date = b"Last-Modified: %b\r\n" % self.date if self.date else b""
        return Blocks(
            described=b"".join((coding, date, _RANGES, shown)),
            undated=b"".join((coding, _RANGES, shown)),
            chosen=shown,
        )


def render(headers: Headers) -> bytes:
    """Write field lines (RFC 9112 5)."""
    return b"".join([b"%b: %b\r\n" % field for field in headers])


def parse(fields: bytes) -> Headers:
    """Read field lines that `render` wrote."""
    lines = fields.split(b"\r\n")[:-1]
    return tuple((name, value) for name, _, value in (line.partition(b": ") for line in lines))


def merge_vary(headers: Headers) -> Headers:
    """Return the same with one Vary field, which has the members of all (RFC 9110 12.5.5)."""
    lines = [value for name, value in headers if name.lower() == b"vary"]
    if len(lines) < 2:
        return headers
    members = [member.strip() for line in lines for member in line.split(b",")]
    distinct = {member.lower(): member for member in members if member}
    others = tuple(each for each in headers if each[0].lower() != b"vary")
    return (*others, (b"Vary", b", ".join(distinct.values())))
