"""A server that runs out of something answers what it can, and goes on."""

from pathlib import Path

import pytest

from tests.rig import needs, running_server

from .support import KIB, MIB, Client, connections, content, descriptors, eventually, put

BIG = content(4 * MIB)


@pytest.fixture
def root(place: Path) -> Path:
    put(place / "root/big", BIG)
    put(place / "root/hot", b"hot")
    return place / "root"


@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_out_of_descriptors(root: Path, helpers: str) -> None:
    def limited(argv: list[str]) -> list[str]:
        return ["prlimit", "--nofile=48:48", *argv]

    options = ("--gate", "always", "--helpers", helpers, "--max-helpers", "8")
    with running_server(*options, root=root, wrap=limited) as server:
        clients = [Client(server, receive_buffer=16 * KIB) for _ in range(60)]
        for client in clients:
            client.ask("/big")
        # Each one that is being served holds two descriptors: there are none left for all.
        statuses = {client.head().status for client in clients[:10]}
        assert statuses <= {200, 503}
        assert server.process.poll() is None
        for client in clients:
            client.reset()
        eventually(lambda: connections(server.pid) == 0)
        eventually(
            lambda: not [d for d in descriptors(server.pid) if d.startswith(str(root / "big"))]
        )
        with Client(server) as client:
            assert client.get("/hot").body == b"hot"
            assert client.get("/big").body == BIG
        assert server.stop() == 0


@needs("strace")
def test_a_helper_process_that_cannot_be_watched(root: Path) -> None:
    """For want of a descriptor; the next try may be luckier."""
    fault = ["-e", "trace=pidfd_open", "-e", "inject=pidfd_open:error=EMFILE:when=1"]

    def faulty(argv: list[str]) -> list[str]:
        return ["strace", "-D", "-f", "-qq", "-o", "/dev/null", *fault, *argv]

    options = ("--gate", "always", "--helpers", "process")
    with running_server(*options, root=root, wrap=faulty) as server, Client(server) as client:
        assert client.get("/big").body == BIG
        assert client.get("/hot").body == b"hot"
        assert server.stop() == 0
