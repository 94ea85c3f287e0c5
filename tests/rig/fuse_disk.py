"""A disk that can be told to wait, to fail and to hang: a passthrough FUSE file system (blocks).

Run as a process of its own by `tests.rig.fuse_disk`, which holds the other end of `--line`:

    python tests/rig/fuse_disk.py --line FD [-o name=value ...] BACKING MOUNTPOINT

The line is a SOCK_SEQPACKET socket. We send one byte when the file system is ready. Each message
that we receive carries the descriptor of a stream socket, on which one question is asked and
answered in JSON; each has a thread of its own, so that one that waits does not stop the others.
When the line ends, the tests are gone: every call is let go, and we unmount and exit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

# What the kernel asks of us at most at the same time (calls that hang are calls, too). The
# defaults are 10 threads in libfuse and 12 background requests (read-ahead, direct I/O).
MAX_CALLS = 100

ATTRIBUTES = ["st_mode", "st_ino", "st_nlink", "st_uid", "st_gid"]
ATTRIBUTES += ["st_size", "st_blocks", "st_blksize"]
TIMES = ["st_atime", "st_mtime", "st_ctime"]


class Faults:
    """What happens to a call before it is carried out: it is counted, waits, hangs, fails."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter()
        self._delays: dict[str, float] = {}
        self._errors: dict[str, int] = {}
        self._held: set[str] = set()
        self._hanging = 0
        self._resets = self._rounds = 0

    def meet(self, operation: str) -> None:
        """Called at the start of each operation."""
        with self._changed:
            self._counts[operation] += 1
            self._changed.notify_all()
            if delay := self._delays.get(operation):
                resets = self._resets
                self._changed.wait_for(lambda: self._resets != resets, delay)
            if operation in self._held:
                self._hanging += 1
                self._changed.notify_all()
                rounds = self._rounds
                self._changed.wait_for(
                    lambda: operation not in self._held or self._rounds != rounds
                )
                self._hanging -= 1
                self._changed.notify_all()
            if error := self._errors.get(operation):
                raise OSError(error, os.strerror(error))

    def hang(self, operations: list[str]) -> None:
        with self._changed:
            self._held.update(operations)

    def release(self, operations: list[str]) -> None:
        """Let calls of these operations go (no operations: all of them)."""
        with self._changed:
            self._held.difference_update(operations or list(self._held))
            self._changed.notify_all()

    def let_go(self) -> None:
        """Let the calls go that hang now, and none that come later."""
        with self._changed:
            self._rounds += 1
            self._changed.notify_all()

    def delay(self, operation: str, seconds: float) -> None:
        with self._changed:
            self._delays[operation] = seconds

    def fail(self, operation: str, error: int) -> None:
        with self._changed:
            self._errors[operation] = error

    def reset(self) -> None:
        """Release everything, also calls in the middle of a delay, and be a good disk again."""
        with self._changed:
            self._delays.clear()
            self._errors.clear()
            self._held.clear()
            self._resets += 1
            self._changed.notify_all()

    def counts(self) -> dict[str, int]:
        with self._changed:
            return dict(self._counts)

    def hanging(self) -> int:
        with self._changed:
            return self._hanging

    def wait_hanging(self, calls: int, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._hanging >= calls, timeout)

    def wait_counted(self, operation: str, calls: int, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._counts[operation] >= calls, timeout)


