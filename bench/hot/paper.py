"""The experiment of the Flash paper: more files than memory, on a slow disk. Blocks.

Files as large as SPECweb99's, chosen by Zipf's law, on a disk that reads 40 MB/s, while the kernel
may keep 160 MiB of them in memory: of every server, whatever memory it needs itself. Each time the
file system is mounted anew, its most popular files are read, and the server is loaded for a while
before it counts.
"""

import contextlib
import mmap
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.hot.answers import Head, verify
from bench.hot.files import MIB, content, paper_sizes
from bench.hot.measure import Sample, run
from bench.hot.peers import Peer, Running, running
from bench.hot.probe import FILE, SIZE, probing
from bench.hot.rows import MEMORY, PAPER, ROWS
from bench.hot.workloads import Workload, drawn
from tests import rig

LIMIT = 40_000_000  # bytes a second
READ_AHEAD_KB = 128
REQUESTS = 400_000
LONG, SHORT = (8, 10), (4, 4)  # seconds: how long it is loaded before it counts, and then
SAMPLE = 50  # files whose content is compared


@dataclass(frozen=True)
class DataSet:
    """The files of one row, on an image that is mounted when they are wanted."""

    image: Path
    sizes: Mapping[str, int]
    workload: Workload

    @classmethod
    def write(cls, scratch: Path, row: str) -> "DataSet":
        sizes = paper_sizes(PAPER[row])
        workload = Workload(row, ROWS[row], tuple(sizes), load="exact", requests=REQUESTS)
        data = cls(scratch / f"{row}.img", sizes, workload)
        with data.mounted() as root:
            write_file(root / FILE, bytes(SIZE))
            for path, size in sizes.items():
                write_file(root / path.removeprefix("/"), content(path, size))
        return data

    def mounted(self) -> contextlib.AbstractContextManager[Path]:
        size = PAPER[self.workload.name] * MIB * 3 // 2 + 64 * MIB
        return rig.loop_ext4(self.image.parent, size, READ_AHEAD_KB, image=self.image)

    def popular(self, room: int) -> list[str]:
        """The files that fit into so much memory, the most popular one last."""
        used, found = 0, list[str]()
        for path, size in self.sizes.items():
            used += -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
            if used > room:
                break
            found.append(path)
        return found[::-1]


def write_file(path: Path, body: bytes) -> None:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_bytes(body)


@contextlib.contextmanager
def limited(data: DataSet, peer: Peer, root: Path, cpus: list[int]) -> Iterator[Running]:
    """A server with little memory for files, which is full, and a slow disk."""
    with (
        rig.slow_cgroup(root, LIMIT) as slow,
        rig.limited_cache(MEMORY * MIB, slow.directory) as cache,
        running(peer, root, cpus, wrap=lambda words: slow.command(cache.command(words))) as server,
    ):
        names = "\0".join(path.removeprefix("/") for path in data.popular(MEMORY * MIB))
        subprocess.run(
            cache.command(["xargs", "-0", "cat"]),
            input=names.encode(),
            stdout=subprocess.DEVNULL,
            cwd=root,
            check=True,
        )
        yield server


def measure(
    data: DataSet, lengths: tuple[int, int], load_cpus: list[int], cpus: list[int], peer: Peer
) -> Sample:
    """One server, from a cold start. Raises Wrong."""
    filling, seconds = lengths
    heads = {path: Head(0, size, False) for path, size in data.sizes.items()}
    asks = drawn(data.workload)
    half = len(asks) // 2
    with (
        data.mounted() as root,
        rig.held_in_memory(root / FILE),
        limited(data, peer, root, cpus) as server,
    ):
        run(server, data.workload, heads, filling, load_cpus, asks[:half])
        with probing(server.port, load_cpus) as waits:
            begun = time.monotonic()
            sample = run(server, data.workload, heads, seconds, load_cpus, asks[half:])
            ended = time.monotonic()
        some = dict.fromkeys(path for path, _ in asks[:SAMPLE])
        files = {path: content(path, data.sizes[path]) for path in some}
        verify(server.port, data.workload, files, some)
    return replace(sample, hot=waits.between(begun, ended))
