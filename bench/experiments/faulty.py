"""Disks that stall, fail, or keep a writer waiting, and a hot client beside them. Blocks.

A FUSE file system holds the image of a loop device, on which the files lie: it hangs and fails as
it is told. The hot file is in memory, and stays there. A disk is out of order for ten seconds,
from the first read that it does not answer, whatever the server does: then it is mended, so that
one that waits for it goes on.
"""

import contextlib
import errno
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final, Literal, NamedTuple

from bench import locks
from bench.disks import HOT, MIB, ColdFile, Shape, write_files
from bench.experiments.figure import Cores, Figures
from bench.hot import cgroups
from bench.hot.answers import Wrong, verify
from bench.hot.folder import SETTLED
from bench.hot.measure import Hot
from bench.hot.peers import Peer, Running
from bench.hot.probe import probing
from bench.hot.workloads import Workload
from bench.load import UNTRUE, StreamReport
from bench.rig import CLIENTS, stream
from tests import rig

SECONDS: Final = 10.0  # for which the disk is out of order
FAILURE: Final = 1.0  # seconds after which a read of a bad sector fails
PATIENCE: Final = 45.0  # seconds for all cold files
_PAUSE: Final = 0.1  # seconds between two looks whether the clients have their answers
_SIZE: Final = 192 * MIB  # of an ext4
_HOT_FILE: Final = Workload("hot", "the hot file", (f"/{HOT}",))


def read(server: Running, files: Sequence[ColdFile], clients: int, cores: Cores) -> StreamReport:
    """Fetch each of these files once, by so many clients on the cores of the load.

    Raises RuntimeError.
    """
    prefix = ["taskset", "--cpu-list", ",".join(map(str, cores.load))]
    return stream(server.port, files, PATIENCE, clients, prefix)


def check_errors(report: StreamReport) -> None:
    """Raise Wrong where an answer was none, or not true."""
    if report.errors:
        raise Wrong(f"cold files: {len(report.errors)} errors, first: {report.errors[0]}")


def of_hot(hot: Hot) -> dict[str, float]:
    """Return how long the hot client waited, for the columns of the figure."""
    return {"p50": hot.p50, "p99": hot.p99, "longest": hot.most}


class Step(NamedTuple):
    """What is done to a disk, so many seconds after the step before."""

    seconds: float
    act: Callable[[], None]


class FaultyDisk(ABC):
    """Files on a file system of their own, whose disk gets out of order."""

    kind: ClassVar[Literal["ext4", "xfs"]] = "ext4"
    shape: ClassVar[Shape] = Shape(count=16, size=MIB)

    def __init__(self, scratch: Path) -> None:
        """Write the files into an image. scratch: a folder of this disk alone."""
        self._scratch = scratch
        (scratch / "backing").mkdir()
        with self._mounted() as (_, root):
            self.files: Sequence[ColdFile] = self.write(root)
        time.sleep(SETTLED)

    def write(self, root: Path) -> Sequence[ColdFile]:
        """Write the hot file and what is asked for while the disk is out of order."""
        return write_files(root, self.shape)

    def load(self, root: Path) -> None:  # noqa: B027 - most disks need nothing
        """Have in memory what should be there besides the hot file."""

    @abstractmethod
    def out_of_order(
        self, disk: rig.FuseDisk, root: Path
    ) -> contextlib.AbstractContextManager[Sequence[Step]]:
        """Break a disk, whose reads hang already; the steps follow once a read hangs.

        The block ends when the disk is mended.
        """

    def check(self, report: StreamReport) -> None:
        """Raise Wrong unless the answers for the cold files are right."""
        check_errors(report)

    def measure(self, peer: Peer, cores: Cores) -> Figures:
        """Time the hot client of a server that has just been started. Raises Wrong, OSError."""
        with (
            self._mounted() as (disk, root),
            rig.held_in_memory(root / HOT),
            cgroups.running(peer, root, cores.server) as (server, _),
        ):
            self.load(root)
            hot = {f"/{HOT}": (root / HOT).read_bytes()}
            heads = verify(server.port, _HOT_FILE, hot)
            with probing(server.port, cores.load) as waits, self._broken(disk, root):
                report = read(server, self.files, CLIENTS, cores)
            if verify(server.port, _HOT_FILE, hot) != heads:
                raise Wrong("the heads have changed")
        self.check(report)
        if report.ended - report.started < SECONDS / 2:
            raise Wrong("no cold file waited for the disk")
        return of_hot(waits.between(report.started, report.ended))

    @contextlib.contextmanager
    def _mounted(self) -> Iterator[tuple[rig.FuseDisk, Path]]:
        """The disk in good order; names, inodes and pages are not in memory."""
        with rig.fuse_disk(self._scratch, self._scratch / "backing") as disk:
            image = disk.path / "image"
            if self.kind == "xfs":
                made = rig.loop_disk(self._scratch, "xfs", image=image)
            else:
                made = rig.loop_ext4(self._scratch, _SIZE, image=image)
            with made as root:
                yield disk, root

    @contextlib.contextmanager
    def _broken(self, disk: rig.FuseDisk, root: Path) -> Iterator[None]:
        disk.hang("read")
        is_over = threading.Event()
        with contextlib.ExitStack() as stack:
            steps = stack.enter_context(self.out_of_order(disk, root))
            thread = threading.Thread(target=_carry_out, args=(disk, steps, is_over))
            stack.callback(thread.join)
            stack.callback(disk.reset)  # what waits for the disk ends, when the block has failed
            stack.callback(is_over.set)
            thread.start()
            yield


