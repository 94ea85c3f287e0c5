"""Servers that listen at several binds, and by sockets of others: real processes."""

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.real.support import eventually, put
from tests.rig import (
    GUARD,
    NOBODY,
    REPOSITORY,
    ServerProcess,
    for_strangers,
    needs,
    public_directory,
    running_server,
)

ALONE: Final[list[str]] = []
WORKERS: Final = ["--workers", "2"]
WAYS: Final = [ALONE, ["--no-fast-lane"], WORKERS]
IDS: Final = ["lane", "tasks", "workers"]
EVERY_WAY: Final = pytest.mark.parametrize("way", WAYS, ids=IDS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "root/small", b"small")
    return tmp_path / "root"


def ask(address: tuple[str, int] | str, header: bytes = b"") -> bytes:
    """What a new client is told, by TCP or at the path of a UNIX socket; the body alone."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    if isinstance(address, tuple) and ":" in address[0]:
        family = socket.AF_INET6
    with socket.socket(family) as sock:
        sock.settimeout(GUARD)
        sock.connect(address)
        sock.sendall(header + b"GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        with sock.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body


def wait_until_all_serve(server: ServerProcess, way: list[str]) -> None:
    if way == WORKERS:
        server.wait_for_log("2 workers serve")


@EVERY_WAY
def test_several_binds(root: Path, tmp_path: Path, way: list[str]) -> None:
    """Two ports and a UNIX socket, whose file goes when the server does."""
    path = str(tmp_path / "socket")
    binds = ["--bind", "127.0.0.1:0", "--bind", "localhost:0", "--bind", f"unix:{path},mode=600"]
    with running_server(*binds, *way, root=root) as server:
        wait_until_all_serve(server, way)
        port = int(server.wait_for_log(r"at http://127\.0\.0\.1:(\d+)/")[1])
        server.wait_for_log(rf"serving {root} at unix:{path}$")
        for _ in range(8):  # the workers share both
            assert ask(("127.0.0.1", port)) == b"small"
            assert ask(path) == b"small"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert server.stop() == 0
        assert not os.path.exists(path)
        ports = {url[1] for line in server.log if (url := re.search(r"http://.*:(\d+)/", line))}
        assert len(ports) >= 2, "of the second bind as well"


@EVERY_WAY
def test_a_server_that_was_killed_leaves_a_file_that_the_next_replaces(
    root: Path, tmp_path: Path, way: list[str]
) -> None:
    path = str(tmp_path / "socket")
    for is_last in (False, True):
        options = ("--bind", f"unix:{path}", "--bind", "127.0.0.1:0", *way)
        with running_server(*options, root=root) as server:
            wait_until_all_serve(server, way)
            assert ask(path) == b"small"
            if not is_last:
                server.process.kill()
                server.process.wait(GUARD)
    assert not os.path.exists(path)


@pytest.mark.parametrize("way", [ALONE, WORKERS], ids=["alone", "workers"])
def test_a_second_server_at_the_same_path_is_refused(
    root: Path, tmp_path: Path, way: list[str]
) -> None:
    """And the first one goes on."""
    path = str(tmp_path / "socket")
    options = ["--bind", f"unix:{path}", "--bind", "127.0.0.1:0", *way]
    with running_server(*options, root=root) as server:
        argv = [sys.executable, "-m", "trio_amped", "--root", str(root), *options]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=GUARD, cwd=REPOSITORY)
        assert done.returncode == 2
        assert done.stderr == (
            f"trio-amped: error: cannot listen on unix:{path}: a server listens there; "
            "stop who has it, or choose another with --bind or --port\n"
        )
        wait_until_all_serve(server, way)
        assert ask(path) == b"small"


def test_a_restart_of_workers_keeps_the_unix_socket(root: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    options = ["--bind", f"unix:{path}", "--bind", "127.0.0.1:0", *WORKERS]
    with running_server(*options, root=root) as server:
        wait_until_all_serve(server, WORKERS)
        os.kill(server.pid, 1)
        server.wait_for_log("all workers are new")
        assert ask(path) == b"small"


@needs("root", "nobody")
def test_other_users_have_the_sockets_of_root() -> None:
    """The supervisor makes them and removes them, in a folder that is root's."""
    with public_directory() as place:
        put(place / "root/small", b"small")
        path = str(place / "socket")
        binds = ["--bind", f"unix:{path},owner=0:{NOBODY},mode=660", "--bind", "127.0.0.1:0"]
        way = ["--user", f"{NOBODY}:{NOBODY}", "--confine"]
        with running_server(*binds, *way, root=place / "root", wrap=for_strangers) as server:
            server.wait_for_log(f"serving as {NOBODY}")
            assert ask(path) == b"small"
            server.stop()
        assert not os.path.exists(path)


