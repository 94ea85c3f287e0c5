"""Paths below a root, on real directories with links to anywhere: nothing leads out of it."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hypothesis import strategies as st

from fuzz.target import Target
from trio_amped.disk import opening
from trio_amped.disk.opening import Opened

Plant = tuple[str, str, str]  # what kind of entry, where, and for a link: whereto
Identity = tuple[int, int]

_MOST_LINKS: Final = 40  # path_resolution(7)
# What a cache may say instead of an answer: a helper has to look.
_NOT_KNOWN: Final = (errno.EAGAIN, errno.EXDEV)


class Refused(Exception):
    """By the naive resolver."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


@contextlib.contextmanager
def planted(plants: list[Plant]) -> Iterator[Path]:
    """A root with these entries, as far as they can be, and secrets around it."""
    with tempfile.TemporaryDirectory() as name:
        around = Path(name)
        (around / "secret").write_text("secret")
        root = around / "root"
        root.mkdir()
        for kind, place, target in plants:
            with contextlib.suppress(OSError):
                if kind == "folder":
                    (root / place).mkdir()
                elif kind == "file":
                    (root / place).write_text(place)
                else:
                    (root / place).symlink_to(target.replace("<root>", str(root)))
        yield root


def resolve(root: Path, path: str) -> Identity:
    """Where a path leads, name by name, never out of the root. Raises Refused."""
    place: list[str] = []  # below the root, all of them directories but the last
    names = [name for name in path.split("/") if name][::-1]
    links = 0
    while names:
        here = root.joinpath(*place)
        if not here.is_dir() or here.is_symlink():
            raise Refused(errno.ENOTDIR)
        name = names.pop()
        if name == "..":
            if not place:
                raise Refused(errno.EXDEV)
            place.pop()
            continue
        found = here if name == "." else here / name
        if not os.path.lexists(found):
            raise Refused(errno.ENOENT)
        if found.is_symlink():
            links += 1
            target = os.readlink(found)
            if links > _MOST_LINKS:
                raise Refused(errno.ELOOP)
            if target.startswith("/"):
                raise Refused(errno.EXDEV)
            names += [each for each in target.split("/") if each][::-1]
        elif name != ".":
            place.append(name)
    found = root.joinpath(*place)
    if path.endswith("/") and not found.is_dir():
        raise Refused(errno.ENOTDIR)
    return _identity(os.stat(found))


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def check_beneath(plants: list[Plant], path: str) -> None:
    """What is opened is what a walk name by name finds, and nothing outside of the root."""
    with planted(plants) as place:
        expected: Identity | int
        try:
            expected = resolve(place, path)
        except Refused as refused:
            expected = refused.errno
        root = opening.open_root_waiting(os.fsencode(place))
        try:
            _check_ways(root, os.fsencode(path), expected)
        finally:
            os.close(root.descriptor)


def _check_ways(root: Opened, path: bytes, expected: Identity | int) -> None:
    fd, volume = root.descriptor, root.volume
    waited = _try(lambda: _opened(opening.open_waiting(fd, path)))
    assert waited == expected, (waited, expected)
    for follow in (True, False):
        found = _try(lambda: opening.identify_waiting(fd, path, follow))  # noqa: B023
        assert found == expected or (found == errno.ELOOP and not follow), (found, expected)
    for way in (
        lambda: _opened(opening.open_cached(fd, path, volume)),
        lambda: opening.identify_cached(fd, path, volume, True),
    ):
        cached = _try(way)
        assert cached == expected or cached in _NOT_KNOWN, (cached, expected)
    without = _try(lambda: _close(*opening._open_without_links(fd, path or b".")))
    assert isinstance(without, int) or without == expected, (without, expected)


def _try(way: Callable[[], Identity]) -> Identity | int:
    """What it leads to, or the errno."""
    try:
        return way()
    except OSError as error:
        return error.errno or errno.EIO


def _opened(opened: Opened) -> Identity:
    return _close(opened.descriptor, True)


def _close(descriptor: int, _: bool) -> Identity:
    found = _identity(os.fstat(descriptor))
    os.close(descriptor)
    return found


_NAMES: Final = st.sampled_from(["a", "b", "c"])
_STEPS: Final = st.sampled_from(["a", "a", "b", "b", "c", "..", "..", "."])
_PLACES: Final = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_LEADS: Final = (
    st.sampled_from(["../secret", "../../secret", "../root/a", "<root>/a", "/etc/hostname", "a/.."])
    | st.lists(_STEPS, min_size=1, max_size=4).map("/".join)
)  # fmt: skip
_KINDS: Final = st.sampled_from(["folder", "folder", "file", "link", "link"])

TARGETS: Final = (
    Target(
        "beneath",
        check_beneath,
        {
            "plants": st.lists(st.tuples(_KINDS, _PLACES, _LEADS), max_size=10),
            "path": st.just("") | st.lists(_STEPS, min_size=1, max_size=4).map("/".join),
        },
    ),
)
