"""Servers whose stderr nobody reads, from its first line on: they serve, and they end."""

import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.real.support import KIB, MIB, Client, children, content, descriptors, eventually, put
from tests.rig import GUARD, NOBODY, REPOSITORY, for_strangers, needs, public_directory

Unread: TypeAlias = Callable[[], AbstractContextManager[int]]
Process: TypeAlias = "subprocess.Popen[bytes]"

WAYS = (
    pytest.param((), id="alone"),
    pytest.param(("--workers", "2"), id="workers"),
    pytest.param(("--user", f"{NOBODY}:{NOBODY}"), marks=needs("nobody"), id="user"),
)


@pytest.fixture
def root() -> Iterator[Path]:
    with public_directory() as place:
        put(place / "root/small", b"small")
        put(place / "root/big", content(8 * MIB))
        yield place / "root"


def fill(write: Callable[[bytes], int]) -> None:
    """Write until not a byte more is taken; `write` does not wait."""
    for piece in (b"x" * 4 * KIB, b"x"):
        with suppress(BlockingIOError):
            while True:
                write(piece)


@contextmanager
def full_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    # Opened once more for us, or the server would not wait either.
    ours = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
    fill(lambda piece: os.write(ours, piece))
    yield writer
    for fd in (reader, writer, ours):
        os.close(fd)


@contextmanager
def full_socket() -> Iterator[int]:
    theirs, ours = socket.socketpair()
    with theirs, ours:
        fill(lambda piece: theirs.send(piece, socket.MSG_DONTWAIT))
        yield theirs.fileno()


@contextmanager
def stopped_terminal() -> Iterator[int]:
    """Somebody has pressed ^S."""
    ours, theirs = pty.openpty()
    os.write(ours, b"\x13")
    yield theirs
    for fd in (theirs, ours):
        os.close(fd)


@contextmanager
def running(
    unread: Unread, *options: str, root: Path, start: Callable[[], object] | None = None
) -> Iterator[Process]:
    """A server that has this stderr, in a session of its own; `start` is called in its process."""
    argv = [sys.executable, "-m", "trio_amped", "--host", "127.0.0.1", "--port", "0"]
    with unread() as stderr:
        process = subprocess.Popen(
            for_strangers([*argv, "--root", str(root), *options]),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            start_new_session=True,
            preexec_fn=start,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(GUARD)


def port_of(process: Process) -> int:
    """Where a server listens, which it cannot say."""
    found: list[int] = []

    def listens() -> bool:
        with suppress(PermissionError):  # it does not run yet
            sockets = {each for each in descriptors(process.pid) if each.startswith("socket:")}
            for line in Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]:
                _, address, _, state, *fields = line.split()
                if state == "0A" and f"socket:[{fields[5]}]" in sockets:
                    found.append(int(address.partition(":")[2], 16))
        return bool(found)

    eventually(listens)
    return found[0]


def refuses(port: int) -> bool:
    """Whether nobody listens there any more."""
    try:
        socket.create_connection(("127.0.0.1", port), GUARD).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # closed at this very moment
        return False
    return False


@pytest.mark.parametrize("unread", [full_pipe, full_socket, stopped_terminal])
@pytest.mark.parametrize("options", WAYS)
def test_it_serves_and_ends(unread: Unread, options: Sequence[str], root: Path) -> None:
    with running(unread, *options, root=root) as process:
        with Client(port_of(process)) as client:
            assert client.get("/small").body == b"small"
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD) == 0


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_so_it_does_at_the_second_signal(options: Sequence[str], root: Path) -> None:
    """At the first one it finishes what it sends."""
    with running(full_pipe, *options, "--drain-timeout", "1000", root=root) as process:
        port = port_of(process)
        with Client(port, receive_buffer=64 * KIB) as client:
            client.ask("/big")
            assert client.head().status == 200
            process.send_signal(signal.SIGINT)
            eventually(lambda: refuses(port))
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(GUARD) == 0
            assert len(client.take(8 * MIB)) < 8 * MIB


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_so_it_does_when_its_terminal_goes_away(options: Sequence[str], root: Path) -> None:
    """By the same signal that asks for new settings where there is a terminal, or never was."""
    ours, theirs = pty.openpty()
    os.write(ours, b"\x13")
    with running(
        lambda: nullcontext(theirs),
        *options,
        root=root,
        start=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),
    ) as process:
        port = port_of(process)
        for _ in range(2):
            with Client(port) as client:
                assert client.get("/small").body == b"small"
            process.send_signal(signal.SIGHUP)
        os.close(theirs)
        os.close(ours)
        assert process.wait(GUARD) == 0


def test_workers_are_new_all_the_same(root: Path) -> None:
    with running(full_pipe, "--workers", "2", root=root) as process:
        port = port_of(process)
        eventually(lambda: len(children(process.pid)) == 2)
        before = set(children(process.pid))
        with Client(port) as client:  # one of them serves, so that it obeys
            assert client.get("/small").body == b"small"
        process.send_signal(signal.SIGHUP)
        eventually(lambda: len(after := children(process.pid)) == 2 and not before & set(after))
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD) == 0


def test_one_that_cannot_say_why_it_does_not_serve_can_be_ended(tmp_path: Path) -> None:
    """It waits for a reader of its last line, out of the event loop."""

    def writes_to_stderr() -> bool:
        call = Path(f"/proc/{process.pid}/task/{process.pid}/syscall").read_text().split()
        return call[1:2] == ["0x2"]

    with running(full_pipe, root=tmp_path / "missing") as process:
        eventually(writes_to_stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD) == -signal.SIGTERM
