"""What the names of folders say, on real directories that others change, also meanwhile.

Where a folder was moved, what is known of those below it may be wrong until their paths are
followed again: the naive model remembers where that was, and until when.
"""

import errno
import fcntl
import math
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import accumulate, chain, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal, cast
from unittest import mock

import trio
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from fuzz.properties.beneath import PromptHelper
from fuzz.tally import note
from fuzz.target import Target
from fuzz.world.runs import descriptors
from trio_amped.config import Config
from trio_amped.disk import kernel, names, opening
from trio_amped.disk.descriptors import Closer, Descriptor
from trio_amped.disk.folders import Folders
from trio_amped.disk.jobs import Place, Result
from trio_amped.disk.messages import Order, Reply, unpack_names
from trio_amped.disk.paths import PathGate, WouldWait
from trio_amped.disk.pool import HelperPool
from trio_amped.stats import Stats

Verb = Literal["make", "mkdir", "link", "remove", "move", "miss", "ask", "ask all", "pass"]
CoarseSteps = Sequence[bytes | int]
"""Names that are made or removed, and nanoseconds that pass."""

_AGE: Final = 1.0  # seconds
_SECOND: Final = 10**9  # ns
_DOTS: Final = (b".", b"..")
_FEW: Final = 5  # names of a folder here: two, and three that are in each
_MANY: Final = 256_000
_NAMES: Final = (b"a", b"b")
_ALL: Final = [b"/".join(names) for depth in (1, 2, 3) for names in product(_NAMES, repeat=depth)]
_PLACE: Final = "/dev/shm" if os.path.isdir("/dev/shm") else None  # tmpfs, where there is one


@dataclass(frozen=True)
class Step:
    """Something that others do to a path, or that we do with it; or time passes."""

    verb: Verb
    path: bytes
    other: bytes  # where it goes, or what a link says


Meanwhile = tuple[int, list[Step]]
"""What others do while a folder is read: at the start, after a part of it, or when it is read."""


