"""Owns the redirects that whoever runs the server has written down: FROM TO [STATUS]. Pure."""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote

from .errors import HttpError
from .target import Target, parse_target, read_target

FORM: Final = "'FROM TO [STATUS]'"
_STATUSES: Final = ("301", "302", "303", "307", "308")
_SPLAT: Final = b":splat"
_VISIBLE: Final = re.compile(rb"[!-\[\]-~]+")  # but for "\\", which browsers take for a slash
# A splat is the end of the path, or stands in the query: it is never a part of the authority.
_ORIGIN: Final = re.compile(
    rb"https?://(?:[A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?(?=/|\Z)", re.IGNORECASE
)
_PLACEHOLDER: Final = re.compile(rb"/:(?!splat(?:[?#]|\Z))[A-Za-z]|[^/]:splat|/:splat/")


class Redirect(NamedTuple):
    """One of the rules.

    `path`: the path that is redirected, as in a Target; `has_splat`: and all paths below it.
    `origin`: that of another site, or b"". `to`: what follows its slash, or that of this site,
    escaped; `place`: the path in it, decoded, with the slash at its end if it has one. In both
    ":splat" stands for the part of the target below `path`. `rule`: as it was written.
    """

    path: bytes
    has_splat: bool
    origin: bytes
    to: bytes
    place: bytes
    status: int
    rule: str

    def covers(self, other: "Redirect") -> bool:
        """Return whether this matches whatever the other one does."""
        if self.path == other.path:
            return self.has_splat >= other.has_splat
        return self.has_splat and (not self.path or other.path.startswith(self.path + b"/"))

    def _below(self, target: Target) -> bytes:
        below = target.path[len(self.path) :].lstrip(b"/")
        return below + b"/" if below and target.is_directory else below

    def location(self, target: Target) -> bytes:
        """Return the Location for a target that this matches: with its query, if `to` has none."""
        to = self.to.replace(_SPLAT, quote(self._below(target)).encode())
        if target.query is not None and b"?" not in self.to:
            path, mark, fragment = to.partition(b"#")
            to = b"%b?%b%b%b" % (path, target.query, mark, fragment)
        return self.origin + b"/" + to if self.origin else target.location_below_root(to)

    def next(self, target: Target) -> Target | None:
        """Return the target to which one that this matches is redirected; None: elsewhere."""
        if self.origin:
            return None
        place = self.place.replace(_SPLAT, self._below(target))
        return Target(place.strip(b"/"), not place or place.endswith(b"/"), target.query)


class Redirects:
    """The rules of a site, of which the first that matches a target counts.

    Raises ValueError, with what is wrong, for one that is none.
    """

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules = tuple(map(_redirect, rules))
        self._exact: dict[bytes, int] = {}
        self._below: dict[bytes, int] = {}
        for number, each in enumerate(self._rules):
            (self._below if each.has_splat else self._exact).setdefault(each.path, number)
        self._deepest = max((each.count(b"/") + 1 for each in self._below if each), default=0)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def get(self, target: Target) -> Redirect | None:
        """Return the rule for a target. One that leads to where it is does not count.

        The cost depends on how deep the rules are, not on their number, nor on the target.
        """
        for number in sorted(self._numbers(target.path)):
            redirect = self._rules[number]
            there = redirect.next(target)
            if there is None or there[:2] != target[:2]:
                return redirect
        return None

    def _numbers(self, path: bytes) -> Iterator[int]:
        if path in self._exact:
            yield self._exact[path]
        if not self._below:
            return
        names = path.split(b"/", self._deepest)[: self._deepest] if path else []
        for count in range(len(names) + 1):
            number = self._below.get(b"/".join(names[:count]))
            if number is not None:
                yield number

    def oddities(self) -> Iterator[str]:
        """Say which rules are never reached, and which lead round and round."""
        for number, each in enumerate(self._rules):
            hiding = next((one for one in self._rules[:number] if one.covers(each)), None)
            if hiding is not None:
                yield f"redirect {each.rule!r} is never reached: {hiding.rule!r} stands before it"
            elif self._returns(each):
                yield f"redirect {each.rule!r} leads round and round"

    def _returns(self, start: Redirect) -> bool:
        """Return whether a client who follows a rule comes to the same one again."""
        names = (start.path, b"splat") if start.has_splat else (start.path,)
        target = Target(b"/".join(filter(None, names)), False, None)
        redirect = self.get(target)
        for _ in self._rules:
            there = redirect.next(target) if redirect else None
            if there is None:
                return False
            target, redirect = there, self.get(there)
            if redirect is start:
                return True
        return False


def _redirect(rule: str) -> Redirect:
    """Read a rule. Raises ValueError."""
    words = rule.split()
    if len(words) not in (2, 3):
        raise ValueError(f"must be {FORM}, not {rule!r}")
    status = words[2] if len(words) == 3 else _STATUSES[0]
    if status not in _STATUSES:
        raise ValueError(f"must have a status of {', '.join(_STATUSES)}, not {status!r}")
    path, has_splat = _from(words[0])
    return Redirect(path, has_splat, *_to(words[1], has_splat), int(status), rule)


def _from(text: str) -> tuple[bytes, bool]:
    """Return the path that is redirected, and whether all below is. Raises ValueError."""
    path = text.encode("utf-8", "surrogateescape")
    bare = path[:-1] if path.endswith(b"/*") else path
    try:
        target = parse_target(bare)
    except HttpError:
        target = None
    has_mark = b"*" in bare or b"?" in bare or b"/:" in bare
    if target is None or has_mark or not bare.startswith(b"/"):
        raise ValueError(f"must be from a path as in a URL, such as /old or /old/*, not {text!r}")
    return target.path, bare != path


def _to(text: str, has_splat: bool) -> tuple[bytes, bytes, bytes]:
    """Return the origin, the reference and the path that a redirect leads to. Raises ValueError."""
    to = text.encode("utf-8", "surrogateescape")
    found = _ORIGIN.match(to)
    origin = found[0] if found else b""
    rest = to[len(origin) :] or b"/"
    if not _VISIBLE.fullmatch(to) or not rest.startswith(b"/") or rest.startswith(b"//"):
        raise ValueError(f"must be to a path or a URL, such as /new or https://host/, not {text!r}")
    if _SPLAT in to and not has_splat:
        raise ValueError(f"must be from a path that ends in /* where it is to {text!r}")
    path = re.split(rb"[?#]", rest, maxsplit=1)[0]
    if _PLACEHOLDER.search(path):
        raise ValueError(f"must have /:splat at the end of its path, or nothing such, not {text!r}")
    try:
        target = read_target(path)
    except HttpError as error:
        raise ValueError(f"must not be to {text!r}: {error.detail}") from None
    slash = b"/" if target.is_directory and target.path else b""
    return origin, rest[1:], target.path + slash
