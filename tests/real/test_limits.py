"""A server that runs out of something answers what it can, and goes on."""

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import REPOSITORY, ServerProcess, needs, running_server
from tests.rig.cgroups import cgroup, inside

from .support import (
    KIB,
    MIB,
    SMALL,
    WINDOW,
    Client,
    children,
    content,
    eventually,
    put,
    stop_process,
)

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


@needs("pids")
@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_no_descriptor_makes_the_table_of_descriptors_grow(
    root: Path, options: tuple[str, ...]
) -> None:
    """It is as large as it may have to be before anybody is served."""

    def limited(argv: list[str]) -> list[str]:
        return ["prlimit", "--nofile=6000:6000", *argv]

    with running_server(*options, root=root, wrap=limited) as server:
        pid = server.process.pid
        eventually(lambda: all(has_room(each) for each in (children(pid) if options else [pid])))


def has_room(pid: int) -> bool:
    """Whether the table of a process is as large as its limit."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("FDSize:")[2].split()[0]) >= 6000


@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_no_process_and_no_thread_can_start(helpers: str, root: Path) -> None:
    """For a while: what needs one waits, or is refused, and all others go on."""
    new = [f"/new{number}" for number in range(5)]
    options = ("--gate", "always", "--helpers", helpers, "--disk-timeout", "0.5")
    with (
        cgroup("pids") as group,
        running_server(*options, root=root, wrap=lambda argv: inside(group, argv)) as server,
        Client(server) as client,
    ):
        assert client.get("/hot").body == b"hot"
        allow(group, 1)  # fewer than there are
        for child in children(server.pid):
            os.kill(child, signal.SIGKILL)
        for name in new:
            put(root / name[1:], b"new")
            assert client.get(name).status in (200, 503)
        assert server.process.poll() is None
        allow(group, 10_000)
        for name in new:
            eventually(lambda name=name: client.get(name).body == b"new")  # type: ignore[misc]
        assert server.stop() == 0


@needs("pids")
@pytest.mark.parametrize("tasks", [1, 2])  # the second one writes the log
@pytest.mark.parametrize(
    ("host", "what"), [("127.0.0.1", "serve {root}"), ("localhost", "listen on localhost:0")]
)
def test_a_server_that_may_start_no_thread(tasks: int, host: str, what: str, root: Path) -> None:
    done = with_so_few(tasks, root, "--host", host)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"trio-amped: error: cannot {what.format(root=root)}: can't start new thread; "
        "allow more processes, see ulimit -u"
    ]


@needs("pids")
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_supervisor_that_may_start_nothing(tasks: int, root: Path) -> None:
    done = with_so_few(tasks, root, "--workers", "2")
    assert done.returncode == 1
    assert "ERROR   5 workers in a row ended at once: given up" in done.stderr
    assert "Traceback" not in done.stderr


def with_so_few(tasks: int, root: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """What becomes of a server that may be no more than so many threads and processes."""
    argv = [sys.executable, "-m", "trio_amped", "--root", str(root), "--port", "0", *options]
    with cgroup("pids") as group:
        allow(group, tasks)
        return subprocess.run(inside(group, argv), capture_output=True, text=True)


def allow(group: Path, tasks: int) -> None:
    """Let a cgroup have so many tasks, threads included."""
    (group / "pids.max").write_text(str(tasks))


WAYS = pytest.mark.parametrize("way", ["lane", "tasks", "tls"])


class Program:
    """A server in a program (tests/real/program.py), and clients of its kind."""

    def __init__(self, way: str, pid: int, port: int) -> None:
        self.pid = pid
        self._port = port
        self._context = ssl.create_default_context() if way == "tls" else None
        if self._context:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE

    def client(self, receive_buffer: int = 0) -> Client:
        """Return a new client, whose connection is there."""
        client = Client(self._port, receive_buffer=receive_buffer)
        if self._context:
            client.socket = self._context.wrap_socket(client.socket)
        return client


@contextlib.contextmanager
def running_program(way: str, root: Path, timeout: float) -> Iterator[Program]:
    argv = [sys.executable, "-m", "tests.real.program", way, str(root), str(timeout)]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Program(way, process.pid, int(process.stdout.readline()))
        finally:
            process.kill()


@WAYS
@pytest.mark.parametrize("kind", ["silent", "idle", "half a head"])
def test_nobody_is_locked_out_by_those_who_ask_for_nothing(kind: str, way: str, root: Path) -> None:
    """Their deadlines are far off here. The program has room for 64."""
    with running_program(way, root, 3600) as server, contextlib.ExitStack() as stack:
        for _ in range(64):
            client = stack.enter_context(server.client())
            if kind == "idle":
                assert client.get("/hot").body == b"hot"
            elif kind == "half a head":
                client.socket.sendall(b"GET /hot HTTP/1.1\r\nHost")
        for _ in range(3):
            honest = stack.enter_context(server.client())
            for _ in range(3):
                assert honest.get("/hot").body == b"hot"


@WAYS
def test_who_asked_while_the_process_was_stopped_is_answered(way: str, root: Path) -> None:
    """For longer than all its deadlines: SIGSTOP, or a container that was paused.

    Idle clients ask, and uploads to an application go on; downloads are taken afterwards.
    """
    body = content(64 * KIB)
    with running_program(way, root, 2) as server, contextlib.ExitStack() as stack:
        downloads = [stack.enter_context(server.client(receive_buffer=16 * KIB)) for _ in range(10)]
        uploads = [stack.enter_context(server.client()) for _ in range(20)]
        idle = [stack.enter_context(server.client()) for _ in range(30)]
        for client in uploads:
            client.ask("/count", f"Content-Length: {len(body)}", method="POST")
            client.socket.sendall(body[:KIB])
        for client in downloads:
            client.ask("/big")
            assert client.head().status == 200
        for client in idle:
            assert client.get("/hot").body == b"hot"
        eventually(lambda: sleeps(server.pid))  # then it has read all that was sent
        stop_process(server.pid)
        begun = time.monotonic()
        for client in idle:
            client.ask("/hot")
        for client in uploads:
            client.socket.sendall(body[KIB:])
        eventually(lambda: time.monotonic() > begun + 4)
        os.kill(server.pid, signal.SIGCONT)
        for client in downloads:
            assert client.take(len(BIG)) == BIG
        for client in uploads:
            assert client.answer().body == b"%d" % len(body)
        for client in idle:
            assert client.answer().body == b"hot"


def sleeps(pid: int) -> bool:
    """Whether the main thread of a process waits for something."""
    stat = Path(f"/proc/{pid}/task/{pid}/stat").read_text()
    return stat.rpartition(") ")[2].startswith("S")


def test_connections_leave_descriptors_for_files(root: Path) -> None:
    names = [f"/{number}" for number in range(300)]
    for name in names:
        put(root / name[1:], name.encode())

    def limited(argv: list[str]) -> list[str]:
        return ["prlimit", "--nofile=256:256", *argv]

    with running_server(root=root, wrap=limited) as server, contextlib.ExitStack() as stack:
        server.wait_for_log("64 connections at most: no more descriptors are allowed")
        for number in range(100):
            client = stack.enter_context(Client(server))
            for name in names[number::100]:
                reply = client.get(name)
                assert (reply.status, reply.body) == (200, name.encode())
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
