"""A server that runs out of something answers what it can, and goes on."""

from pathlib import Path

import pytest

from tests.rig import ServerProcess, needs, running_server

from .support import KIB, MIB, SMALL, WINDOW, Client, content, eventually, put

BIG = content(4 * MIB)


@pytest.fixture
def root(place: Path) -> Path:
    put(place / "root/big", BIG)
    put(place / "root/hot", b"hot")
    return place / "root"


@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_out_of_descriptors(place: Path, helpers: str) -> None:
    """What is answered is right: a descriptor's number never brings another one's bytes."""
    files = {f"/{size}": content(size) for size in (1, 99, SMALL, WINDOW, WINDOW + 1, 4 * MIB)}
    for path, data in files.items():
        put(place / "root" / path[1:], data)

    def limited(argv: list[str]) -> list[str]:
        return ["prlimit", "--nofile=48:48", *argv]

    options = ("--gate", "always", "--helpers", helpers, "--max-helpers", "8")
    with running_server(*options, root=place / "root", wrap=limited) as server:
        with Client(server) as client:  # a helper is there: to start one takes descriptors as well
            assert client.get("/1").body == files["/1"]
        for _ in range(3):
            # Each one that is being served holds two descriptors: there are none left for all.
            asking = [(Client(server, receive_buffer=16 * KIB), path) for path in [*files] * 10]
            for client, path in asking:
                client.ask(path)
            for number, (client, path) in enumerate(asking):
                if number % 3:
                    reply = client.answer()
                    assert reply.status in (200, 500, 503)
                    assert reply.status != 200 or files[path].startswith(reply.body)
                client.reset()
        assert server.process.poll() is None
        for path, data in files.items():
            eventually(lambda path=path: answers(server, path))  # type: ignore[misc]
            with Client(server) as client:
                assert client.get(path).body == data
        assert server.stop() == 0


def answers(server: ServerProcess, path: str) -> bool:
    """Whether there are descriptors again."""
    with Client(server) as client:
        reply = client.get(path)
    assert reply.status in (200, 503)
    return reply.status == 200


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
