"""How long a hot client waits beside others: large downloads, floods, crowds. Blocks.

    python -m bench.beside [--rounds 3] [--seconds 4] [--way WAY] [--row ROW]

The hot client asks for 1 KiB every 2.5 ms, in an open loop (bench.load): first with nobody beside
(quiet), then with the others of a row, on the same server. The table has the medians of the rounds,
in milliseconds. Ways: `lane`; `tasks`, by --no-fast-lane; `tls` and `tls-tasks`, where all clients
have TLS. Exit status 1 when a 99th percentile beside others is above 5 ms.
"""

import argparse
import contextlib
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from bench.hot.measure import Hot
from bench.hot.probe import FILE, SIZE, probing
from bench.machine import cores
from bench.servers import HOST, KEYS, Pair
from tests.rig import (
    REPOSITORY,
    FuseDisk,
    Operation,
    fuse_disk,
    missing,
    public_directory,
    running_server,
)

BOUND: Final = 5.0  # ms
MIB: Final = 1 << 20
LONG_AGO: Final = 1_000_000_000
SETTLED: Final = 0.5  # seconds after which the others have all begun
WAYS: Final[dict[str, tuple[str, ...]]] = {
    "lane": (),
    "tasks": ("--no-fast-lane",),
    "tls": (),
    "tls-tasks": ("--no-fast-lane",),
}


class Server(NamedTuple):
    """Where the others find the server."""

    port: int
    has_tls: bool

    def url(self, path: str) -> str:
        return f"{'https' if self.has_tls else 'http'}://{HOST}:{self.port}{path}"


class Row(NamedTuple):
    """The others: the command that starts them, and what the server is started with for them.

    `log`: it has an access log, and on which disk; one that `hangs` does so beside the others.
    """

    command: Callable[[Server], Sequence[str]] | None
    options: tuple[str, ...] = ()
    ways: tuple[str, ...] = tuple(WAYS)
    key: Literal["ecdsa", "rsa"] = "ecdsa"
    log: Literal["", "plain", "hangs"] = ""


def wrk(path: str, connections: int, *fields: str) -> Callable[[Server], Sequence[str]]:
    """Ask for a path on so many connections, again and again."""
    options = [word for field in fields for word in ("-H", field)]
    command = ["wrk", "-t1", f"-c{connections}", "-d600s", "--timeout", "60s", *options]
    return lambda server: [*command, server.url(path)]


def flood(kind: str, connections: int) -> Callable[[Server], Sequence[str]]:
    """Have clients of `bench.floods`."""
    command = [sys.executable, "-m", "bench.floods", kind]
    return lambda server: [*command, str(server.port), str(connections), str(int(server.has_tls))]


_RANGE: Final = "Range: bytes=1000-3000999"
_RANGES: Final = "Range: bytes=0-999999,1500000-2499999,3000000-3999999"
_BY_TLS: Final = ("tls", "tls-tasks")
# Each of many busy clients has its share: by tasks the hot client wants more than its own.
_BY_LANE: Final = ("lane", "tls")
ROWS: Final[dict[str, Row]] = {
    "50 downloads of 4 MiB": Row(wrk("/4m", 50)),
    "500 downloads of 4 MiB": Row(wrk("/4m", 500)),
    "50 downloads of 300 KiB": Row(wrk("/300k", 50), ways=_BY_LANE),
    "50 downloads of 60 KiB": Row(wrk("/60k", 50), ways=_BY_LANE),
    "50 ranges of 3 MB": Row(wrk("/4m", 50, _RANGE)),
    "50 times three ranges of 1 MB": Row(wrk("/4m", 50, _RANGES)),
    "50 small multi-ranges": Row(
        wrk("/4m", 50, "Range: bytes=0-99,2000000-2000099"), ways=_BY_LANE
    ),
    "400 HEADs": Row(flood("heads", 400), ways=_BY_LANE),
    "400 that are absent": Row(wrk("/absent", 400), ways=_BY_LANE),
    "16 listings of 5 000 names": Row(wrk("/names/", 16), ("--listing",), ways=_BY_LANE),
    "400 gzipped sidecars": Row(wrk("/page.js", 400, "Accept-Encoding: gzip"), ways=_BY_LANE),
    "50 uploads of 1 MiB": Row(flood("uploads", 50)),
    "500 slow readers": Row(flood("slow", 500)),
    "1 KiB, 400 clients": Row(wrk("/1k", 400), ways=_BY_LANE),
    "1 KiB, 400 clients, with a log": Row(wrk("/1k", 400), log="plain", ways=_BY_LANE),
    "50 downloads, with a log": Row(wrk("/4m", 50), log="plain"),
    "a log on a disk that hangs": Row(None, log="hangs"),
    "1 KiB, a connection each": Row(wrk("/1k", 64, "Connection: close"), ways=_BY_LANE),
    "handshakes, ECDSA": Row(flood("hellos", 64), ways=_BY_TLS),
    "handshakes, RSA 2048": Row(flood("hellos", 64), ways=_BY_TLS, key="rsa"),
    "KeyUpdates": Row(flood("updates", 16), ways=_BY_TLS),
}


