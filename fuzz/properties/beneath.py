"""What a path below the root leads to, on real directories with all kinds of symbolic links.

The naive resolver here knows nothing but a tree in memory: it walks name by name, and refuses each
step that leaves the root, also one that would come back. Link by link it counts up to 40, as Linux
does (path_resolution(7)).
"""

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, cast
from unittest import mock

import trio
from hypothesis import strategies as st
from trio.testing import MockClock

from fuzz.tally import note
from fuzz.target import Target
from fuzz.world.runs import descriptors
from trio_amped.config import Config, GateMode
from trio_amped.disk import helper, kernel, opening
from trio_amped.disk.descriptors import Descriptor
from trio_amped.disk.jobs import Place, Result
from trio_amped.disk.loading import touch
from trio_amped.disk.messages import Order, Reply
from trio_amped.disk.opening import Opened
from trio_amped.disk.paths import PathGate, WouldWait, owned
from trio_amped.disk.pool import HelperPool
from trio_amped.stats import Stats

Drawn = dict[bytes, "Drawn"] | bytes | None  # a directory, a symbolic link, or a file
Found = tuple[int, int] | int  # device and inode, or an errno
_LINKS: Final = 40
_BASE: Final = b"BASE"  # in a drawn link: the directory that the root is in
_NAMES: Final = (b"a", b"b", b"c")


class Refused(Exception):
    """The errno that says why there is nothing."""

    def __init__(self, number: int) -> None:
        self.errno = number


@dataclass(eq=False)
class Node:
    """A directory, a symbolic link, or a file, that is on the disk as well."""

    identity: tuple[int, int]
    target: bytes | None = None
    names: dict[bytes, Self] | None = None
    parent: Self | None = field(default=None, repr=False)  # None: of the root

    @classmethod
    def made(cls, path: bytes, drawn: Drawn, base: bytes, parent: Self | None = None) -> Self:
        """Make it, with all that is below it."""
        target = drawn.replace(_BASE, base) if isinstance(drawn, bytes) else None
        if target is not None:
            os.symlink(target, path)
        elif isinstance(drawn, dict):
            os.mkdir(path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o644))
        found = os.lstat(path)
        node = cls((found.st_dev, found.st_ino), target, parent=parent)
        if isinstance(drawn, dict):
            node.names = {
                name: cls.made(path + b"/" + name, each, base, node) for name, each in drawn.items()
            }
        return node


def resolve(root: Node, path: bytes, *, follows: bool = True) -> Node:
    """What the path leads to. Raises Refused."""
    at, links = root, 0
    todo = _segments(path) if path else []
    while todo:
        below = _step(at, todo.pop())
        if below.target is None:
            at = below
            continue
        links += 1
        if links > _LINKS or not follows:
            raise Refused(errno.ELOOP)
        todo += _segments(below.target)
    return at


def _segments(path: bytes) -> list[bytes]:
    """The first one at the end. Raises Refused: it begins at the root of the system."""
    if path.startswith(b"/"):
        raise Refused(errno.EXDEV)
    return path.split(b"/")[::-1]


def _step(at: Node, name: bytes) -> Node:
    """One name further; a slash at the end is an empty name. Raises Refused."""
    if at.names is None:
        raise Refused(errno.ENOTDIR)
    if name in (b"", b"."):
        return at
    if name == b"..":
        if at.parent is None:
            raise Refused(errno.EXDEV)
        return at.parent
    if name not in at.names:
        raise Refused(errno.ENOENT)
    return at.names[name]


def _expected(root: Node, path: bytes, *, follows: bool = True) -> Found:
    try:
        return resolve(root, path, follows=follows).identity
    except Refused as error:
        return error.errno


# ------------------------------------------------------------------ what is compared with it


class PromptHelper:
    """Stands for the pool: a helper's work, without the helper."""

    def submit(
        self,
        order: Order,
        directory: Descriptor,
        *,
        key: Hashable = None,
        place: Place = 0,
        what_follows: None = None,
    ) -> tuple[Reply, int | None]:
        done = helper._perform(order, [directory.fd], touch)
        return done.reply, next(iter(done.descriptors), None)

    async def result(self, done: tuple[Reply, int | None]) -> Result:
        reply, descriptor = done
        if descriptor is None:
            raise OSError(reply.errno, os.strerror(reply.errno), *filter(None, [reply.content]))
        return Result(reply.content, (Descriptor(descriptor),))


