"""Read files from a trio program without the disk ever stopping it: `python examples/gate_only.py`.

Reads parts of a file in two ways, and prints how long each takes: by `trio_amped.disk`, which asks
whether the part is in memory and needs a thread only if it is not, and by `trio.open_file`, which
needs one for every call. Give it the path of a large file of your own to see it cold.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

import trio

from trio_amped import disk

PART = 64 * 1024  # bytes
PARTS = 256


async def measure(name: str, read: Callable[[int], Awaitable[bytes]]) -> None:
    """The median time of a part, twice: the first time some may come from the disk."""
    for turn in ("first", "again"):
        times = []
        for number in range(PARTS):
            start = time.perf_counter()
            await read(number * PART)
            times.append(time.perf_counter() - start)
        print(f"{name:16}{turn:8}{1e6 * statistics.median(times):8.1f} us for 64 KiB", flush=True)


async def main(path: str) -> None:
    async with disk.open(path) as file, await trio.open_file(path, "rb") as other:

        async def read_other(offset: int) -> bytes:
            await other.seek(offset)
            return await other.read(PART)

        print(f"{file.name}: {file.size} bytes, gate {file.gate}")
        await measure("trio_amped.disk", lambda offset: file.read_at(offset, PART))
        await measure("trio.open_file", read_other)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        if not os.path.isfile(sys.argv[1]) or os.path.getsize(sys.argv[1]) < PART * PARTS:
            sys.exit(f"{sys.argv[1]} is no file of at least {PART * PARTS} bytes")
        trio.run(main, sys.argv[1])
    else:
        with tempfile.NamedTemporaryFile() as made:
            made.write(bytes(PART * PARTS))
            made.flush()
            trio.run(main, made.name)
