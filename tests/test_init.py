"""The server as process 1 of a PID namespace, as in a container: real processes."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.real.support import MIB, Client, children, content, eventually, put
from tests.rig import GUARD, REPOSITORY, ServerProcess, needs, running_server
from tests.test_binds_served import passing
from trio_amped import init

pytestmark = needs("root", "unshare", "landlock")

WAYS: Final = {
    "lane": (),
    "tasks": ("--no-fast-lane",),
    "supervisor": ("--confine", "--helpers", "process", "--max-helpers", "2"),
}
EVERY_WAY: Final = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
BODY: Final = content(8 * MIB)
NAMESPACE: Final = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def as_process_1(argv: list[str]) -> list[str]:
    """`argv` in a PID namespace of its own; the process that is started is its parent."""
    return [*NAMESPACE, *argv]


def process_1(process: "subprocess.Popen[bytes]") -> int:
    """The number of process 1, as we see it."""
    (first,) = children(process.pid)
    return first


def the_server(process: "subprocess.Popen[bytes]") -> int:
    """The number of the only child that process 1 has started."""
    (server,) = children(process_1(process))
    return server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "root/large", BODY)
    put(tmp_path / "root/small", b"small")
    return tmp_path / "root"


@contextmanager
def serving(root: Path, *options: str) -> Iterator[ServerProcess]:
    with running_server(*options, root=root, wrap=as_process_1) as server:
        if "--confine" in options:
            server.wait_for_log("1 workers serve")
        yield server
        if server.process.poll() is None:  # the parent of process 1 is deaf to signals
            os.kill(process_1(server.process), signal.SIGTERM)
            assert server.process.wait(GUARD) == 0


@EVERY_WAY
def test_it_drains(root: Path, way: tuple[str, ...]) -> None:
    """The kernel does not give process 1 the usual effect of SIGTERM."""
    with serving(root, *way) as server, Client(server, receive_buffer=4096) as client:
        client.ask("/large")
        length = int(client.head().fields["content-length"])
        os.kill(process_1(server.process), signal.SIGTERM)
        server.wait_for_log("SIGTERM: finishing what is being sent")
        assert client.take(length) == BODY
        assert server.process.wait(GUARD) == 0


def test_a_second_signal_ends_it_at_once(root: Path) -> None:
    with serving(root) as server, Client(server, receive_buffer=4096) as client:
        client.ask("/large")
        length = int(client.head().fields["content-length"])
        os.kill(process_1(server.process), signal.SIGTERM)
        server.wait_for_log("SIGTERM: finishing what is being sent")
        os.kill(process_1(server.process), signal.SIGTERM)
        assert server.process.wait(GUARD) == 0
        assert len(client.take(length)) < length


def test_orphans_are_reaped(root: Path) -> None:
    """Helpers whose worker is killed become children of process 1."""
    with serving(root, *WAYS["supervisor"]) as server:
        (worker,) = children(the_server(server.process))
        helpers = children(worker)
        assert helpers
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers))
        with Client(server) as client:
            assert client.get("/small").body == b"small"


def test_reload_and_access_log(root: Path, tmp_path: Path) -> None:
    """The other signals that the server understands are passed on."""
    log = tmp_path / "access.log"
    with serving(root, *WAYS["supervisor"], "--access-log", str(log)) as server:
        log.rename(tmp_path / "old")
        os.kill(process_1(server.process), signal.SIGUSR1)
        eventually(log.exists)
        os.kill(process_1(server.process), signal.SIGHUP)
        server.wait_for_log("all workers are new")


def test_a_socket_that_is_passed_is_closed_when_the_server_closes_it(root: Path) -> None:
    """Podman passes sockets to process 1; a drain refuses those who come."""
    program = passing("web")
    options = ("--bind", "systemd")
    with (
        running_server(*options, root=root, wrap=as_process_1, program=program) as server,
        Client(server, receive_buffer=4096) as client,
    ):
        client.ask("/large")
        length = int(client.head().fields["content-length"])
        os.kill(process_1(server.process), signal.SIGTERM)

        def is_refused() -> bool:
            try:
                Client(server).socket.close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(is_refused)
        assert client.take(length) == BODY
        assert server.process.wait(GUARD) == 0


def test_the_exit_status_is_that_of_the_server(root: Path) -> None:
    argv = as_process_1([sys.executable, "-m", "trio_amped", "--root", str(root / "none")])
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 2
    assert done.stderr.startswith("trio-amped: error: cannot serve ")
    with serving(root) as server:
        os.kill(the_server(server.process), signal.SIGKILL)
        assert server.process.wait(GUARD) == 128 + signal.SIGKILL


# It counts what it is sent, and says so when it is told to end.
COUNTS: Final = """if True:
    import os, signal
    from trio_amped.init import leave_process_1
    leave_process_1()
    heard = []
    signal.signal(signal.SIGINT, lambda number, _: (heard.append(number), print("one", flush=True)))
    signal.signal(signal.SIGTERM, lambda number, _: (print(len(heard)), os._exit(0)))
    print("ready", flush=True)
    while True:
        signal.pause()
"""


@needs("setsid")
def test_a_terminal_interrupts_it_once() -> None:
    """^C is for all processes of a terminal: forwarded, it would be the second signal."""
    ours, theirs = pty.openpty()
    # setsid makes it the terminal of a session, of which those that follow are in the foreground.
    argv = ["setsid", "--ctty", "--wait", *as_process_1([sys.executable, "-c", COUNTS])]
    with (
        os.fdopen(ours, "rb", 0) as terminal,
        os.fdopen(theirs) as other,
        subprocess.Popen(
            argv, stdin=other, stdout=subprocess.PIPE, cwd=REPOSITORY, process_group=0
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.write(terminal.fileno(), b"\x03")
        assert process.stdout.readline() == b"one\n"
        (unshare,) = children(process.pid)
        (first,) = children(unshare)
        os.kill(first, signal.SIGTERM)
        assert process.stdout.readline() == b"1\n"
        assert process.wait(GUARD) == 0


def test_a_server_that_is_not_ready_can_be_ended() -> None:
    """Before it has handlers signals have their usual effect, which they have not on process 1."""
    program = "from trio_amped import init; init.leave_process_1(); print('ready', flush=True)"
    argv = as_process_1([sys.executable, "-c", f"{program}; import signal; signal.pause()"])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.kill(process_1(process), signal.SIGTERM)
        assert process.wait(GUARD) == 128 + signal.SIGTERM


def test_what_names_process_1_names_the_server() -> None:
    environment = {"LISTEN_PID": "1", "WATCHDOG_PID": "7", "LISTEN_FDS": "1"}
    init.take_over(environment, 2)
    assert environment == {"LISTEN_PID": "2", "WATCHDOG_PID": "7", "LISTEN_FDS": "1"}


def test_any_other_process_is_left_alone() -> None:
    before = os.getpid()
    init.leave_process_1()
    assert os.getpid() == before
