"""A workload: the head of its requests, and what they ask for in which order. Pure."""

import random
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

# What stands in a path or a head for something that is filled in.
ID = "%ID%"  # different in each request
RANGE = "%RANGE%"  # a range of `Workload.span` bytes at a random place
TAG, DATE = "%TAG%", "%DATE%"  # the ETag and Last-Modified that the server gives the file

REQUESTS = 20_000  # requests of a row that are drawn; then they are repeated
OFFSETS = (1_000_000, 10_000_000)  # of ranges: with 7 digits, so that all answers are as long

PLAIN = "Host: 127.0.0.1\r\n\r\n"
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


def plain(*fields: str) -> str:
    """The head of a plain request, with these fields besides."""
    return "\r\n".join(["Host: 127.0.0.1", *fields, "", ""])


@dataclass(frozen=True)
class Workload:
    """One row: who asks for what, and how it is measured."""

    name: str
    what: str
    paths: tuple[str, ...] = ("/1k",)
    head: str = PLAIN  # what follows the request line
    method: str = "GET"
    version: str = "1.1"
    status: int = 200
    span: int = 0
    connections: int = 64
    depth: int = 1  # requests that are sent at once on a connection
    load: Literal["wrk", "exact", "s_time"] = "wrk"
    requests: int = REQUESTS
    warms_up: bool = False  # its load runs once before, uncounted, so that caches are full
    is_fresh: bool = False  # the server is started for it, and has not been asked before
    once: bool = False  # each path once, in any order, and then it ends
    may_end: bool = False  # a connection may end after an answer that did not say so
    logs: bool = False  # the server writes an access log
    tls: bool = False  # the server has TLS, with the same certificate as the others
    key: Literal["ecdsa", "rsa"] = "ecdsa"  # of that certificate
    overlay: bool = False  # the files lie on overlayfs, and our server is not their owner

    @property
    def template(self) -> str:
        """The request, with what is to be filled in."""
        return f"{self.method} %PATH% HTTP/{self.version}\r\n{self.head}"

    @property
    def has_body(self) -> bool:
        return self.method != "HEAD" and self.status != 304


Ask = tuple[str, str]  # a path, and what %RANGE% is in the head


def drawn(workload: Workload) -> list[Ask]:
    """What is asked for, in this order."""
    draw, paths = random.Random(2), workload.paths
    if workload.span:
        (path,), most = paths, OFFSETS[1] - workload.span
        starts = (draw.randrange(OFFSETS[0], most) for _ in range(workload.requests))
        return [(path, f"{start}-{start + workload.span - 1}") for start in starts]
    if workload.once:
        return [(path, "-") for path in draw.sample(paths, len(paths))]
    if len(paths) == 1:
        return [(paths[0], "-")]
    # by Zipf's law: the nth is 1/n as popular as the first
    weights = list(accumulate(1 / rank for rank in range(1, len(paths) + 1)))
    chosen = draw.choices(paths, cum_weights=weights, k=workload.requests)
    return [(path, "-") for path in chosen]