def make_files(root: Path) -> None:
    """Write what is asked for."""
    (root / "names").mkdir()
    for number in range(5000):
        (root / "names" / f"name-{number:05}").touch()
    script = b"let a = 1;\n" * 20_000
    sizes = {FILE: SIZE, "1k": 1024, "60k": 60 << 10, "300k": 300 << 10, "4m": 4 * MIB}
    files = {name: os.urandom(size) for name, size in sizes.items()}
    files |= {"page.js": script, "page.js.gz": gzip.compress(script) + os.urandom(20_000)}
    for name, content in files.items():
        (root / name).write_bytes(content)
        os.utime(root / name, (LONG_AGO, LONG_AGO))


@contextlib.contextmanager
def others(command: Sequence[str], cpu: int) -> Iterator[None]:
    """Have others on a core, until the block ends. Raises RuntimeError where they have ended."""
    process = subprocess.Popen(
        ["taskset", "--cpu-list", str(cpu), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    try:
        time.sleep(SETTLED)
        yield
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} has ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def hanging(disk: FuseDisk) -> Iterator[None]:
    """Have a disk hang; once somebody has met it, until the block ends."""
    operations: tuple[Operation, ...] = ("write", "getattr", "open", "flush")
    disk.hang(*operations)
    try:
        disk.wait_hanging()
        yield
    finally:
        disk.release(*operations)


def measure(
    root: Path, pairs: Mapping[Literal["ecdsa", "rsa"], Pair], name: str, way: str, seconds: float
) -> list[Hot]:
    """Return how long the hot client waited with nobody beside, and with the others."""
    row, (load, cpu) = ROWS[name], cores()
    options, pin = [*row.options, *WAYS[way]], ["taskset", "--cpu-list", str(cpu)]
    if has_tls := way in _BY_TLS:
        pair = pairs[row.key]
        options += [f"--tls-cert={pair.certificate}", f"--tls-key={pair.key}"]
    with contextlib.ExitStack() as stack:
        place, disk = Path(stack.enter_context(tempfile.TemporaryDirectory())), None
        if row.log == "hangs":
            (backing := place / "backing").mkdir()
            disk = stack.enter_context(fuse_disk(place, backing))
            place = disk.path
        options += ["--access-log", str(place / "log")] if row.log else []
        server = stack.enter_context(
            running_server(*options, root=root, wrap=lambda words: [*pin, *words])
        )
        waits = stack.enter_context(probing(server.port, [load], tls=has_tls))
        begins, ends = [time.monotonic()], list[float]()
        time.sleep(seconds)
        ends.append(time.monotonic())
        if row.command:
            stack.enter_context(others(row.command(Server(server.port, has_tls)), load))
        if disk:
            stack.enter_context(hanging(disk))
        begins.append(time.monotonic())
        time.sleep(seconds)
        ends.append(time.monotonic())
    return [waits.between(begin, end) for begin, end in zip(begins, ends, strict=True)]


def line(name: str, way: str, rounds: Sequence[Sequence[Hot]]) -> tuple[str, bool]:
    """Return the row of the table, and whether the bound holds."""
    figures = [
        statistics.median(getattr(each[beside], figure) for each in rounds)
        for beside in (0, 1)
        for figure in ("p50", "p99", "most")
    ]
    columns = " | ".join(f"{figure:.2f}" for figure in figures)
    return f"| {name} | {way} | {columns} |", figures[4] <= BOUND


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m bench.beside", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="with and without the others")
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one")
    parser.add_argument("--way", action="append", choices=WAYS, help="only this one")
    options = parser.parse_args(arguments)
    has_failed, numbers = False, range(options.rounds)
    print("| beside | way | quiet: p50 | p99 | max | beside others: p50 | p99 | max |")
    print("|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    with public_directory() as root, tempfile.TemporaryDirectory() as folder:
        make_files(root)
        pairs = {kind: Pair.write(Path(folder), kind) for kind in KEYS}
        for name in options.row or ROWS:
            if ROWS[name].log == "hangs" and (reason := missing("fuse")):
                print(f"{name} was skipped: {reason}", file=sys.stderr)
                continue
            for way in [each for each in options.way or WAYS if each in ROWS[name].ways]:
                rounds = [measure(root, pairs, name, way, options.seconds) for _ in numbers]
                text, is_kept = line(name, way, rounds)
                print(text, flush=True)
                has_failed |= not is_kept
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
