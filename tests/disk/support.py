"""What the tests of the disk room share: a look at this process from outside, and a rescuer.

Nothing here waits for a fixed time. `GUARD` is how long a broken test may take to fail.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import trio
from trio.testing import MockClock

from tests.rig import GUARD, REPOSITORY, FuseDisk, as_nobody
from trio_amped.config import Config
from trio_amped.disk import helper
from trio_amped.disk.local import LocalDisk, open_disk
from trio_amped.disk.opening import Opened, open_waiting
from trio_amped.disk.pages import OpenFile
from trio_amped.stats import Stats

KIB = 1024
MIB = 1024 * KIB


# ---------------------------------------------------------------- a look at this process


def descriptors(below: Path) -> list[str]:
    """What this process has open at or below a path, deleted files included."""
    return sorted(link for link in _links() if link.startswith(str(below)))


def _links() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them, another thread's
            yield os.readlink(f"/proc/self/fd/{number}")


def mappings(below: Path) -> list[str]:
    """The lines of /proc/self/maps of files at or below a path."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if str(below) in line]


def helper_threads() -> int:
    """How many threads are inside helper.serve."""
    count = 0
    for frame in list(sys._current_frames().values()):
        found = frame
        while found is not None:
            if found.f_code is helper.serve.__code__:
                count += 1
                break
            found = found.f_back  # type: ignore[assignment]
    return count


def children() -> set[int]:
    """The processes that are our children, zombies included."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            text = Path(f"/proc/self/task/{task}/children").read_text()
            found |= set(map(int, text.split()))
    return found


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what threads and processes do by themselves; fail when they do not."""
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


async def eventually_async(condition: Callable[[], bool]) -> None:
    """The same, and the event loop goes on. (Real time: a mock clock stands still meanwhile.)"""
    deadline = time.monotonic() + GUARD
    with clock_stopped():
        while not condition():
            assert time.monotonic() < deadline, "it never happened"
            await trio.to_thread.run_sync(time.sleep, 0.002)


@contextlib.contextmanager
def clock_stopped() -> Iterator[None]:
    """A mock clock jumps to no deadline: it would take a thread at work for nothing to do."""
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        yield
        return
    threshold, clock.autojump_threshold = clock.autojump_threshold, math.inf
    try:
        yield
    finally:
        clock.autojump_threshold = threshold


async def in_thread(work: Callable[[], object]) -> None:
    """Something that blocks (a question to the FUSE process), off the loop."""
    await trio.to_thread.run_sync(work)


# ---------------------------------------------------------------- disks


@contextlib.asynccontextmanager
async def serving(
    root: Path, stats: Stats | None = None, **settings: object
) -> AsyncIterator[LocalDisk]:
    """`open_disk`, without the exception group around a test's failure.

    It never gives up, and looks at its root but once, however long that takes.
    """
    common = {"max_helpers": 4, "disk_timeout": math.inf, "revalidate": math.inf}
    config = Config(root=root, **(common | settings))  # type: ignore[arg-type]
    failure: BaseException | None = None
    async with open_disk(config, stats if stats is not None else Stats()) as disk:
        try:
            yield disk
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure


@contextlib.asynccontextmanager
async def opened(disk: LocalDisk, path: bytes) -> AsyncIterator[OpenFile]:
    file = await disk.open(path)
    try:
        yield file
    finally:
        disk.close(file)


@contextlib.contextmanager
def opened_at(path: Path) -> Iterator[Opened]:
    """A file as `opening` sees it, closed afterwards."""
    directory = os.open(path.parent, os.O_PATH)
    try:
        found = open_waiting(directory, os.fsencode(path.name))
    finally:
        os.close(directory)
    try:
        yield found
    finally:
        os.close(found.descriptor)


def make_link(link: Path, target: str) -> None:
    """One whose access time need not be written when it is followed (relatime).

    That of a link which is followed in the tick of the clock in which it was made is not newer than
    its ctime, so it is due at each time; and the caches alone cannot write it.
    """
    link.symlink_to(target)
    os.utime(link, ns=(time.time_ns() + 60 * 10**9, 10**18), follow_symlinks=False)


def a_tick_later(directory: Path) -> None:
    """Wait until the clock of a file system has gone on since the last change of a directory.

    Two changes in one tick leave one stamp (10 ms; where nobody has to wait, none at all).
    """
    changed = directory.stat().st_ctime_ns
    with tempfile.TemporaryFile(dir=directory.parent) as probe:
        while os.fstat(probe.fileno()).st_ctime_ns <= changed:
            os.utime(probe.fileno())


async def loop_turns(count: int) -> None:
    """So many whole turns of the event loop: it is not blocked."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()


# ---------------------------------------------------------------- when a test is right to fail

_RESCUE = """if True:
    import os, select, socket, sys
    line, patience = socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2])
    while os.read(0, 1):  # armed
        needed = not select.select([0], [], [], patience)[0]
        if needed:
            ours, theirs = socket.socketpair()
            socket.send_fds(line, [b"?"], [theirs.fileno()])
            theirs.close()
            ours.send(b'["reset"]\\n')
            ours.recv(100)
            ours.close()
        os.read(0, 1)  # disarmed
        os.write(1, b"y" if needed else b"n")
"""


class Rescuer:
    """Lets a hung disk go when the test process does not, because it waits for the disk itself.

    It is a process: where the GIL is kept, no thread of ours runs, nor pytest's timeout.
    """

    def __init__(self, disk: FuseDisk) -> None:
        line = disk._line.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _RESCUE, str(line), str(GUARD)],
            pass_fds=[line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"a")
        try:
            yield
        finally:
            self._process.stdin.write(b"d")
            answer = self._process.stdout.read(1)
        assert answer == b"n", "this process waited for the disk, and had to be rescued"

    def close(self) -> None:
        self._process.communicate()


# ---------------------------------------------------------------- strangers


def as_stranger(name: str, *arguments: object) -> object:
    """What a function of `strangers.py` returns, when nobody (65534) calls it."""
    return _elsewhere(as_nobody, "tests.disk.strangers", name, *arguments)


def _elsewhere(
    wrap: Callable[[list[str]], list[str]], module: str, name: str, *arguments: object
) -> object:
    program = (
        "import importlib, json, sys; module, name, arguments = json.loads(sys.argv[1]); "
        "print(json.dumps(getattr(importlib.import_module(module), name)(*arguments)))"
    )
    question = json.dumps([module, name, arguments], default=str)
    done = subprocess.run(
        wrap([sys.executable, "-W", "error", "-c", program, question]),
        capture_output=True,
        text=True,
        timeout=GUARD,
        cwd="/",
        env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
        | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def elsewhere(wrap: Callable[[list[str]], list[str]], name: str, *arguments: object) -> object:
    """The same for another kind of stranger: `wrap` says how to become one."""
    return _elsewhere(wrap, "tests.disk.strangers", name, *arguments)
