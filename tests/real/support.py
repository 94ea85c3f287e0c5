"""Clients for a running server, and a look at its process from outside. Blocks."""

from __future__ import annotations

import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests import rig
from tests.rig import GUARD, ServerProcess

KIB = 1 << 10
MIB = 1 << 20
WINDOW = 512 * KIB
SMALL = 64 * KIB
LONG_AGO = 1_000_000_000  # 2001: an ETag made of it is strong, and does not depend on now

# Around each size at which something else happens: the copied body, the window, several windows.
SIZES = (0, 1, SMALL - 1, SMALL, SMALL + 1, WINDOW - 1, WINDOW, WINDOW + 1, 5 * MIB)


def content(size: int) -> bytes:
    """Bytes that are the same every time, and in which no part looks like another."""
    return random.Random(size).randbytes(size)


def put(path: Path, data: bytes, mtime: float = LONG_AGO) -> Path:
    """A file with a known modification time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time(), mtime))
    return path


def fill(root: Path) -> dict[str, bytes]:
    """One file of each size below `root`, open to everybody: what must come for each path."""
    files = {f"/{size}.bin": content(size) for size in SIZES}
    for path, data in files.items():
        put(root / path[1:], data)
    return files


class Reply(NamedTuple):
    """A response; the names of `fields` are lower-case."""

    status: int
    fields: dict[str, str]
    body: bytes

    @classmethod
    def parse(cls, head: bytes, body: bytes) -> Self:
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        return cls(int(first.split()[1]), {k.lower(): v for k, v in fields.items()}, body)


def evict(path: Path) -> None:
    """Drop a file's pages from memory, also those that were in a socket lately.

    What a socket is done with is freed later, by the next network interrupt of its processor.
    """
    for _ in range(20):
        with suppress(AssertionError):
            rig.evict(path)
            return
        _interrupt_processors()
    rig.evict(path)


def _interrupt_processors() -> None:
    """Send something over the loopback interface on each processor."""
    before = os.sched_getaffinity(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(GUARD)
        receiver.bind(("127.0.0.1", 0))
        try:
            for processor in before:
                os.sched_setaffinity(0, {processor})
                receiver.sendto(b"!", receiver.getsockname())
                receiver.recv(1)
        finally:
            os.sched_setaffinity(0, before)


# ---------------------------------------------------------------- a client that we hold in hand


class Client:
    """One connection, which reads only what it is told to read.

    With a small `receive_buffer` the server is in the middle of a body of a few MiB from its
    first byte until we have read on: it has at most two windows in the kernel.
    """

    def __init__(
        self, server: ServerProcess | int, *, receive_buffer: int = 0, host: str = "127.0.0.1"
    ) -> None:
        """`host`: where it comes from."""
        port = server if isinstance(server, int) else server.port
        self.socket = socket.socket()
        self.socket.bind((host, 0))
        self.socket.settimeout(GUARD)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._buffer = b""
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def ask(self, path: str, *fields: str, method: str = "GET") -> None:
        """Send a request; `fields` are field lines."""
        lines = (f"{method} {path} HTTP/1.1", "Host: test", *fields, "", "")
        self.socket.sendall("\r\n".join(lines).encode())

    def head(self) -> Reply:
        """Read a head and no further."""
        while b"\r\n\r\n" not in self._buffer:
            assert self._more(), f"the connection ended within a head: {self._buffer!r}"
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        return Reply.parse(head, b"")

    def take(self, count: int) -> bytes:
        """Read so many bytes of a body; fewer if the connection ends."""
        while len(self._buffer) < count and self._more():
            pass
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def answer(self, method: str = "GET") -> Reply:
        """Read a head and the body that it announces; less if the connection ends."""
        reply = self.head()
        length = 0 if method == "HEAD" or reply.status == 304 else reply.fields["content-length"]
        return reply._replace(body=self.take(int(length)))

    def get(self, path: str, *fields: str, method: str = "GET") -> Reply:
        self.ask(path, *fields, method=method)
        return self.answer(method)

    def has_ended(self) -> bool:
        """Wait for the end of the connection; no if something comes instead."""
        return not self._buffer and not self._more()

    def has_answer(self) -> bool:
        """Whether bytes (or the end) are here already."""
        return bool(self._buffer or select.select([self.socket], [], [], 0)[0])

    def reset(self) -> None:
        """End the connection rudely."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def _more(self) -> bool:
        with suppress(ConnectionResetError):
            data = self.socket.recv(64 * KIB)
            self._buffer += data
            return bool(data)
        return False


