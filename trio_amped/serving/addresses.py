"""Which file the URLs of one root stand for, and which of them are redirected. Never waits."""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from ..semantics.policy import Policy
from ..semantics.redirects import Redirect
from ..semantics.target import Target
from .resources import ABSENT, NO_FILE, Found, Resources

Outcome: TypeAlias = Found | OSError | None
"""What is at a path: a file, an error, or None for a directory."""
Look: TypeAlias = Callable[[bytes], Outcome]

_SITE: Final = (b"", False)  # its folder, without the slash that comes before anything else


class Elsewhere(Exception):
    """What is asked for is at another URL.

    `location`: a Location; `is_ruled`: a redirect of the site says so.
    """

    def __init__(self, location: bytes, status: int = 301, *, is_ruled: bool = False) -> None:
        super().__init__()
        self.location = location
        self.status = status
        self.is_ruled = is_ruled


class Address(NamedTuple):
    """What a URL stands for: the `path` that decides the answer, unless it has `moved`.

    It holds while each path that was `looked` at is still what it was: a file, a directory or
    nothing.
    """

    path: bytes
    moved: Elsewhere | None
    looked: tuple[tuple[bytes, type], ...] = ()

    @property
    def is_something(self) -> bool:
        """Whether there is a file, a directory or a rule: of these there is a bounded number."""
        return not self.looked or dict(self.looked)[self.path] is not type(None)


class Addresses:
    """What the URLs of a root stand for. Of those where something is, at most `most` are kept."""

    def __init__(self, resources: Resources, policy: Policy, most: int) -> None:
        self._resources = resources
        self._naming = policy.naming
        self._redirects = policy.redirects
        self._most = most
        self._kept: dict[bytes, Address] = {}
        self.is_simple = self._naming.is_simple and not self._redirects
        """Whether each file is at its path, and a page of a folder, its `index`, at the folder."""
        self.index = self._naming.indexes[0]

    def rule(self, target: Target) -> Redirect | None:
        """Return the redirect of the site for a target."""
        if not self._redirects or target[:2] == _SITE:
            return None
        return self._redirects.get(target)

    def lead(self, target: Target, look: Look) -> tuple[bytes, Outcome]:
        """Return the file that a target stands for, with its path, or an error that looking met.

        If it stands for none: what is at the first of its paths.
        """
        first, *others = self._naming.files(target)
        at_first = found = look(first)
        path = first
        while not isinstance(found, Found) and (found is None or found.errno in NO_FILE):
            if not others:
                return first, at_first
            path = others.pop(0)
            found = look(path)
        return path, found

    def url(self, target: Target, path: bytes, look: Look) -> Target:
        """Return where the file that a target stands for is found as well, and should be.

        The target itself, if there is no such URL.
        """
        if self._naming.is_simple:
            return target
        url = self._naming.url(target, path)
        return url if url != target and self.lead(url, look)[0] == path else target

    def kept(self, target: Target, accept_encoding: bytes | None) -> Address:
        """Return what a target stands for, if that is the same for all requests, and at hand.

        Raises LookupError.
        """
        name = target.path + b"/" if target.is_directory and target.path else target.path
        kept = self.at_hand(name, accept_encoding) if target[:2] != _SITE else None
        if kept is None:
            kept = self._find(target, accept_encoding)
            if target[:2] != _SITE and kept.is_something:
                self._keep(name, kept)
        if kept.moved is not None and target.query is not None:
            raise LookupError
        return kept

    def at_hand(self, name: bytes, accept_encoding: bytes | None) -> Address | None:
        """Return what was found of a plain path, without the slash at its start, if it holds."""
        address = self._kept.get(name)
        if address is not None:
            for path, kind in address.looked:
                place = self._resources.kept(path, accept_encoding)
                if type(place) is not kind:
                    return None
                if place is None and not self._resources.is_absent(path):
                    return None
        return address

    def _find(self, target: Target, accept_encoding: bytes | None) -> Address:
        """Raises LookupError."""
        rule = self.rule(target)
        if rule is not None:
            if rule.has_splat or target.query is not None:
                raise LookupError
            return Address(b"", Elsewhere(rule.location(target), rule.status, is_ruled=True))
        looked: dict[bytes, type] = {}

        def look(path: bytes) -> Outcome:
            place = self._resources.kept(path, accept_encoding)
            if place is None and not self._resources.is_absent(path):
                raise LookupError
            looked[path] = type(place)
            return ABSENT if place is None else place if isinstance(place, Found) else None

        path, found = self.lead(target, look)
        url = self.url(target, path, look) if isinstance(found, Found) else target
        moved = None if url is target else Elsewhere(target.location_of(url))
        return Address(path, moved, tuple(looked.items()))

    def _keep(self, name: bytes, address: Address) -> None:
        if len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = address
