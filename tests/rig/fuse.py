"""A FUSE file system that waits, fails and hangs as it is told, from outside. Blocks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

from tests.rig.mount_points import mount_point, unmount
from tests.rig.tools import GUARD

Operation = Literal[
    "getattr",
    "readdir",
    "readlink",
    "statfs",
    "open",
    "create",
    "read",
    "write",
    "truncate",
    "fsync",
    "flush",
    "release",
    "unlink",
    "rename",
    "mkdir",
    "rmdir",
]


class FuseDisk:
    """A FUSE file system and what can be done to it. See `fuse_disk`.

    Calls are the kernel's, not a program's: a lookup of a name and an fstat are both "getattr",
    one read of a program may be several "read" calls (read-ahead), and close waits for "flush"
    ("release" comes later, and nobody waits for it).
    """

    def __init__(self, path: Path, backing: Path, line: socket.socket) -> None:
        self.path = path
        self.backing = backing
        self._line = line

    def hang(self, *operations: Operation) -> None:
        """From now on calls of these operations do not return, until `release`."""
        self._ask("hang", operations)

    def release(self, *operations: Operation) -> None:
        """Let hung calls go, and hang no more of them. Without arguments: all operations."""
        self._ask("release", operations)

    def let_go(self) -> None:
        """Let the calls go that hang now; those that come later hang again."""
        self._ask("let_go")

    def delay(self, operation: Operation, seconds: float) -> None:
        """Each call of this operation takes so much longer from now on (0: no longer)."""
        self._ask("delay", operation, seconds)

    def fail(self, operation: Operation, errno: int) -> None:
        """Calls fail with this error from now on (0: no longer); hung ones after their release."""
        self._ask("fail", operation, errno)

    def reset(self) -> None:
        """No hangs, delays or errors, also for calls that are in the middle of one."""
        self._ask("reset")

    def counts(self) -> dict[str, int]:
        """How many calls of each operation have arrived."""
        answer = self._ask("counts")
        assert isinstance(answer, dict)
        return {str(operation): int(calls) for operation, calls in answer.items()}

    def hanging(self) -> int:
        """How many calls are hung at the moment."""
        answer = self._ask("hanging")
        assert isinstance(answer, int)
        return answer

    def wait_hanging(self, calls: int = 1, timeout: float = GUARD) -> None:
        """Wait until at least so many calls are hung."""
        if not self._ask("wait_hanging", calls, timeout):
            raise TimeoutError(f"{self.hanging()} calls hang after {timeout} s, not {calls}")

    def wait_counted(self, operation: Operation, calls: int, timeout: float = GUARD) -> None:
        """Wait until so many calls of this operation have arrived since the mount."""
        if not self._ask("wait_counted", operation, calls, timeout):
            raise TimeoutError(f"{self.counts()} after {timeout} s, not {calls} {operation}")

    def _ask(self, *question: object) -> object:
        """One question on a connection of its own, so that any threads may ask at any time."""
        ours, theirs = socket.socketpair()
        with ours, ours.makefile("rwb") as stream:
            with theirs:
                socket.send_fds(self._line, [b"?"], [theirs.fileno()])
            stream.write(json.dumps(question).encode() + b"\n")
            stream.flush()
            answer: object = json.loads(stream.read() or b'"gone"')
            if answer == "gone":
                raise RuntimeError("the FUSE process did not answer")
            return answer


_disks: list[FuseDisk] = []  # those that are mounted


def calm_disks(path: Path | None = None) -> None:
    """Reset the FUSE disks (that hold `path`): what waits for them cannot be ended before."""
    for disk in _disks:
        if path is None or path.is_relative_to(disk.path):
            with suppress(RuntimeError, OSError):
                disk.reset()


@contextmanager
def fuse_disk(
    directory: Path,
    backing: Path,
    *,
    attr_timeout: float = 0,
    entry_timeout: float = 0,
    options: Sequence[str] = (),
) -> Iterator[FuseDisk]:
    """The files of `backing` on a FUSE file system that waits, fails and hangs as it is told.

    It is a process of its own with a thread for each call, so that the hung ones do not stop
    the others (up to 100). With timeouts of 0 each lookup and each fstat asks it. As root, other
    users may use it, within the files' permissions. `options`: more mount options, for example
    "kernel_cache" (pages survive a new open) or "direct_io" (no page cache).
    """
    chosen = [f"attr_timeout={attr_timeout}", f"entry_timeout={entry_timeout}"]
    chosen += ["negative_timeout=0", "default_permissions", *options]
    chosen += ["allow_other"] if os.geteuid() == 0 else []
    with ExitStack() as cleanup:
        path = cleanup.enter_context(mount_point(directory, "fuse"))
        line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        cleanup.enter_context(line)
        errors = cleanup.enter_context(tempfile.TemporaryFile())
        with theirs:
            argv = [sys.executable, str(Path(__file__).with_name("fuse_disk.py"))]
            argv += ["--line", str(theirs.fileno())]
            argv += [f"-o{option}" for option in chosen]
            argv += [str(backing.resolve()), str(path)]
            process = subprocess.Popen(
                argv,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,  # control-C is for us; we end it
                env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")},
            )
        cleanup.callback(_end_disk, process, line, path)
        line.settimeout(GUARD)
        if not line.recv(1):
            errors.seek(0)
            raise RuntimeError(f"FUSE did not start: {errors.read().decode().strip()}")
        disk = FuseDisk(path, backing, line)
        _disks.append(disk)
        cleanup.callback(_disks.remove, disk)
        yield disk


def _end_disk(process: subprocess.Popen[bytes], line: socket.socket, path: Path) -> None:
    """Let every call go, unmount, and see the process off."""
    with suppress(RuntimeError, OSError):
        FuseDisk(path, path, line).reset()
    unmount(path)
    line.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()  # this ends the connection as well: calls fail with ENOTCONN
        process.wait()
