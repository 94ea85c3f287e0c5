"""How long an honest client waits where others, who ask for nothing, have all the places. Blocks.

    python -m bench.crowds [--connections 4096] [--clients 100] [--no-fast-lane]

As many connections as the server takes are opened, and stay: silent ones, ones with the half of a
head, and ones that are idle after an answer. None of their deadlines passes. Then clients come one
after the other, and each asks for a file on a connection of its own. The table has the milliseconds
from the first step of a connection until its answer was there.
"""

import argparse
import contextlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.servers import HOST
from tests.real.support import Client
from tests.rig import running_server

CONTENT: Final = b"hot" * 300
_SPARE: Final = 100  # descriptors of ours that are no clients


def _ask(client: Client) -> None:
    if client.get("/hot").body != CONTENT:
        raise RuntimeError("the file has another content")


def _begin(client: Client) -> None:
    client.socket.sendall(b"GET /hot HTTP/1.1\r\nHost: " + HOST.encode())


KINDS: Final[dict[str, Callable[[Client], object]]] = {
    "silent": lambda client: None,
    "half a head": _begin,
    "idle": _ask,
}


def waits(root: Path, kind: str, connections: int, clients: int, *options: str) -> list[float]:
    """Have a crowd of one kind, and return the milliseconds of each honest client."""
    found = []
    with (
        running_server("--max-connections", str(connections), *options, root=root) as server,
        contextlib.ExitStack() as crowd,
    ):
        for _ in range(connections):
            KINDS[kind](crowd.enter_context(Client(server)))
        for _ in range(clients):
            begun = time.perf_counter()
            with Client(server) as client:
                _ask(client)
            found.append(1000 * (time.perf_counter() - begun))
    return sorted(found)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m bench.crowds", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--connections", type=int, default=4096)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--no-fast-lane", action="append_const", const="--no-fast-lane", default=[])
    options = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = options.connections + _SPARE
    if wanted > hard:
        parser.error(f"{wanted} descriptors are needed, and {hard} allowed: see ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    print(f"| {options.connections} connections | median | longest |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as root:
        Path(root, "hot").write_bytes(CONTENT)
        for kind in KINDS:
            size = options.connections, options.clients
            found = waits(Path(root), kind, *size, *options.no_fast_lane)
            print(f"| {kind} | {statistics.median(found):.1f} | {found[-1]:.1f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
