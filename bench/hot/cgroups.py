"""A server in a cgroup of its own, with so much memory for files, and a slow disk if any. Blocks.

All servers that are compared are started here: on the same cores, with the same page cache,
whatever memory each needs itself.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.hot import peers
from bench.hot.files import MIB
from bench.hot.peers import Peer, Running
from tests import rig

ROOM: Final = 1024 * MIB  # bytes for files where all of them fit; sockets take of it as well
NEEDS: Final = ("root", "memory")


def missing(peer: Peer) -> str | None:
    """Return why a server cannot be started here, in a cgroup."""
    return next(filter(None, map(rig.missing, NEEDS)), None) or peer.missing()


@contextlib.contextmanager
def running(
    peer: Peer,
    root: Path,
    cpus: Sequence[int],
    memory: int = ROOM,
    slow: rig.SlowDisk | None = None,
) -> Iterator[tuple[Running, rig.LimitedCache]]:
    """Start a server on these CPUs; what else runs in its cgroup fills the same page cache.

    memory: bytes of files that the kernel may keep for it, beside its anonymous memory. slow: the
    cgroup by which its disk is slow.
    """
    with rig.limited_cache(memory, slow.directory if slow else None) as cache:

        def inside(words: list[str]) -> list[str]:
            words = cache.command(words)
            return slow.command(words) if slow else words

        with peers.running(peer, root, cpus, wrap=inside) as server:
            yield server, cache
