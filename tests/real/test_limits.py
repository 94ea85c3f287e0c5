"""A server that runs out of something answers what it can, and goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.rig import ServerProcess, needs, running_server
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
@pytest.mark.parametrize(("tasks", "options"), [(1, []), (2, []), (3, ["--workers", "2"])])
def test_a_server_that_may_start_no_thread(tasks: int, options: list[str], root: Path) -> None:
    """The second one writes the log, also that of the first worker, which is the third task."""
    with cgroup("pids") as group:
        allow(group, tasks)
        argv = [sys.executable, "-m", "trio_amped", "--root", str(root), "--port", "0", *options]
        done = subprocess.run(inside(group, argv), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"trio-amped: error: cannot serve {root}: can't start new thread; "
        "allow more processes, see ulimit -u"
    ]


def allow(group: Path, tasks: int) -> None:
    """Let a cgroup have so many tasks, threads included."""
    (group / "pids.max").write_text(str(tasks))


WAYS = pytest.mark.parametrize("options", [(), ("--no-fast-lane",)], ids=["lane", "tasks"])


@WAYS
@pytest.mark.parametrize("kind", ["silent", "idle", "half a head"])
def test_nobody_is_locked_out_by_those_who_ask_for_nothing(
    kind: str, options: tuple[str, ...], root: Path
) -> None:
    """Their deadlines are far off here."""
    with (
        running_server("--max-connections", "64", *options, root=root) as server,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(64):
            client = stack.enter_context(Client(server))
            if kind == "idle":
                assert client.get("/hot").body == b"hot"
            elif kind == "half a head":
                client.socket.sendall(b"GET /hot HTTP/1.1\r\nHost")
        for _ in range(3):
            honest = stack.enter_context(Client(server))
            for _ in range(3):
                assert honest.get("/hot").body == b"hot"


@WAYS
def test_who_asked_while_the_process_was_stopped_is_answered(
    options: tuple[str, ...], root: Path
) -> None:
    """For longer than idle connections are kept: SIGSTOP, or a machine that was suspended."""
    with (
        running_server(*options, "--keep-alive-timeout", "0.5", root=root) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(server)) for _ in range(100)]
        for client in clients:
            assert client.get("/hot").body == b"hot"
        stop_process(server.pid)
        begun = time.monotonic()
        for client in clients:
            client.ask("/hot")
        eventually(lambda: time.monotonic() > begun + 2)
        os.kill(server.pid, signal.SIGCONT)
        for client in clients:
            assert client.answer().body == b"hot"


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
