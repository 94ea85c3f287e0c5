"""Owns descriptors: how they are shared out, who uses one, where it is closed. Never blocks."""

import contextlib
import fcntl
import functools
import logging
import os
import resource
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Self

import trio

log = logging.getLogger("trio_amped.disk")

_PATIENCE: Final = 1.0  # seconds
_PAUSE: Final = 0.1  # seconds before a thread is asked for again
_MORE: Final = 0.01  # seconds in which the thread waits for more to close
_MANY: Final = 16  # descriptors that wait no longer for more
_WRITTEN_OUT: Final = 60.0  # seconds; the kernel writes dirty pages out after 30 by default
_OTHERS: Final = 64  # descriptors: of listeners, logs, roots, jobs under way


def of_files() -> int:
    """How many of the descriptors that the process may have are for files that are kept open."""
    return _allowed() // 2


def of_folders() -> int:
    """How many are for folders whose names are known."""
    return _allowed() // 16


def of_connections(files: int, helpers: int) -> int:
    """How many are left for connections beside so many files and helpers; at least a quarter."""
    return max(_allowed() // 4, _allowed() - _beside_connections(files, helpers))


def have_room(connections: int, files: int, helpers: int) -> None:
    """Have the kernel's table of descriptors hold as many as may be needed, from now on.

    The kernel makes the table twice as large when it is full. Where threads share it, whoever asks
    for the next descriptor waits until no CPU looks at the old table any more (fs/file.c,
    expand_fdtable: synchronize_rcu; 5 to 17 ms were measured), and that would be the event loop.
    """
    most = min(_allowed(), connections + _beside_connections(files, helpers))
    with contextlib.suppress(OSError), socket.socket() as any_one:  # else it grows when it must
        os.close(fcntl.fcntl(any_one, fcntl.F_DUPFD_CLOEXEC, most - 1))


def _beside_connections(files: int, helpers: int) -> int:
    return min(files, of_files()) + of_folders() + 2 * helpers + _OTHERS


def _allowed() -> int:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return allowed


def close(fd: int) -> None:
    """Close a descriptor, which is gone afterwards, whatever error close(2) tells: into the log."""
    try:
        os.close(fd)
    except OSError as error:
        log.warning("closing a descriptor failed: %s", error)


class Descriptor:
    """An open descriptor with a count of its users; the last one to release it closes it."""

    __slots__ = ("_close", "_users", "fd")

    def __init__(self, fd: int, close: Callable[[int], None] = close) -> None:
        self.fd = fd
        self._close = close
        self._users = 1

    def close_by(self, close: Callable[[int], None]) -> None:
        """Close it in another way than was said at first, once more is known of it."""
        self._close = close

    def hold(self) -> Self:
        self._users += 1
        return self

    @property
    def is_released(self) -> bool:
        """Whether nobody uses it any more."""
        return self._users == 0

    def release(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._close(self.fd)


class Closer:
    """Closes descriptors where closing can wait: one after the other, in a thread.

    close(2) waits for the daemon of a FUSE file system (flush), for the server of a network one,
    for the journal when it is the last use of a deleted file, and for the disk when somebody
    truncated the file and wrote it anew: ext4 (auto_da_alloc) then writes it out at a close, also
    at ours (2 s measured for 400 MiB).
    """

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self._is_running = False
        self._has_many = threading.Event()
        self._idle = trio.Event()
        self._idle.set()

    def close(self, fd: int) -> None:
        """Close a descriptor on a local file system: here, if that cannot wait."""
        try:
            found = os.fstat(fd)
        except OSError:  # of the file system; it is to be closed all the same
            self.close_in_thread(fd)
            return
        is_folder = stat.S_ISDIR(found.st_mode)
        # Whoever sets an older mtime (cp -p), or a newer one, moves the ctime to now.
        written = max(found.st_mtime, found.st_ctime)
        is_old = stat.S_ISREG(found.st_mode) and time.time() - written > _WRITTEN_OUT
        if found.st_nlink > 0 and (is_folder or is_old):
            close(fd)
        else:
            self.close_in_thread(fd)

    def close_in_thread(self, fd: int) -> None:
        self._waiting.append(fd)
        if not self._is_running:
            self._is_running = True
            if self._idle.is_set():
                self._idle = trio.Event()
            self._start()
        elif len(self._waiting) == _MANY:
            self._has_many.set()

    def _start(self) -> None:
        finished = functools.partial(self._finished, trio.lowlevel.current_trio_token())
        try:
            trio.lowlevel.start_thread_soon(self._close_all, finished, "trio_amped closer")
        except RuntimeError as error:  # a limit of processes; pthread_create(3)
            log.error("files are closed later: %s", error)
            with contextlib.suppress(RuntimeError):  # all is at an end
                trio.lowlevel.spawn_system_task(self._start_later)

    async def _start_later(self) -> None:
        await trio.sleep(_PAUSE)
        self._start()

    def _close_all(self) -> None:
        """Close what has come, and what comes soon: to start a thread, and to hear of its end, are
        turns of the event loop, and of the interpreter's lock."""
        while self._waiting:
            while self._waiting:
                close(self._waiting.popleft())
            self._has_many.wait(_MORE)
            self._has_many.clear()

    def _finished(self, token: trio.lowlevel.TrioToken, _result: object) -> None:
        try:
            token.run_sync_soon(self._rest)
        except trio.RunFinishedError:  # what came meanwhile has nobody else to close it
            with contextlib.suppress(RuntimeError):  # no thread: the end of the process closes it
                trio.lowlevel.start_thread_soon(self._close_all, lambda _: None)

    def _rest(self) -> None:
        self._is_running = False
        if self._waiting:
            self.close_in_thread(self._waiting.popleft())
        else:
            self._idle.set()

    async def finish(self) -> None:
        """Wait until all is closed, for at most a second, cancelled or not."""
        with trio.move_on_after(_PATIENCE, shield=True):
            while not self._idle.is_set():
                await self._idle.wait()