class Passthrough:
    """The file system: every operation meets its faults, then does the same in `backing`."""

    use_ns = True  # for mfusepy: times are integers

    def __init__(self, backing: str, faults: Faults, line: socket.socket) -> None:
        self._backing = backing
        self._meet = faults.meet
        self._line = line

    def _real(self, path: str) -> str:
        return self._backing + path

    def init_with_config(self, connection: Any, config: Any) -> None:
        connection.max_background = connection.congestion_threshold = MAX_CALLS
        self._line.send(b"!")

    # A lookup of a name arrives here as well: libfuse's path interface has no other operation.
    def getattr(self, path: str, handle: int | None = None) -> dict[str, int]:
        self._meet("getattr")
        st = os.lstat(self._real(path)) if handle is None else os.fstat(handle)
        times = {name: getattr(st, f"{name}_ns") for name in TIMES}
        return {name: getattr(st, name) for name in ATTRIBUTES} | times

    def readdir(self, path: str, handle: int) -> Iterator[tuple[str, dict[str, int], int]]:
        self._meet("readdir")
        for name in [".", "..", *os.listdir(self._real(path))]:
            st = os.lstat(os.path.join(self._real(path), name))
            # Without an inode number the C library takes the entry for a deleted one
            yield name, {"st_ino": st.st_ino, "st_mode": st.st_mode}, 0

    def readlink(self, path: str) -> str:
        self._meet("readlink")
        return os.readlink(self._real(path))

    def statfs(self, path: str) -> dict[str, int]:
        self._meet("statfs")
        st = os.statvfs(self._real(path))
        return {name: getattr(st, name) for name in dir(st) if name.startswith("f_")}

    def open(self, path: str, flags: int) -> int:
        self._meet("open")
        # O_DIRECT is between the program and our cache, O_APPEND is the kernel's work (offsets)
        return os.open(self._real(path), flags & ~(os.O_DIRECT | os.O_APPEND | os.O_NOATIME))

    def create(self, path: str, mode: int, flags: int) -> int:
        self._meet("create")
        flags &= ~(os.O_DIRECT | os.O_APPEND | os.O_NOATIME)
        return os.open(self._real(path), flags | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        self._meet("read")
        return os.pread(handle, size, offset)

    def write(self, path: str, data: bytes, offset: int, handle: int) -> int:
        self._meet("write")
        return os.pwrite(handle, data, offset)

    def truncate(self, path: str, length: int, handle: int | None = None) -> None:
        self._meet("truncate")
        os.truncate(self._real(path), length)

    def fsync(self, path: str, datasync: int, handle: int) -> None:
        self._meet("fsync")
        os.fsync(handle)

    def flush(self, path: str, handle: int) -> None:
        self._meet("flush")

    def release(self, path: str, handle: int) -> None:
        self._meet("release")
        os.close(handle)

    def unlink(self, path: str) -> None:
        self._meet("unlink")
        os.unlink(self._real(path))

    def rename(self, old: str, new: str) -> None:
        self._meet("rename")
        os.rename(self._real(old), self._real(new))

    def mkdir(self, path: str, mode: int) -> None:
        self._meet("mkdir")
        os.mkdir(self._real(path), mode)

    def rmdir(self, path: str) -> None:
        self._meet("rmdir")
        os.rmdir(self._real(path))


def answer(question: socket.socket, faults: Faults) -> None:
    with question, question.makefile("rwb") as stream:
        method, *arguments = json.loads(stream.readline())
        stream.write(json.dumps(getattr(faults, method)(*arguments)).encode())


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    return False


def obey(line: socket.socket, faults: Faults) -> None:
    """Take questions until the line ends, then end the program.

    If the tests were killed while a thread of theirs hangs in a call to us, that thread keeps
    the line open: then it is we who see that there is only a zombie left.
    """
    parent = os.getppid()
    line.settimeout(0.5)
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(line, 1, 1)
        except TimeoutError:
            if alive(parent):
                continue
            break
        if not message:
            break
        question = socket.socket(fileno=descriptors[0])
        threading.Thread(target=answer, args=(question, faults), daemon=True).start()
    faults.reset()
    # libfuse leaves its loop and unmounts; the main thread is the one that waits in it
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def main() -> None:
    import mfusepy

    parser = argparse.ArgumentParser()
    parser.add_argument("--line", type=int, required=True)
    parser.add_argument("-o", dest="options", action="append", default=[])
    parser.add_argument("backing")
    parser.add_argument("mountpoint")
    arguments = parser.parse_args()

    options: dict[str, str | bool] = {}
    for option in arguments.options:
        name, _, value = option.partition("=")
        options[name] = value or True
    if (mfusepy.fuse_version_major, mfusepy.fuse_version_minor) >= (3, 12):
        options["max_threads"] = options["max_idle_threads"] = str(MAX_CALLS)

    line = socket.socket(fileno=arguments.line)
    faults = Faults()
    threading.Thread(target=obey, args=(line, faults), daemon=True).start()
    file_system = Passthrough(arguments.backing, faults, line)
    mfusepy.FUSE(file_system, arguments.mountpoint, foreground=True, use_ino=True, **options)


if __name__ == "__main__":
    main()
