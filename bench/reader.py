"""How long it takes to read 64 KiB of a file from a trio program. Blocks.

    python -m bench.reader [--rounds 7]

By trio_amped.disk, by trio.open_file and by anyio.open_file (each of which needs a `seek` and a
`read`), from files that are in memory and, evicted before each read, from the disk. One after
the other in each round; the ratio is the median of the rounds. Exit status 1 when a read from
memory is not 10 times as fast as trio's, or one from the disk is slower than trio's by a tenth.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
import trio

from tests.rig import evict
from trio_amped import disk

PART: Final = 64 * 1024  # bytes
PARTS: Final = 16  # of the hot file: it stays in the processor's cache, as what is read often does
COLD_PARTS: Final = 64
READS: Final = 2000
FLOORS: Final = {"in memory": 10.0, "from the disk": 0.9}
OURS, BASE = "trio_amped.disk", "trio.open_file"

Read = Callable[[int], Awaitable[bytes]]


async def median_time(read: Read, offsets: list[int], evicted: Path | None = None) -> float:
    """Microseconds; before each read the file is evicted, if it should be."""
    times = []
    for offset in offsets:
        if evicted:
            evict(evicted)
        start = time.perf_counter()
        data = await read(offset)
        times.append(time.perf_counter() - start)
        assert len(data) == PART
    return 1e6 * statistics.median(times)


async def measure(path: Path, offsets: list[int], *, is_cold: bool) -> dict[str, float]:
    """The median of each way, in a run of trio of its own for each."""
    found = {}
    async with (
        disk.open(path) as ours,
        await trio.open_file(path, "rb") as trios,
        await anyio.open_file(path, "rb") as anyios,
    ):

        async def by_trio(offset: int) -> bytes:
            await trios.seek(offset)
            return await trios.read(PART)

        async def by_anyio(offset: int) -> bytes:
            await anyios.seek(offset)
            data: bytes = await anyios.read(PART)
            return data

        ways: dict[str, Read] = {
            OURS: lambda offset: ours.read_at(offset, PART),
            BASE: by_trio,
            "anyio.open_file": by_anyio,
        }
        for name, read in ways.items():
            if not is_cold:
                await median_time(read, offsets[:PARTS])
            found[name] = await median_time(read, offsets, path if is_cold else None)
    return found


def rounds(count: int, path: Path, *, is_cold: bool) -> list[dict[str, float]]:
    parts = path.stat().st_size // PART
    offsets = [number * PART for number in range(parts)]
    offsets *= 1 if is_cold else READS // parts
    return [trio.run(lambda: measure(path, offsets, is_cold=is_cold)) for _ in range(count)]


def make(path: Path, parts: int) -> Path:
    path.write_bytes(os.urandom(parts * PART))
    os.utime(path, (1, 10**9))
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reader",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7)
    count = parser.parse_args(arguments).rounds
    failed = False
    print("| 64 KiB | way | us | times as fast as trio |")
    print("|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as directory:
        for row, parts in (("in memory", PARTS), ("from the disk", COLD_PARTS)):
            path = make(Path(directory, row.replace(" ", "-")), parts)
            found = rounds(count, path, is_cold=row == "from the disk")
            for name in found[0]:
                times = statistics.median(each[name] for each in found)
                ratio = statistics.median(each[BASE] / each[name] for each in found)
                print(f"| {row} | {name} | {times:.1f} | {ratio:.2f} |", flush=True)
                failed |= name == OURS and ratio < FLOORS[row]
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