def test_ipv4_clients_of_a_dual_socket_are_ipv4_clients(root: Path) -> None:
    with running_server("--bind", "[::]:0", "--max-connections-per-address", "1", root=root) as one:
        url = one.wait_for_log(r"serving .* at (http://localhost:\d+/)")[1]
        assert url == f"{one.url}/"
        with socket.create_connection(("127.0.0.1", one.port)) as first:
            first.sendall(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
            assert first.recv(100).startswith(b"HTTP/1.1 200 ")
            with socket.create_connection(("127.0.0.1", one.port)):
                one.wait_for_log(r"WARNING 127\.0\.0\.1 has 1 connections: 1 refused so far")
            assert ask(("::1", one.port)) == b"small"


@EVERY_WAY
def test_behind_proxies_at_one_bind_of_two(root: Path, tmp_path: Path, way: list[str]) -> None:
    """Also in workers, which have to know which of the listeners it is."""
    path = str(tmp_path / "socket")
    binds = ["--bind", "127.0.0.1:0", "--bind", f"unix:{path},proxy"]
    with running_server(*binds, *way, root=root) as server:
        wait_until_all_serve(server, way)
        assert ask(("127.0.0.1", server.port)) == b"small"
        assert ask(path, b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n") == b"small"
        server.wait_for_log(rf"serving {root} at unix:{path} \(by PROXY protocol\)$")


# ---------------------------------------------------------------- sockets of others

# It passes what it has as systemd does: from descriptor 3 on, and with its own process number.
PASS = """if True:
    import os, socket, sys
    names, *argv = sys.argv[1:]
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in names.split(":")]
    high = [os.dup(sock.fileno()) for sock in socks for _ in range(9)][-len(socks):]
    for number, sock in enumerate(socks):
        print("passed", sock.getsockname()[1], flush=True)
        high[number] = os.dup(sock.fileno())
        while high[number] < 20:
            high[number] = os.dup(high[number])
    for number, fd in enumerate(high, 3):
        os.dup2(fd, number)
    os.environ |= {
        "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": names
    }
    os.execv(argv[0], argv)
"""


def passing(*names: str) -> list[str]:
    return [sys.executable, "-c", PASS, ":".join(names), sys.executable, "-m", "trio_amped"]


def passed_ports(server: ServerProcess) -> list[int]:
    return [int(line.split()[1]) for line in server.log if line.startswith("passed ")]


@EVERY_WAY
def test_sockets_that_are_passed_by_name(root: Path, way: list[str]) -> None:
    """What is not named by a bind is not served."""
    options = ["--bind", "systemd:a", "--bind", "127.0.0.1:0", *way]
    with running_server(*options, root=root, program=passing("a", "b", "a")) as server:
        wait_until_all_serve(server, way)
        first, other, second = passed_ports(server)
        assert ask(("127.0.0.1", first)) == ask(("127.0.0.1", second)) == b"small"
        assert not any(f":{other}/" in line for line in server.log)
        assert server.stop() == 0


def test_a_descriptor_by_its_number(root: Path) -> None:
    with running_server("--bind", "fd:4", root=root, program=passing("a", "b")) as server:
        assert server.port == passed_ports(server)[1]
        assert ask(("127.0.0.1", server.port)) == b"small"


def test_what_is_passed_and_not_wanted_is_said(root: Path) -> None:
    with running_server(root=root, program=passing("web")) as server:
        server.wait_for_log(r"WARNING systemd has passed sockets \(web\).*: --bind systemd")


@contextmanager
def activated(root: Path, *options: str) -> Iterator[int]:
    """A program of systemd that listens, and starts a server for the first client."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = int(sock.getsockname()[1])
    argv = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", f"-EPYTHONPATH={REPOSITORY}"]
    argv += [sys.executable, "-m", "trio_amped", "--root", str(root), "--bind", "systemd", *options]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline().startswith(b"Listening on ")
            yield port
        finally:
            process.terminate()
            process.stderr.read()
            assert process.wait(GUARD) == 0


@needs("systemd-socket-activate")
@EVERY_WAY
def test_the_first_client_starts_the_server(root: Path, way: list[str]) -> None:
    with activated(root, *way) as port:
        eventually(lambda: ask(("127.0.0.1", port)) == b"small")