def first_with_answer(clients: list[Client]) -> Client:
    """Wait until one of the clients has an answer: which one."""
    sockets = {client.socket: client for client in clients}
    ready = select.select(list(sockets), [], [], GUARD)[0]
    assert ready, "no client has an answer"
    return sockets[ready[0]]


# ---------------------------------------------------------------- curl


def curl(*options: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run curl, quietly and without any proxy."""
    argv = ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", f"{GUARD:g}", *options]
    done = subprocess.run(argv, capture_output=True)
    assert done.returncode == 0 or not check, (options, done.returncode, done.stderr.decode())
    return done


def fetch(server: ServerProcess, path: str, *options: str) -> Reply:
    """Get one path by curl, as it is written here."""
    with tempfile.TemporaryDirectory() as scratch:
        head, body = Path(scratch, "head"), Path(scratch, "body")
        body.touch()
        files = ["-D", str(head), "-o", str(body)]
        curl("--path-as-is", "--globoff", *files, *options, server.url + path)
        # -I gives the head as the body, too
        return Reply.parse(head.read_bytes(), b"" if "-I" in options else body.read_bytes())


# ---------------------------------------------------------------- a process from outside


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process are."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return found


def connections(pid: int) -> int:
    """How many TCP connections a process has open, in whatever state; listeners do not count."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] != "0A":  # LISTEN
                    inodes.add(f"socket:[{fields[9]}]")
    return sum(descriptor in inodes for descriptor in descriptors(pid))


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            found += map(int, (task / "children").read_text().split())
    return found


def ignores(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores this signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^SigIgn:\s*(\w+)$", status, re.MULTILINE)
    assert found
    return bool(int(found[1], 16) >> (number - 1) & 1)


def helper_processes(server: ServerProcess) -> list[int]:
    """The helper processes, once they have all come so far that they are deaf to ^C."""
    eventually(lambda: all(ignores(pid, signal.SIGINT) for pid in children(server.pid)))
    helpers = children(server.pid)
    assert helpers
    return helpers


def stop_process(pid: int) -> None:
    """Let it do nothing more, not even accept, and wait until it does nothing."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    eventually(
        lambda: all(
            (task / "stat").read_text().rpartition(") ")[2].startswith("T")
            for task in tasks.iterdir()
        )
    )


@contextmanager
def watched(pids: list[int]) -> Iterator[Callable[[], bool]]:
    """A question about processes, which need not be our children: wait until all have ended."""
    handles = [os.pidfd_open(pid) for pid in pids]

    def have_ended() -> bool:
        return all(select.select([handle], [], [], GUARD)[0] for handle in handles)

    try:
        yield have_ended
    finally:
        for handle in handles:
            os.close(handle)


def eventually(check: Callable[[], object]) -> None:
    """Wait until `check` holds, for what nobody announces."""
    deadline = time.monotonic() + GUARD
    while not check():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.005)


# ---------------------------------------------------------------- its system calls


class Trace:
    """The system calls of a process, one a line; known once `traced` is left.

    The last ones may be cut off: a client can have its answer before the call has returned.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []

    def of(self, *names: str) -> list[str]:
        """The calls with one of these names."""
        return [call for call in self.calls if call.split("(", 1)[0] in names]


@contextmanager
def traced(server: ServerProcess, *names: str) -> Iterator[Trace]:
    """strace a running server, all threads; descriptors are shown with what they are."""
    trace = Trace()
    with tempfile.NamedTemporaryFile("r", encoding="latin-1") as output:
        argv = ["strace", "-f", "-yy", "-s", "64", "-e", f"trace={','.join(names)}"]
        argv += ["-o", output.name, "-p", str(server.pid)]
        strace = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        assert strace.stderr is not None
        try:
            assert "attached" in strace.stderr.readline()
            yield trace
        finally:
            strace.send_signal(signal.SIGINT)  # it detaches
            strace.communicate(timeout=GUARD)
        trace.calls = list(_whole_calls(output.read()))


def _whole_calls(output: str) -> Iterator[str]:
    """Put together again what strace cut in two because another thread came between."""
    begun: dict[str, str] = {}
    for line in output.splitlines():
        thread, call = line.split(maxsplit=1)
        if call.endswith(" <unfinished ...>"):
            begun[thread] = call.removesuffix(" <unfinished ...>")
        elif resumed := re.match(r"<\.\.\. \w+ resumed>", call):
            rest = call[resumed.end() :]
            yield begun.pop(thread) + re.sub(r"\) += ", ") = ", rest, count=1)
        else:
            yield call