def check_beneath(tree: dict[bytes, Drawn], paths: list[bytes]) -> None:
    """What is opened is what a naive walk finds that never leaves the root, and nothing else."""
    before = descriptors()
    base = tempfile.mkdtemp(prefix="beneath-").encode()
    try:
        Path(os.fsdecode(base), "secret").touch()
        root = Node.made(base + b"/root", tree, base)
        paths = [path.replace(_BASE, base) for path in paths]
        trio.run(_check_paths, base + b"/root", root, paths, clock=MockClock())
    finally:
        shutil.rmtree(base)
    assert descriptors() == before, "descriptors are left"


async def _check_paths(place: bytes, root: Node, paths: list[bytes]) -> None:
    gates = [_gate(place, mode) for mode in ("auto", "always", "never")]
    for path in paths:
        expected, plain = _expected(root, path), _expected(root, path, follows=False)
        note("beneath", os.strerror(expected) if isinstance(expected, int) else "found")
        _check_waiting(gates[0].directory.fd, path, expected, plain)
        for gate in gates:
            await _check_opened(gate, path, expected)
            _check_at_once(gate, path, expected, plain)
    for gate in gates:
        gate.close()


def _gate(place: bytes, mode: GateMode) -> PathGate:
    config = Config(root=os.fsdecode(place), gate=mode, revalidate=math.inf)
    pool = cast(HelperPool, PromptHelper())
    return PathGate(config, Stats(), pool, place, opening.open_root_waiting(place))


def _check_waiting(root: int, path: bytes, expected: Found, plain: Found) -> None:
    """Whatever it takes, with openat2; without it no link is followed, and no ".." is taken."""
    assert _found(lambda: opening.identify_waiting(root, path, True)) == expected
    assert _found(lambda: opening.identify_waiting(root, path, False)) == plain
    is_simple = set(path.split(b"/")) <= set(_NAMES)
    with mock.patch.object(kernel, "has_openat2", _has_no_openat2):
        for found in (
            _found(lambda: _closed(*owned(opening.open_waiting(root, path)))),
            _found(lambda: opening.identify_waiting(root, path, True)),
        ):
            is_refused = isinstance(found, int) and (isinstance(plain, int) or not is_simple)
            assert found == plain or is_refused, f"{path!r}, without openat2"


def _has_no_openat2(_flags: int) -> bool:
    return False


async def _check_opened(gate: PathGate, path: bytes, expected: Found) -> None:
    found: Found
    try:
        found = _closed(*await gate.open(path))
    except OSError as error:
        found = error.errno or -1
    assert found == expected, f"{path!r} is opened"


def _check_at_once(gate: PathGate, path: bytes, expected: Found, plain: Found) -> None:
    """The caches may not know; else they say the same."""
    found = _found(lambda: _closed(*gate.open_at_once(path)))
    assert found in (expected, errno.EAGAIN), f"{path!r}, at once"
    found = _found(lambda: gate.identify_at_once(path))
    assert found in (expected, errno.EAGAIN), f"{path!r}, identified at once"
    found = _found(lambda: gate.identify_at_once(path, follow=False))
    assert found in (plain, errno.EAGAIN), f"{path!r}, without links"


def _found(call: Callable[[], tuple[int, int]]) -> Found:
    try:
        return call()
    except WouldWait:
        return errno.EAGAIN
    except OSError as error:
        return error.errno or -1


def _closed(opened: Opened, descriptor: Descriptor) -> tuple[int, int]:
    descriptor.release()
    return opened.status.device, opened.status.inode


# ------------------------------------------------------------------ examples

_SEGMENTS: Final = st.sampled_from([*_NAMES, *_NAMES, b"..", b".", b""])
_WALKS: Final = st.lists(_SEGMENTS, min_size=1, max_size=5).map(b"/".join).filter(bool)
_ESCAPES: Final = st.sampled_from(
    [b"../secret", b"../../secret", b"../root/a", _BASE + b"/secret", _BASE + b"/root/a", b"/"]
)
_LINKED: Final = st.sampled_from(_NAMES) | _WALKS | _ESCAPES
_TREES: Final = st.recursive(
    st.none() | _LINKED | _LINKED,
    lambda below: st.dictionaries(st.sampled_from(_NAMES), below, max_size=3),
    max_leaves=8,
)
_ROOTS: Final = st.dictionaries(st.sampled_from(_NAMES), _TREES, min_size=1, max_size=3)
_PATHS: Final = _WALKS | st.sampled_from(_NAMES) | _ESCAPES | st.just(b"")

TARGETS: Final = (
    Target(
        "beneath",
        check_beneath,
        {"tree": _ROOTS, "paths": st.lists(_PATHS, min_size=1, max_size=6, unique=True)},
        # Without openat2, the status was that of what the link leads to.
        found=({"tree": {b"a": b"../secret"}, "paths": [b"a"]},),
    ),
)
