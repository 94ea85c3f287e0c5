"""The experiment of the Flash paper: more files than memory, on a slow disk. Blocks.

Files as large as SPECweb99's, chosen by Zipf's law, on a disk that is limited, while the kernel
may keep 160 MiB of them in memory: of every server, whatever memory it needs itself. Each time the
file system is mounted anew, its most popular files are read, and the server is loaded for a while
before it counts.
"""

import contextlib
import mmap
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path

from bench.hot import cgroups
from bench.hot.answers import Head, verify
from bench.hot.files import MIB, content, paper_sizes
from bench.hot.measure import Sample, run
from bench.hot.peers import Peer, Running
from bench.hot.probe import FILE, SIZE, probing
from bench.hot.rows import MEMORY
from bench.hot.workloads import Ask, Workload, drawn
from tests import rig

READ_AHEAD_KB = 128
# Else ext4 reads 32 blocks of inodes for one that is missing, each an operation for the cgroup: a
# disk, which sees them merged, would count one.
MOUNT = "inode_readahead_blks=0"
REQUESTS = 400_000
LONG, SHORT = (8, 10), (4, 4)  # seconds: how long it is loaded before it counts, and then
SAMPLE = 50  # files whose content is compared


@dataclass(frozen=True)
class Disk:
    """What a disk reads in a second at most; None: there is no such limit."""

    bytes: int | None = None
    operations: int | None = None


# A hard disk that need not seek much, and a disk of a cloud that is sold by its operations: Azure's
# standard HDD has 500 a second. A hard disk of 7 200 turns a minute makes 80 to 200 where it has to
# seek; with so few a load of some seconds would be a few hundred misses, and chance.
LIMIT, OPERATIONS = 40_000_000, 500
BY_BYTES, BY_OPERATIONS = Disk(bytes=LIMIT), Disk(operations=OPERATIONS)


@dataclass(frozen=True)
class DataSet:
    """Files of a given size in all, on an image that is mounted when they are wanted."""

    image: Path
    megabytes: int
    sizes: Mapping[str, int]

    @classmethod
    def write(cls, scratch: Path, megabytes: int) -> "DataSet":
        data = cls(scratch / f"paper-{megabytes}.img", megabytes, paper_sizes(megabytes))
        with data.mounted() as root:
            write_file(root / FILE, bytes(SIZE))
            for path, size in data.sizes.items():
                write_file(root / path.removeprefix("/"), content(path, size))
        return data

    def mounted(self) -> contextlib.AbstractContextManager[Path]:
        size = self.megabytes * MIB * 3 // 2 + 64 * MIB
        place = self.image.parent
        return rig.loop_ext4(place, size, READ_AHEAD_KB, image=self.image, options=MOUNT)

    @cached_property
    def workload(self) -> Workload:
        what = f"{self.megabytes} MiB of files"
        return Workload(self.image.stem, what, tuple(self.sizes), load="exact", requests=REQUESTS)

    @cached_property
    def asks(self) -> tuple[Sequence[Ask], Sequence[Ask]]:
        """What is asked for before it counts, and then."""
        asks = drawn(self.workload)
        return asks[: len(asks) // 2], asks[len(asks) // 2 :]

    def popular(self, room: int) -> list[str]:
        """The files that fit into so much memory, the most popular one last."""
        used, found = 0, list[str]()
        for path, size in self.sizes.items():
            used += in_pages(size)
            if used > room:
                break
            found.append(path)
        return found[::-1]


@dataclass(frozen=True)
class Found:
    """What a server did, what its disk did meanwhile, and how full the page cache was then."""

    sample: Sample
    reads: float  # of the disk, in a second
    bytes: float  # from the disk, in a second
    hits: float  # the share of the pages sent that the disk was not asked for
    cached: int  # bytes of files that the server's cgroup had in memory at the end
    own: int  # bytes of anonymous memory that it had then


def in_pages(size: int) -> int:
    """Return the memory that a file of `size` bytes takes, and what is read of it: whole pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def hit_rate(sizes: Iterable[int], answers: int, from_disk: int) -> float:
    """Return the share of the pages of answers that did not come from the disk.

    A disk reads whole pages: they are compared with the pages of the files that were sent, whose
    `sizes` are in the order in which they are asked for, again and again. The rate is that of all
    servers alike, from the outside. Read-ahead that is of no use and the reads of names and inodes
    count as misses.
    """
    asked = sum(map(in_pages, islice(cycle(sizes), answers)))
    return 1 - from_disk / asked


def write_file(path: Path, body: bytes) -> None:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_bytes(body)


@contextlib.contextmanager
def limited(
    data: DataSet, disk: Disk, peer: Peer, root: Path, cpus: Sequence[int]
) -> Iterator[tuple[Running, rig.SlowDisk, rig.LimitedCache]]:
    """A server with little memory for files, which is full, and a slow disk."""
    with (
        rig.slow_cgroup(root) as slow,
        cgroups.running(peer, root, cpus, MEMORY * MIB, slow) as (server, cache),
    ):
        names = "\0".join(path.removeprefix("/") for path in data.popular(MEMORY * MIB))
        # Several at a time, which wait for the disk below; the order stays much the same.
        subprocess.run(
            cache.command(["xargs", "-0", "-n", "64", "-P", "8", "cat"]),
            input=names.encode(),
            stdout=subprocess.DEVNULL,
            cwd=root,
            check=True,
        )
        slow.limit(disk.bytes, disk.operations)  # now: both are one cgroup in version 2
        yield server, slow, cache


def measure(
    data: DataSet,
    disk: Disk,
    lengths: tuple[int, int],
    load_cpus: Sequence[int],
    cpus: Sequence[int],
    peer: Peer,
) -> Found:
    """One server, from a cold start. Raises Wrong."""
    filling, seconds = lengths
    heads = {path: Head(0, size, False) for path, size in data.sizes.items()}
    before, asks = data.asks
    with (
        data.mounted() as root,
        rig.held_in_memory(root / FILE),
        limited(data, disk, peer, root, cpus) as (server, slow, cache),
    ):
        run(server, data.workload, heads, filling, load_cpus, before)
        with probing(server.port, load_cpus) as waits:
            begun, reads = time.monotonic(), slow.reads()
            sample = run(server, data.workload, heads, seconds, load_cpus, asks)
            ended, reads = time.monotonic(), slow.reads().since(reads)
            cached, own = cache.cached(), cache.own()
        some = dict.fromkeys(path for path, _ in before[:SAMPLE])
        files = {path: content(path, data.sizes[path]) for path in some}
        verify(server.port, data.workload, files, some)
    sizes = (data.sizes[path] for path, _ in asks)
    return Found(
        replace(sample, hot=waits.between(begun, ended)),
        reads.operations / seconds,
        reads.bytes / seconds,
        hit_rate(sizes, round(sample.rate * seconds), reads.bytes),
        cached,
        own,
    )
