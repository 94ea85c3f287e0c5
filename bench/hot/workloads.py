"""What is asked for: the files, the heads of the requests, and the table of workloads. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

KIB, MIB = 1 << 10, 1 << 20
WORKERS, IDLE = "workers", "idle"  # rows that are no workload of their own
ID = "%ID%"  # in a head: something that is different each time
REQUESTS = 20_000  # requests of `zipf` that are drawn; then they are repeated

SIZES = {"/1k": KIB, "/64k": 64 * KIB, "/1m": MIB, "/16m": 16 * MIB}
ZIPF_FILES = 2000

PLAIN = "Host: 127.0.0.1\r\n\r\n"
CLOSE = "Host: 127.0.0.1\r\nConnection: close\r\n\r\n"
# What Chromium 156 sends for fetch("/1k", {headers: {"X-Request-ID": ...}}), byte for byte.
BROWSER = (
    "Host: 127.0.0.1\r\n"
    "Connection: keep-alive\r\n"
    f"X-Request-ID: {ID}\r\n"
    'sec-ch-ua-platform: "Linux"\r\n'
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/156.0.0.0 Safari/537.36\r\n"
    'sec-ch-ua: "Not:A-Brand";v="8", "Chromium";v="156"\r\n'
    "sec-ch-ua-mobile: ?0\r\n"
    "Accept: */*\r\n"
    "Sec-Fetch-Site: same-origin\r\n"
    "Sec-Fetch-Mode: cors\r\n"
    "Sec-Fetch-Dest: empty\r\n"
    "Referer: http://127.0.0.1/\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-US,en;q=0.9\r\n"
    f"Cookie: session={ID}\r\n"
    "\r\n"
)


@dataclass(frozen=True)
class Workload:
    """One row. `floor` is the least ratio to nginx as tuned."""

    name: str
    what: str
    paths: tuple[str, ...]
    head: str = PLAIN
    connections: int = 64
    depth: int = 1  # requests that are sent at once on a connection
    load: Literal["wrk", "bulk"] = "wrk"
    floor: float | None = None
    warms_up: bool = False  # its load runs once before, uncounted, so that caches are full


def zipf_sizes() -> dict[str, int]:
    """The files of `zipf`, the most popular one first: 0.5 to 64 KiB, small ones more often."""
    draw = random.Random(1)
    return {f"/z{number:04}": int(512 * 128 ** draw.random()) for number in range(ZIPF_FILES)}


def drawn(paths: tuple[str, ...]) -> list[str]:
    """Paths in the order in which they are asked for: the nth is 1/n as popular as the first."""
    if len(paths) == 1:
        return list(paths)
    weights = list(accumulate(1 / rank for rank in range(1, len(paths) + 1)))
    return random.Random(2).choices(paths, cum_weights=weights, k=REQUESTS)


def contents() -> Iterator[tuple[str, bytes]]:
    """All files: name and content, which is the same in every run."""
    for path, size in (SIZES | zipf_sizes()).items():
        yield path, random.Random(path).randbytes(size)


_WORKLOADS = (
    Workload("1k", "one file of 1 KiB", ("/1k",), floor=0.95),
    Workload(
        "unique",
        "1 KiB, a browser's head with a fresh cookie and id each time",
        ("/1k",),
        BROWSER,
        floor=0.90,
    ),
    Workload(
        "zipf",
        f"{ZIPF_FILES} files of 0.5 to 64 KiB by Zipf's law, the same head",
        tuple(zipf_sizes()),
        BROWSER,
        floor=0.85,
        warms_up=True,
    ),
    Workload("64k", "one file of 64 KiB", ("/64k",), connections=32, load="bulk", floor=0.95),
    Workload("1m", "one file of 1 MiB", ("/1m",), connections=8, load="bulk", floor=1.10),
    Workload("16m", "one file of 16 MiB", ("/16m",), connections=4, load="bulk", floor=1.00),
    Workload("close", "1 KiB, a connection for each request", ("/1k",), CLOSE, floor=0.5),
    Workload("pipeline", "1 KiB, 16 requests at once (for information)", ("/1k",), depth=16),
)
WORKLOADS = {workload.name: workload for workload in _WORKLOADS}