class Scene:
    """A tree, and what is known of it."""

    def __init__(
        self, root: bytes, meanwhile: list[Meanwhile], nursery: trio.Nursery, most: int
    ) -> None:
        self._root = root
        self._most = most
        self._moved: dict[bytes, float] = {}  # a path that a folder had or has: until when
        self._probe = os.open(root + b".probe", os.O_CREAT | os.O_WRONLY)
        config = Config(root=os.fsdecode(root), revalidate=math.inf)
        self._helper = Helper(self.change, meanwhile)
        pool = cast(HelperPool, self._helper)
        found = opening.open_root_waiting(root)
        self.paths = PathGate(config, Stats(), pool, root, found)
        self.closer = Closer()
        self.folders = Folders(
            self.paths, pool, self.closer, nursery, max_age=_AGE, unused_after=math.inf, most=most
        )
        self._open = self.paths.open_folder_at_once
        self.paths.open_folder_at_once = self._open_patiently  # type: ignore[method-assign]

    def _open_patiently(self, path: bytes) -> int:
        """The kernel says EAGAIN now and then while anybody renames or mounts."""
        for _ in range(100):
            with suppress(WouldWait):
                return self._open(path)
        return self._open(path)

    def close(self) -> None:
        os.close(self._probe)
        self.folders.clear()
        self.paths.close()

    def change(self, step: Step) -> None:
        """Others do this, if it can be done."""
        with suppress(OSError):
            self._change(step)

    async def do(self, step: Step) -> None:
        match step.verb:
            case "miss":
                await self._miss(step.path)
            case "ask":
                self._ask(step.path)
            case "ask all":
                for path in _ALL:
                    self._ask(path)
            case "pass":
                _clock().jump(len(step.path) / 3)
            case _:
                self.change(step)

    def _change(self, step: Step) -> None:
        """Raises OSError: that cannot be done."""
        self._let_the_clock_tick()
        path, other = self._root + b"/" + step.path, self._root + b"/" + step.other
        match step.verb:
            case "make":
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            case "mkdir":
                os.mkdir(path)
            case "link":
                os.symlink(step.other, path)
            case "remove":
                shutil.rmtree(path) if _is_folder(path) else os.unlink(path)
            case "move":
                was_folder = _is_folder(path)
                os.rename(path, other)
                if was_folder:
                    until = trio.current_time() + _AGE
                    self._moved |= {step.path: until, step.other: until}

    def _let_the_clock_tick(self) -> None:
        """No change shares its tick with an earlier one: the clock on the wall is wrong here, so
        that a folder is believed which has just been changed, or is being read."""
        newest = max(os.stat(folder).st_ctime_ns for folder, _, _ in os.walk(self._root))
        while os.fstat(self._probe).st_ctime_ns <= newest:
            os.utime(self._probe)

    async def _miss(self, path: bytes) -> None:
        """As one does who has opened it, or has not."""
        with suppress(OSError):
            os.close(opening.open_waiting(self.paths.directory.fd, path).descriptor)
        self.folders.want(path)
        await wait_all_tasks_blocked()
        kept = sum(each.size for each in self.folders._snapshots.values())
        assert self.folders._names == kept <= self._most, "more names than may be kept"

    def _ask(self, path: bytes) -> bool | None:
        now = trio.current_time()
        says = self.folders.lacks(path, now)
        note("folder", str(says))
        if says is not None and not self._may_be_wrong(path, now):
            is_there = os.path.lexists(self._root + b"/" + path)
            leads_somewhere = self._leads_somewhere(path)
            assert not (says and leads_somewhere), f"{path!r} is there"
            assert says or is_there, f"{path!r} is not there"
        return says

    def _leads_somewhere(self, path: bytes) -> bool:
        try:
            opening.identify_waiting(self.paths.directory.fd, path, True)
        except OSError:
            return False
        return True

    def _may_be_wrong(self, path: bytes, now: float) -> bool:
        """Whether a folder that may have answered is below one that was moved lately."""
        known = [b"", *accumulate(path.split(b"/")[:-1], lambda a, b: a + b"/" + b)]
        return any(
            now < until and folder in self.folders._snapshots and folder.startswith(moved + b"/")
            for moved, until in self._moved.items()
            for folder in known
        )

    async def settle(self, paths: list[bytes], folds: bool) -> None:
        """When nobody changes anything any more, all is known that can be known."""
        self._helper.to_come = iter(())
        for path in paths:
            _clock().jump(1000.0)
            await self._miss(path)
            says = self._ask(path)
            if folds:
                assert says is None, f"{path!r} may be there by another spelling"
            else:
                assert says is not None or self._is_below_a_link(path), f"{path!r} is not known"

    def _is_below_a_link(self, path: bytes) -> bool:
        parents = accumulate(path.split(b"/")[:-1], lambda a, b: a + b"/" + b)
        return any(os.path.islink(self._root + b"/" + parent) for parent in parents)


class Helper(PromptHelper):
    """A helper's work at once, at some moment of which others go on."""

    def __init__(self, change: Callable[[Step], None], meanwhile: list[Meanwhile]) -> None:
        self._change = change
        self.to_come = iter(meanwhile)
        self._when, self._steps = 0, list[Step]()

    def _pass(self) -> None:
        self._when -= 1
        if self._when < 0:
            while self._steps:
                self._change(self._steps.pop())

    def submit(
        self,
        order: Order,
        directory: Descriptor,
        *,
        key: Hashable = None,
        place: Place = 0,
        is_ahead: bool = False,
        what_follows: None = None,
    ) -> tuple[Reply, int | None]:
        self._when, steps = next(self.to_come, (0, []))
        self._steps = steps[::-1]
        getdents64 = kernel.getdents64

        def interrupted(*arguments: Any) -> bytes:
            self._pass()
            found = getdents64(*arguments)
            self._pass()
            return found

        with mock.patch.object(kernel, "getdents64", interrupted):
            return super().submit(order, directory)

    async def result(self, done: tuple[Reply, int | None]) -> Result:
        self._when = 0
        self._pass()
        await trio.lowlevel.checkpoint()
        reply, _ = done
        if reply.errno:
            note("folder", errno.errorcode[reply.errno])
        return await super().result(done)