def _carry_out(disk: rig.FuseDisk, steps: Sequence[Step], is_over: threading.Event) -> None:
    if _hangs(disk, is_over):
        for seconds, act in steps:
            if is_over.wait(seconds):
                return
            act()


def _hangs(disk: rig.FuseDisk, is_over: threading.Event) -> bool:
    """Wait until a read hangs, and return True; False: it is over before."""
    while not is_over.is_set():
        with contextlib.suppress(TimeoutError):
            disk.wait_hanging(timeout=_PAUSE)
            return True
    return False


class Stall(FaultyDisk):
    """A disk that answers nothing for ten seconds, and then all; names are not in memory."""

    def write(self, root: Path) -> Sequence[ColdFile]:
        folder = root / "cold"  # its names are in a block of its own, which has not been read
        folder.mkdir(mode=0o755)
        files = super().write(root)
        for file in files:
            (root / file.name).rename(folder / file.name)
        return [replace(file, name=f"{folder.name}/{file.name}") for file in files]

    @contextlib.contextmanager
    def out_of_order(self, disk: rig.FuseDisk, root: Path) -> Iterator[Sequence[Step]]:
        yield [Step(SECONDS, disk.reset)]


class BadSectors(FaultyDisk):
    """A disk whose first reads hang for half of the time, and all others fail after a second.

    Names and inodes are in memory: it is the files' content that cannot be read. What is asked
    for afterwards is read.
    """

    shape = Shape(count=64, size=MIB)  # more than fail in time

    @contextlib.contextmanager
    def out_of_order(self, disk: rig.FuseDisk, root: Path) -> Iterator[Sequence[Step]]:
        disk.delay("read", FAILURE)
        disk.fail("read", errno.EIO)
        yield [Step(SECONDS / 2, lambda: disk.release("read")), Step(SECONDS / 2, disk.reset)]

    def load(self, root: Path) -> None:
        for path in root.iterdir():
            path.stat()

    def check(self, report: StreamReport) -> None:
        """A file that cannot be read may have no answer, or an error, and no other content."""
        if wrong := [error for error in report.errors if UNTRUE in error]:
            raise Wrong(wrong[0])


class Writer(FaultyDisk):
    """An XFS with a writer that waits for the disk, and holds its file's lock meanwhile.

    The start of the file, which clients ask for, is in memory.
    """

    kind = "xfs"
    shape = Shape(count=0, size=MIB)
    NAME: Final = "written"

    def write(self, root: Path) -> Sequence[ColdFile]:
        write_files(root, self.shape)
        path = root / self.NAME
        path.write_bytes(bytes(range(256)) * (locks.SIZE // 256))
        with path.open("r+b", buffering=0) as file:  # what is written again and again
            locks.DEEDS["write"](file.fileno())
        return [ColdFile(self.NAME, locks.SIZE, zlib.crc32(path.read_bytes()))] * CLIENTS

    @contextlib.contextmanager
    def out_of_order(self, disk: rig.FuseDisk, root: Path) -> Iterator[Sequence[Step]]:
        path = root / self.NAME
        with path.open("r+b", buffering=0) as file:
            writer = threading.Thread(target=locks.DEEDS["write"], args=[file.fileno()])
            writer.start()
            try:
                disk.wait_hanging(timeout=PATIENCE)
                yield [Step(SECONDS, disk.reset)]
            finally:
                disk.reset()
                writer.join()

    def load(self, root: Path) -> None:
        with (root / self.NAME).open("rb", buffering=0) as file:
            locks.load_start(file.fileno())
