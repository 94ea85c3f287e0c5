"""How much of a hot set a scan of cold files pushes out of memory, and what that costs. Blocks.

    python -m bench.pressure [--rounds 3] [--dir /var/tmp] [SERVER ...]

A server runs in a memory cgroup with room for a hot set of 40 MiB and for the half of what is read
beside it: 300 MiB of cold files, each once. After each cold file one of the hot ones, drawn at
random, is asked for. The table has the medians of all rounds: how many of the hot requests came for
a file that was not all in memory, how much of the hot set was left in the end, and the latency of
the hot requests in ms. Each server may keep as much of files as nginx does: the limit grows by the
memory that its processes take, as they take it. As root, with nginx.
"""

import argparse
import contextlib
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from bench.load import request
from bench.servers import HOST, Wrap, nginx, trio_amped
from tests.rig import LimitedCache, evict, limited_cache, resident_pages

MIB: Final = 1 << 20
ROOM: Final = 110  # MiB of files
HOT: Final = {f"hot/{number:03}": MIB // 8 for number in range(320)}
COLD: Final = {f"cold/{number:04}": MIB // 4 for number in range(1200)}
_BEFORE: Final = 4  # requests for each hot file before the scan: the kernel has seen it used often

Start = Callable[[Path, Wrap], AbstractContextManager[int]]


def _ours(*options: str) -> Start:
    return lambda root, wrap: trio_amped(root, options, wrap)


SERVERS: Final[dict[str, Start]] = {
    "thread": _ours(),
    "process": _ours("--helpers", "process"),
    "never": _ours("--gate", "never"),
    "nginx": lambda root, wrap: nginx(root, (), wrap),
    "nginx-aio": lambda root, wrap: nginx(root, ("aio threads;",), wrap),
}


class Outcome(NamedTuple):
    """What one scan did to one server."""

    missed: int  # hot requests
    kept: float  # MiB of the hot set
    median: float  # ms
    p99: float
    longest: float


class Client:
    """One connection that asks for one file after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port))
        self._answers = self._socket.makefile("rb", MIB)

    def get(self, path: str, size: int) -> float:
        """Fetch a file; return how many milliseconds it took."""
        begun = time.perf_counter()
        self._socket.sendall(request("/" + path, HOST))
        status = self._answers.readline()
        while self._answers.readline() != b"\r\n":
            pass
        if b" 200 " not in status or len(self._answers.read(size)) != size:
            raise RuntimeError(f"{path} was answered by {status!r}")
        return 1000 * (time.perf_counter() - begun)

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


def scan(start: Start, root: Path, seed: int) -> Outcome:
    """Serve the hot set, and each cold file once."""
    rng, cold = random.Random(seed), list(COLD)
    rng.shuffle(cold)
    for path in (*HOT, *COLD):
        evict(root / path)
    missed, waits = 0, list[float]()
    with limited_cache(ROOM * MIB) as cache, _started(start, root, cache) as client:
        for path, size in [*HOT.items()] * _BEFORE:
            client.get(path, size)
        for each in cold:
            client.get(each, COLD[each])
            path = rng.choice(list(HOT))
            missed += not _is_in_memory(root, path)
            waits.append(client.get(path, HOT[path]))
        kept = sum(resident_pages(root / path) for path in HOT) * os.sysconf("SC_PAGE_SIZE")
    waits.sort()
    p99 = waits[len(waits) * 99 // 100]
    return Outcome(missed, kept / MIB, statistics.median(waits), p99, waits[-1])


@contextlib.contextmanager
def _started(start: Start, root: Path, cache: LimitedCache) -> Iterator[Client]:
    """Have a client of a server that keeps so much of the files in memory."""
    with (
        start(root, cache.command) as port,
        contextlib.closing(Client(port)) as client,
    ):
        yield client


def _is_in_memory(root: Path, path: str) -> bool:
    return resident_pages(root / path) * os.sysconf("SC_PAGE_SIZE") >= HOT[path]


def write(root: Path) -> None:
    """Write the files, and have them on the disk."""
    content = os.urandom(MIB)
    for path, size in {**HOT, **COLD}.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(content[:size])
    os.sync()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m bench.pressure", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"))
    parser.add_argument("servers", nargs="*", choices=[[], *SERVERS], metavar="SERVER")
    options = parser.parse_args(arguments)
    names = options.servers or list(SERVERS)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        write(Path(scratch))
        for number in range(options.rounds):
            for name in names:
                outcomes[name].append(scan(SERVERS[name], Path(scratch), number))
    print(f"| server | missed, of {len(COLD)} | kept, of 40 MiB | median | p99 | longest |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in names:
        missed, kept, *waits = map(statistics.median, zip(*outcomes[name], strict=True))
        shown = " | ".join(f"{wait:.2f}" for wait in waits)
        print(f"| {name} | {missed:.0f} | {kept:.1f} | {shown} |")


if __name__ == "__main__":
    main(sys.argv[1:])