def _is_folder(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _clock() -> MockClock:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    return clock


def check_folders(
    steps: list[list[Step]],
    meanwhile: list[Meanwhile],
    at_last: list[bytes],
    most: int = _MANY,
    folds: bool = False,
    place: str | os.PathLike[str] | None = _PLACE,
) -> None:
    """What is said to be missing is missing, whatever others do; all is known when they rest.

    `most`: names that may be kept. `folds`: the kernel says of each folder that it folds names.
    """
    before = descriptors()
    with ExitStack() as cleanup:
        base = tempfile.mkdtemp(prefix="folders-", dir=place)
        cleanup.callback(shutil.rmtree, base)
        Path(base, "root/a/a").mkdir(parents=True)
        Path(base, "root/a/a/a").touch()
        # The clock on the wall is far ahead of the disk's, so that no change is too young.
        cleanup.enter_context(mock.patch.object(time, "time_ns", return_value=2**62))
        if folds:
            cleanup.enter_context(mock.patch.object(fcntl, "ioctl", _says_that_it_folds))
        root = os.fsencode(base) + b"/root"
        trio.run(_play, root, steps, meanwhile, at_last, most, folds, clock=MockClock())
    assert descriptors() == before, "descriptors are left"


def _says_that_it_folds(_fd: int, _number: int, buffer: bytes) -> bytes:
    """FS_IOC_GETFLAGS: FS_CASEFOLD_FL; linux/fs.h."""
    return 0x40000000.to_bytes(len(buffer), sys.byteorder)


async def _play(
    root: bytes,
    steps: list[list[Step]],
    meanwhile: list[Meanwhile],
    at_last: list[bytes],
    most: int,
    folds: bool,
) -> None:
    failure: AssertionError | None = None
    async with trio.open_nursery() as nursery:
        scene = Scene(root, meanwhile, nursery, most)
        try:
            for step in chain.from_iterable(steps):
                await scene.do(step)
            await scene.settle(at_last, folds)
        except AssertionError as error:
            failure = error
        scene.close()
        await scene.closer.finish()
    if failure:
        raise failure


class CoarseFolder:
    """A directory on a disk whose clock ticks seldom, and what others do to it meanwhile."""

    def __init__(self, tick: int) -> None:
        self.now = 10**18
        self.names = set(_DOTS)
        self.to_come: Iterator[CoarseSteps] = iter(())
        self._tick = tick
        self._change(b"first")

    def _change(self, name: bytes) -> None:
        self.names ^= {name}
        self.ctime_ns = self.now // self._tick * self._tick

    def go_on(self) -> None:
        for step in next(self.to_come, ()):
            if isinstance(step, bytes):
                self._change(step)
            else:
                self.now += step

    def fstat(self, _fd: int) -> SimpleNamespace:
        self.go_on()
        return SimpleNamespace(st_ctime_ns=self.ctime_ns)

    def time_ns(self) -> int:
        self.go_on()
        return self.now

    def parts(self) -> Iterator[bytes]:
        """Two of the names that are there then, two more, and so on; no name twice."""
        given: set[bytes] = set()
        while left := sorted(self.names - given):
            yield b"".join(map(_entry, left[:2]))
            given.update(left[:2])
            self.go_on()
        yield b""

    def read(self) -> tuple[int, set[bytes]]:
        """Its ctime, and all names, as a helper says them. Raises OSError."""
        said: list[bytes] = []

        def in_memory(*parts: bytes) -> int:
            said.extend(name for part in parts for name in bytes(part).split(b"/")[:-1])
            return -1

        volume = opening.Volume(0xEF53, 0)
        with (
            mock.patch.object(os, "fstat", self.fstat),
            mock.patch.object(time, "time_ns", self.time_ns),
            mock.patch.object(kernel, "getdents64", side_effect=self.parts()),
            mock.patch.object(opening, "open_to_read", return_value=os.open("/", os.O_PATH)),
            mock.patch.object(opening, "volume_of", return_value=volume),
            mock.patch.object(names, "_has_other_spellings", return_value=False),
            mock.patch.object(names, "_in_memory", in_memory),
        ):
            _, facts = names.read(-1, 1000)
        assert len(set(said)) == len(said), "a name twice"
        ctime_ns, _, _ = unpack_names(facts)
        return ctime_ns, set(said)


def _entry(name: bytes) -> bytes:
    kind = 4 if name in _DOTS else 8
    length = -(-(19 + len(name) + 1) // 8) * 8
    return (struct.pack("=QQHB", 1, 1, length, kind) + name).ljust(length, b"\0")


def check_ticks(
    tick: int, before: CoarseSteps, during: list[CoarseSteps], after: list[CoarseSteps]
) -> None:
    """Names that are read hold for as long as the stamp does, however seldom its clock ticks."""
    folder = CoarseFolder(tick)
    folder.to_come = iter([before, *during])
    folder.go_on()
    try:
        ctime_ns, said = folder.read()
    except OSError as error:
        note("tick", errno.errorcode[error.errno or 0])
        return
    note("tick", "read")
    folder.to_come = iter([(), *after])
    for _ in range(len(after) + 1):
        folder.go_on()
        if folder.ctime_ns == ctime_ns:
            assert folder.names == said, "another name, and the same stamp"


# ------------------------------------------------------------------ examples

_PATHS: Final = st.sampled_from(_ALL)
_CHANGES: Final = ("make", "mkdir", "mkdir", "link", "remove", "move", "move")
_OTHERS: Final = st.builds(Step, st.sampled_from(_CHANGES), _PATHS, _PATHS)
_OURS: Final = st.builds(Step, st.sampled_from(["miss", "ask", "pass"]), _PATHS, _PATHS)
_COARSE: Final = st.lists(
    st.sampled_from([b"a", b"b", b"c"])
    | st.sampled_from([1, _SECOND // 100, _SECOND, 3 * _SECOND]),
    max_size=3,
)
_LOOK: Final = Step("ask all", b"", b"")
# A deploy: a folder goes away, and another one with the same folders in it comes in its place.
_DEPLOYS: Final = st.builds(
    lambda folder, away, names: [
        Step("move", folder, away),
        *(Step("mkdir", path, b"") for path in (folder, *(folder + b"/" + each for each in names))),
    ],
    st.sampled_from(_NAMES),
    _PATHS,
    st.sets(st.sampled_from(_NAMES)).map(sorted),
)
# Something is read, others change something, and we look: now, and when paths are followed again.
_ROUNDS: Final = st.builds(
    lambda read, others, again: [*read, *others, *again, _LOOK],
    st.lists(st.builds(Step, st.just("miss"), _PATHS, _PATHS), max_size=2),
    st.lists(_OTHERS, max_size=3) | _DEPLOYS,
    st.lists(_OURS, max_size=2),
)

TARGETS: Final = (
    Target(
        "folders",
        check_folders,
        {
            "steps": st.lists(_ROUNDS, max_size=12),
            "meanwhile": st.lists(
                st.tuples(st.integers(0, 5), st.lists(_OTHERS, max_size=2)), max_size=8
            ),
            "at_last": st.lists(_PATHS, max_size=4),
            "most": st.sampled_from([_MANY, _MANY, 2 * _FEW, _FEW]),
            "folds": st.sampled_from([False, False, False, True]),
        },
    ),
    Target(
        "ticks",
        check_ticks,
        {
            "tick": st.sampled_from([1, _SECOND // 100, _SECOND, 2 * _SECOND]),
            "before": _COARSE,
            "during": st.lists(_COARSE, max_size=8),
            "after": st.lists(_COARSE, max_size=4),
        },
    ),
)
