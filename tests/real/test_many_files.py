"""A server over more files than it can keep open: what it holds on to stays bounded."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import ServerProcess, public_directory, running_server

from .support import KIB, LONG_AGO, MIB, Client, descriptors

KEPT = 500  # files at most
SMALL, LARGE = 5 * KEPT, 250  # files
FEWER = 1_000  # of the small ones, where each costs a task: the lane is what this is about
PIPELINED = 50  # requests that are sent before their answers are read
CONNECTIONS = 4
LOOKS = 5  # at the process while it serves


def body(number: int) -> bytes:
    return b"%d " % number * 20


def size_of_large(number: int) -> int:
    return 64 * KIB + 1 + number


@pytest.fixture(scope="module")
def many() -> Iterator[Path]:
    """Small files with contents of their own, and large ones that have no blocks."""
    with public_directory() as root:
        for number in range(SMALL):
            write(root / str(number), body(number))
        for number in range(LARGE):
            write(root / f"large-{number}", b"", size_of_large(number))
        yield root


def write(path: Path, data: bytes, size: int | None = None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, data)
    if size is not None:
        os.truncate(fd, size)
    os.utime(fd, (LONG_AGO, LONG_AGO))
    os.close(fd)


class Held:
    """What a process holds on to."""

    def __init__(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        self.memory = KIB * int(status.partition("VmRSS:")[2].split()[0])
        self.descriptors = len(descriptors(pid))
        self.mappings = len(Path(f"/proc/{pid}/maps").read_text().splitlines())


@pytest.mark.parametrize("options", [[], ["--no-fast-lane"]], ids=["lane", "tasks"])
def test_many_files_that_are_kept(many: Path, options: list[str]) -> None:
    """Without sidecars, whose names a helper would have to look for: then the loop opens all."""
    bound = ("--max-open-files", str(KEPT), "--precompressed", "none")
    with running_server(*bound, *options, root=many) as server:
        check(server, SMALL, memory=5 * MIB, files=KEPT)  # 2 to 3.2 MiB measured


@pytest.mark.parametrize("options", [[], ["--no-fast-lane"]], ids=["lane", "tasks"])
def test_more_files_than_may_be_kept(many: Path, options: list[str]) -> None:
    with running_server("--max-open-files", "10", *options, root=many) as server:
        check(server, FEWER, memory=5 * MIB // 2, files=26)  # 1.4 MiB measured


def check(server: ServerProcess, small: int, *, memory: int, files: int) -> None:
    """Every body is right, and no more is held than `memory` bytes and `files` files."""
    before = Held(server.pid)
    clients = [Client(server) for _ in range(CONNECTIONS)]
    grown = []
    try:
        for part in range(LOOKS):
            expect(clients, {f"/{n}": body(n) for n in range(part, small, LOOKS)})
            large = {f"/large-{n}": bytes(size_of_large(n)) for n in range(part, LARGE, LOOKS)}
            for _ in range(2):  # at first they are not in memory
                expect(clients, large)
            held = Held(server.pid)
            grown.append(held.memory - before.memory)
            assert held.descriptors <= before.descriptors + CONNECTIONS + 32 + files
            assert held.mappings <= before.mappings + 64 + files
            assert grown[-1] <= memory, grown
    finally:
        for client in clients:
            client.socket.close()


def expect(clients: list[Client], files: dict[str, bytes]) -> None:
    """Ask for all of these, some on each connection at a time."""
    paths = list(files)
    for start in range(0, len(paths), PIPELINED * CONNECTIONS):
        asked = paths[start : start + PIPELINED * CONNECTIONS]
        for number, client in enumerate(clients):
            lines = [
                f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n" for path in asked[number::CONNECTIONS]
            ]
            client.socket.sendall("".join(lines).encode())
        for number, client in enumerate(clients):
            for path in asked[number::CONNECTIONS]:
                reply = client.answer()
                assert (reply.status, reply.body) == (200, files[path])
