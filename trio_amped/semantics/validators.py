"""Owns entity tags and modification dates, and how they are compared (RFC 9110 8.8). Pure."""

import re
from bisect import bisect
from math import floor
from typing import Final, Literal, TypeAlias

SETTLED = 2.0
"""Seconds after which a change is sure to show in the mtime (whose clock is a coarse one)."""

TagKind: TypeAlias = Literal["mtime", "ctime", "digest", "none"]
"""What strong entity tags have beside the size: the mtime; the ctime as well; a digest of the
content; or there are none."""

MOST_DIGESTED: Final = 16 * 2**20
"""Bytes: to digest a larger file takes too long for who waits, and loads what nobody may want."""

ANY: Final = b"*"

_NANO = 10**9
_DAY = 86_400  # seconds: SOURCE_DATE_EPOCH and zip archives know local times
# Seconds since 1970 of the dates that packagers give to all files of all releases: Nix and ostree
# (0 and 1), npm (1985-10-26 08:15), SOURCE_DATE_EPOCH and zip (1980-01-01).
_CONSTANT_DATES = (0, 499_162_500, 315_532_800)
# Where the seconds near one of them begin and end.
_NEAR_THEM = sorted(edge for each in _CONSTANT_DATES for edge in (each - _DAY, each + _DAY + 1))
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
    return bisect(_NEAR_THEM, mtime_ns // _NANO) % 2 == 1


def tag_has_ctime(mtime_ns: int, kind: TagKind) -> bool:
    """Return whether the entity tag of a file with this mtime (ns since 1970) has its ctime too.

    utimensat(2) puts an mtime back; nobody can set a ctime (inode(7)).
    """
    return kind in ("ctime", "digest") or has_constant_date(mtime_ns)


def newest(mtime_ns: int, ctime_ns: int, kind: TagKind) -> int:
    """Return the newest of the times of a file (ns since 1970) that count for its entity tag."""
    return max(mtime_ns, ctime_ns) if tag_has_ctime(mtime_ns, kind) else mtime_ns


def is_settled(newest_ns: int, now: float) -> bool:
    """Return whether each change to come of a file shows in its times, by the newest of them.

    Until that (ns since 1970) is more than SETTLED seconds old, the file may change again with the
    same times (RFC 9110 8.8.1). `now` in seconds since 1970. For times in the future, see
    disk/versions.py.
    """
    return now - newest_ns / _NANO > SETTLED


def needs_digest(size: int, kind: TagKind) -> bool:
    """Return whether the entity tag of a file of `size` bytes is a digest, once it has settled."""
    return kind == "digest" and size <= MOST_DIGESTED


def etag(
    kind: TagKind,
    size: int,
    mtime_ns: int,
    ctime_ns: int,
    *,
    is_settled: bool,
    digest: bytes = b"",
    coding: bytes = b"",
) -> bytes | None:
    """Return the entity tag of a file of `size` bytes (RFC 9110 8.8.3); None: there are none.

    The times in ns since 1970. A file that holds another one in a content `coding` has its own tag,
    whatever its size, dates and bytes. The tag is weak until the file has settled and, where tags
    are digests, without one.
    """
    if kind == "none":
        return None
    suffix = b"-%x%s" % (size, b"-" + coding if coding else b"")  # see `names_coded_form`
    if digest:
        return b'"%s%s"' % (digest.hex().encode(), suffix)
    # With a dot, lest the size be taken for a coding.
    change = b".%x" % ctime_ns if tag_has_ctime(mtime_ns, kind) else b""
    tag = b'"%x%s%s"' % (mtime_ns, change, suffix)
    return tag if is_settled and kind != "digest" else b"W/" + tag


def names_coded_form(value: bytes) -> bool:
    """Whether one of the entity tags in a field, if it is not too long, is of a coded form."""
    return len(value) <= _LONGEST and _OF_A_CODED_FORM.search(value) is not None


def is_tag(validator: bytes) -> bool:
    """Whether an If-Range field has an entity tag, and not a date (RFC 9110 13.1.5)."""
    return validator.startswith((b'"', b"W/"))


def has_come(time_ns: int, now: float) -> bool:
    """Return whether a time (ns since 1970) is not in the future; `now` in seconds since 1970."""
    return time_ns <= now * _NANO


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
