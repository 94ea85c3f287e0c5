"""Owns entity tags and modification dates, and how they are compared (RFC 9110 8.8). Pure."""

import re
from math import floor
from typing import Final, Literal, TypeAlias

SETTLED = 2.0
"""Seconds after which a change is sure to show in the mtime (whose clock is a coarse one)."""

TagKind: TypeAlias = Literal["mtime", "ctime", "none"]
"""What strong entity tags are made of: the mtime, the ctime as well, or there are none."""

ANY: Final = b"*"

_NANO = 10**9
_DAY = 86_400  # seconds: SOURCE_DATE_EPOCH and zip archives know local times
# Seconds since 1970 of the dates that packagers give to all files of all releases: Nix and ostree
# (0 and 1), npm (1985-10-26 08:15), SOURCE_DATE_EPOCH and zip (1980-01-01).
_CONSTANT_DATES = (0, 499_162_500, 315_532_800)
_TAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*+"')
_OF_A_CODED_FORM = re.compile(rb'-[0-9a-f]++-[a-z]++"')
_LONGEST = 1024  # bytes: 16 KiB would take a third of a millisecond to search
_TAG_LIST = re.compile(
    rb"[ \t,]*+(?:" + _TAG.pattern + rb"[ \t]*+(?:,[ \t,]*+|\Z))*+",
)


def has_constant_date(mtime_ns: int) -> bool:
    """Return whether an mtime (ns since 1970) is one that packagers give to all their files.

    Within a day of such a date, the mtime does not tell one version of a file from another.
    """
    seconds = mtime_ns // _NANO
    return any(abs(seconds - each) <= _DAY for each in _CONSTANT_DATES)


def tag_has_ctime(mtime_ns: int, kind: TagKind) -> bool:
    """Return whether the entity tag of a file with this mtime (ns since 1970) has its ctime too.

    utimensat(2) puts an mtime back; nobody can set a ctime (inode(7)).
    """
    return kind == "ctime" or has_constant_date(mtime_ns)


def is_settled(mtime_ns: int, ctime_ns: int | None, now: float) -> bool:
    """Return whether each change to come shows in the times of a file (ns since 1970).

    Until they are more than SETTLED seconds old, the file may change again with the same times
    (RFC 9110 8.8.1). `ctime_ns`: None where it is no part of the entity tag; `now` in seconds
    since 1970. A time in the future is never settled.
    """
    newest = mtime_ns if ctime_ns is None else max(mtime_ns, ctime_ns)
    return now - newest / _NANO > SETTLED


def etag(
    size: int, mtime_ns: int, now: float, coding: bytes = b"", ctime_ns: int | None = None
) -> bytes:
    """The entity tag of a file of `size` bytes; `now` in seconds since 1970 (RFC 9110 8.8.3).

    A file that holds another one in a content coding has its own tag, whatever its size and date.
    Weak until the file `is_settled`. `ctime_ns`: None where it is no part of the tag.
    """
    # With a dot, lest the size be taken for a coding (`names_coded_form`).
    change = b"" if ctime_ns is None else b".%x" % ctime_ns
    tag = b'"%x%s-%x%s"' % (mtime_ns, change, size, b"-" + coding if coding else b"")
    return tag if is_settled(mtime_ns, ctime_ns, now) else b"W/" + tag


def names_coded_form(value: bytes) -> bool:
    """Whether one of the entity tags in a field, if it is not too long, is of a coded form."""
    return len(value) <= _LONGEST and _OF_A_CODED_FORM.search(value) is not None


def is_tag(validator: bytes) -> bool:
    """Whether an If-Range field has an entity tag, and not a date (RFC 9110 13.1.5)."""
    return validator.startswith((b'"', b"W/"))


def last_modified(mtime_ns: int, now: float) -> int | None:
    """The modification date in whole seconds, never later than now (RFC 9110 8.8.2.1).

    None for a constant date, which would tell a client that a new version is the old one.
    """
    return None if has_constant_date(mtime_ns) else min(mtime_ns // _NANO, floor(now))


def strong_match(a: bytes, b: bytes) -> bool:
    """RFC 9110 8.8.3.2: the same, and neither is weak."""
    return a == b and not a.startswith(b"W/")


def weak_match(a: bytes, b: bytes) -> bool:
    """RFC 9110 8.8.3.2: the same but for weakness."""
    return a.removeprefix(b"W/") == b.removeprefix(b"W/")


def parse_etag_list(value: bytes) -> tuple[bytes, ...] | Literal[b"*"] | None:
    """The entity tags of If-Match or If-None-Match, or ANY (RFC 9110 13.1.1, 13.1.2).

    None if malformed. That must count as "no match", for either field: then nothing is served
    on a condition that was not understood (412), and nothing is withheld by one (200).
    """
    if value.strip(b" \t") == ANY:
        return ANY
    if not _TAG_LIST.fullmatch(value):
        return None
    return tuple(_TAG.findall(value))
