"""The memory of clients with TLS that ask for a large file, and read nothing of it. Blocks.

    python -m bench.stalled [--clients 500]

The table has the bytes for each of them, in all processes of a server: resident, and with its share
of what several have. The kernel's own buffers are not in it. Exit status 1 when one of ours takes
more than 64 KiB.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.hot.answers import connected
from bench.hot.idle import Memory
from bench.hot.peers import DEFAULT, OURS, PEERS, TASKS, TUNED, Peer, running
from bench.hot.processes import memory
from bench.servers import Pair
from bench.tables import table
from tests.rig import public_directory

MOST: Final = 64 * 1024  # bytes
_FIRST: Final = 20  # clients before, so that what is loaded once is there
_ROOM: Final = 4096  # bytes that the kernel keeps for a client
_SETTLED: Final = 1.0  # seconds after which nobody takes anything any more
_ASK: Final = b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n"


def stalled(peer: Peer, root: Path, pair: Pair, clients: int) -> Memory:
    """Return the bytes for each client of a server."""
    with (
        running(peer, root, sorted(os.sched_getaffinity(0)), tls=pair) as server,
        contextlib.ExitStack() as stack,
    ):

        def come(count: int) -> tuple[int, int]:
            for _ in range(count):
                client = stack.enter_context(connected(server.port, tls=True, room=_ROOM))
                client.sendall(_ASK)
            time.sleep(_SETTLED)
            return memory(server.session)

        before, after = come(_FIRST), come(clients)
    rss, pss = ((now - then) / clients for now, then in zip(after, before, strict=True))
    return Memory(rss, pss)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m bench.stalled", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--clients", type=int, default=500)
    clients = parser.parse_args(arguments).clients
    found = {}
    with public_directory() as root, tempfile.TemporaryDirectory() as folder:
        (root / "large").write_bytes(os.urandom(16 << 20))
        pair = Pair.write(Path(folder))
        for name in (OURS, TASKS, TUNED, DEFAULT):
            if reason := PEERS[name].missing():
                print(f"{name} was skipped: {reason}", file=sys.stderr)
            else:
                found[name] = stalled(PEERS[name], root, pair, clients)
    lines = ([name, f"{each.rss:,.0f}", f"{each.pss:,.0f}"] for name, each in found.items())
    print("".join(table(["server", "RSS", "PSS"], lines)), end="")
    return int(max(found[OURS].pss, found[TASKS].pss) > MOST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
