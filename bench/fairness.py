"""How late other tasks of the program come while the server has all the load it can take. Blocks.

    python -m bench.fairness [--seconds 5]      needs wrk

A task sleeps for 1 ms again and again, and notes how much later it comes back, and how much of it
can have been our own work, by the processor time of this process: other programs of the machine
are not our fault. Exit status 1 when the 99th percentile of our own part is above 5 ms in a row.
"""

import argparse
import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import trio

import trio_amped
from tests.rig import public_directory

BOUND: Final = 5.0  # ms
NAP: Final = 0.001  # seconds
FILES: Final = 5000  # for the rows in which many are closed at once
CONNECTIONS: Final = 2000
LONG_AGO: Final = 1_000_000_000
PIPELINE: Final = """
local heads = {{}}
for n = 1, 64 do
    local coding = {coding}
    heads[n] = "GET {path} HTTP/1.1\\r\\nHost: h\\r\\nAccept-Encoding: " .. coding .. "\\r\\n\\r\\n"
end
local all = table.concat(heads)
request = function() return all end
"""
NEW_CODINGS: Final = """
local count = 0
request = function()
    count = count + 1
    return "GET /1k HTTP/1.1\\r\\nHost: h\\r\\nAccept-Encoding: x" .. count .. "\\r\\n\\r\\n"
end
"""


class Site:
    """The program: a server, and the task that would like to come in time."""

    def __init__(self, port: int, server: trio_amped.Server, seconds: float) -> None:
        self.port = port
        self.server = server
        self.seconds = seconds
        self.late: list[float] = []  # ms
        self.own: list[float] = []  # ms

    async def measure(self) -> None:
        end = time.perf_counter() + self.seconds
        while (start := time.perf_counter()) < end:
            worked = time.process_time()
            await trio.sleep(NAP)
            late, worked = time.perf_counter() - start - NAP, time.process_time() - worked
            self.late.append(1000 * late)
            self.own.append(1000 * min(late, worked))

    async def wrk(self, path: str, *options: str, script: str = "") -> None:
        """Measure while wrk asks on the other processor."""
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
            file.write(script)
            file.flush()
            command = ["wrk", "-t1", f"-d{self.seconds + 2:.0f}", *options]
            command += ["-s", file.name] if script else []
            url = f"http://127.0.0.1:{self.port}{path}"
            others = sorted(os.sched_getaffinity(0) - {0}) or [0]
            process = await trio.lowlevel.open_process(
                ["taskset", "-c", ",".join(map(str, others)), *command, url],
                stdout=subprocess.DEVNULL,
            )
            try:
                await trio.sleep(1)
                await self.measure()
            finally:
                process.kill()
                await process.wait()


async def nobody(site: Site) -> None:
    await site.measure()


def by_wrk(path: str, *options: str, script: str = "") -> Callable[[Site], Any]:
    return lambda site: site.wrk(path, *options, script=script)


async def files_are_closed(site: Site) -> None:
    """Nobody asks for them any more."""
    async with await trio.open_tcp_stream("127.0.0.1", site.port) as stream:
        for _ in range(2):  # at first, a helper looks for sidecars
            for number in range(FILES):
                await stream.send_all(b"GET /many/%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
                await stream.receive_some()
    print(f"    {site.server.stats.files_open} files are open", file=sys.stderr)
    await site.measure()


async def connections_are_closed(site: Site) -> None:
    """All at once have been silent for too long."""
    streams = [await trio.open_tcp_stream("127.0.0.1", site.port) for _ in range(CONNECTIONS)]
    await site.measure()
    for stream in streams:
        await trio.aclose_forcefully(stream)


LARGE: Final = ("/10m", "-c16")
ROWS: Final[dict[str, tuple[Callable[[Site], Any], dict[str, Any]]]] = {
    "nobody": (nobody, {}),
    "1 KiB": (by_wrk("/1k", "-c64"), {}),
    "1 KiB, 2 clients": (by_wrk("/1k", "-c2"), {}),
    "1 KiB, 1000 clients": (by_wrk("/1k", "-c1000"), {}),
    "1 KiB, Connection: close": (by_wrk("/1k", "-c64", "-H", "Connection: close"), {}),
    "60 KiB": (by_wrk("/60k", "-c64"), {}),
    "10 MiB": (by_wrk(*LARGE), {}),
    "1 KiB, pipelined": (
        by_wrk("/", "-c64", script=PIPELINE.format(path="/1k", coding='"br"')),
        {},
    ),
    "60 KiB, pipelined": (
        by_wrk("/", "-c64", script=PIPELINE.format(path="/60k", coding='"br"')),
        {},
    ),
    "another coding each time": (by_wrk("/", "-c64", script=NEW_CODINGS), {}),
    "64 codings, pipelined": (
        by_wrk("/", "-c64", script=PIPELINE.format(path="/1k", coding='math.random() .. ""')),
        {},
    ),
    f"{FILES} files are closed": (
        files_are_closed,
        {"revalidate": 3.0, "open_file_timeout": 0.5},
    ),
    f"{CONNECTIONS} connections are closed": (connections_are_closed, {"head_timeout": 2.0}),
}


@contextlib.asynccontextmanager
async def running(root: Path, seconds: float, **settings: Any) -> AsyncIterator[Site]:
    config = trio_amped.Config(root=root, port=0, **settings)
    server = trio_amped.Server(config)
    async with trio.open_nursery() as nursery:
        ((_, port),) = await nursery.start(server.serve)
        yield Site(port, server, seconds)
        nursery.cancel_scope.cancel()


def make_files(root: Path) -> None:
    (root / "many").mkdir()
    files = {root / "many" / str(number): 100 for number in range(FILES)}
    for path, size in (
        files | {root / "1k": 1024, root / "60k": 60_000, root / "10m": 10 << 20}
    ).items():
        path.write_bytes(os.urandom(size))
        os.utime(path, (LONG_AGO, LONG_AGO))


async def measure_row(name: str, root: Path, seconds: float, more: dict[str, Any]) -> Site:
    run, settings = ROWS[name]
    async with running(root, seconds, **settings, **more) as site:
        await run(site)
    return site


def summary(values: list[float]) -> tuple[float, float, float]:
    """The median, the 99th percentile, and the largest."""
    ordered = sorted(values)
    median, high = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.99))
    return median, high, ordered[-1]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fairness")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row")
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one")
    parser.add_argument("--no-fast-lane", action="store_true", help="to compare with")
    options = parser.parse_args(arguments)
    more = {"fast_lane": False} if options.no_fast_lane else {}
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    failed = False
    print("| load | naps | late: p50, ms | p99 | max | our own: p50, ms | p99 | max |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with public_directory() as root:
        make_files(root)
        for name in options.row or ROWS:
            site = trio.run(measure_row, name, root, options.seconds, more)
            found = (*summary(site.late), *summary(site.own))
            failed |= found[4] > BOUND
            columns = " | ".join(f"{value:.2f}" for value in found)
            print(f"| {name} | {len(site.late)} | {columns} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
