"""Writes the lines of the access log, from a thread. The event loop never waits.

A log is a file, standard output ("-"), or a descriptor that somebody else has opened. Processes
that share one write whole lines: to a file all that waits by one write(2) (O_APPEND), to a pipe or
a terminal in pieces of PIPE_BUF, which never mix (pipe(7)).
"""

import contextlib
import errno
import logging
import os
import queue
import select
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeAlias

import trio

log = logging.getLogger("trio_amped")

Place: TypeAlias = "str | os.PathLike[str] | int"
STDOUT: Final = "-"
_WAITING: Final = 4 * 2**20  # bytes that may wait to be written; lines beyond are lost
_LOOK: Final = 1.0  # seconds between looks whether the file was renamed
_PATIENCE: Final = 1.0  # seconds for the last lines
_MODE: Final = 0o644


def open_file(path: str | os.PathLike[str], *, follow: bool = True) -> int:
    """Open a log to append to it; waits for the disk. Raises OSError.

    A FIFO without a reader is ENXIO, instead of a wait for one; a link that is not to be followed
    is ELOOP.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK
    if not follow:
        flags |= os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, _MODE)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    os.set_blocking(fd, True)
    return fd


def has_moved(path: str | os.PathLike[str], fd: int) -> bool:
    """Return whether the path leads to another file than the one that is open, or to none."""
    ours = os.fstat(fd)
    if not stat.S_ISREG(ours.st_mode):
        return False
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return True
    except OSError:  # nobody knows
        return False
    return (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino)


class _LogFile:
    """The descriptor of a log, in the thread that waits for its disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.fd = -1
        self._is_link = False
        self._looked_at = 0.0
        self._has_failed = False

    def open(self) -> None:
        """Raises OSError."""
        self.fd = open_file(self.path)
        self._is_link = os.path.islink(self.path)

    def look(self) -> int | None:
        """Open the file anew if it was renamed, at most once a second; return the old one."""
        now = time.monotonic()
        if now < self._looked_at + _LOOK:
            return None
        self._looked_at = now
        return self.reopen() if has_moved(self.path, self.fd) else None

    def reopen(self) -> int | None:
        """Return the old descriptor; None: it is still the one, as the file cannot be opened.

        A link that was none at the start is not followed: root may open for who cannot.
        """
        try:
            new = open_file(self.path, follow=self._is_link)
        except OSError as error:
            if not self._has_failed:
                why = error.strerror
                log.error("the access log cannot be opened anew: %s; the old file is written", why)
            self._has_failed = True
            return None
        old, self.fd = self.fd, new
        self._has_failed = False
        return old


class Writer:
    """Writes batches of lines from a thread. Used by the event loop alone; see `writing`."""

    def __init__(self, place: Place) -> None:
        is_path = not isinstance(place, int) and place != STDOUT
        self._file = _LogFile(place) if is_path else None  # type: ignore[arg-type]
        self._fd = -1 if is_path else place if isinstance(place, int) else 1
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._given = 0  # bytes, by the loop
        self._taken = 0  # bytes, by the thread
        self._unwanted = 0  # lines that the loop had no room for
        self._unwritten = 0  # lines that the thread could not write
        self._is_full = False
        self._has_failed = False
        self._is_torn = False  # the last byte that was written is not the end of a line

    # ---------------------------------------------------------------- the event loop

    def put(self, batch: bytes, lines: int) -> None:
        """Have whole lines written; where too many wait already these are lost, and counted."""
        if self._given - self._taken + len(batch) > _WAITING:
            self._unwanted += lines
            if not self._is_full:
                log.error("the access log is not written fast enough: lines are lost")
            self._is_full = True
            return
        self._is_full = False
        self._given += len(batch)
        self._orders.put(lambda: self._take(batch))

    def reopen(self) -> None:
        """Have the file opened anew; where there is none, do nothing."""
        if self._file is not None:
            self._orders.put(self._reopen)

    def replace(self, fd: int) -> None:
        """Have another descriptor written to from now on, which is taken over."""
        self._orders.put(lambda: self._go_on_with(fd))

    def end(self) -> None:
        """Have the thread end when all is written."""
        self._orders.put(None)

    def tell_of_rest(self) -> None:
        """Say how many lines were lost since that was last said, and that the thread hangs."""
        if self._given != self._taken:
            log.error("the access log does not take its last %d bytes", self._given - self._taken)
        self._tell_losses()

    # ---------------------------------------------------------------- the thread

    def begin(self) -> None:
        """Open the log. Raises OSError."""
        if self._file is not None:
            self._file.open()
            self._fd = self._file.fd
        elif self._fd == 1 and sys.__stdout__ is None:  # its number may be another file's
            raise OSError(errno.EBADF, "standard output is closed", STDOUT)
        os.fstat(self._fd)

    def run(self) -> None:
        """Obey until the end; what is left open is the file, if it is ours."""
        while (order := self._orders.get()) is not None:
            order()
        if self._fd != 1:
            os.close(self._fd)

    def _reopen(self) -> None:
        assert self._file is not None
        self._let_go(self._file.reopen())

    def _go_on_with(self, fd: int) -> None:
        old, self._fd = self._fd, fd
        self._close(old)

    def _let_go(self, old: int | None) -> None:
        """Close the descriptor that another one has taken the place of, if there is one."""
        if old is not None:
            assert self._file is not None
            self._fd = self._file.fd
            self._close(old)

    @staticmethod
    def _close(fd: int) -> None:
        with contextlib.suppress(OSError):  # of earlier writes; close(2)
            os.close(fd)

    def _take(self, batch: bytes) -> None:
        try:
            if self._file is not None:
                self._let_go(self._file.look())
            self._write(batch)
        finally:
            self._taken += len(batch)

    def _write(self, batch: bytes) -> None:
        """Write whole lines; what cannot be written is lost, which is said once."""
        rest = b"\n" + batch if self._is_torn else batch
        try:
            is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
            while rest:
                written = self._write_some(rest if is_file else rest[: _whole(rest)])
                self._is_torn = rest[written - 1 : written] != b"\n"
                rest = rest[written:]
        except OSError as error:
            self._unwritten += rest.count(b"\n")
            if not self._has_failed:
                log.error("the access log cannot be written: %s; lines are lost", error.strerror)
            self._has_failed = True
        else:
            self._has_failed = False
            self._tell_losses()

    def _write_some(self, data: bytes) -> int:
        """Write what is taken, at least a byte. Raises OSError."""
        while True:
            try:
                if written := os.write(self._fd, data):
                    return written
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except BlockingIOError:  # somebody else has made our terminal, or pipe, so
                select.select([], [self._fd], [])

    def _tell_losses(self) -> None:
        unwanted, unwritten = self._unwanted, self._unwritten
        if unwanted or unwritten:
            log.error("%d lines of the access log were lost", unwanted + unwritten)
            self._unwanted -= unwanted
            self._unwritten -= unwritten


def _whole(lines: bytes) -> int:
    """Return how many bytes of whole lines go into a pipe in one piece."""
    end = lines.rfind(b"\n", 0, select.PIPE_BUF) + 1
    return end or lines.find(b"\n") + 1


@contextlib.asynccontextmanager
async def writing(place: Place) -> AsyncIterator[Writer]:
    """Open a log, and have a thread write to it; at the end the last lines have a second.

    Entering and leaving are checkpoints. Raises OSError, also (EAGAIN) where no thread can start.
    """
    writer, has_ended = Writer(place), trio.Event()
    try:
        await _begun(writer.begin, lambda soon: writer.run(), has_ended.set)
        try:
            yield writer
        finally:
            writer.end()
            with trio.move_on_after(_PATIENCE, shield=True):
                await has_ended.wait()
            writer.tell_of_rest()
    finally:
        writer.end()  # also of one that has not begun: its disk hangs


class Keeper:
    """Keeps a log open for processes that may not open it themselves; see `keep`."""

    def __init__(self, path: str | os.PathLike[str], on_new: Callable[[], object]) -> None:
        self.fd = -1
        """The descriptor to write to, until `on_new` is called."""
        self._file = _LogFile(path)
        self._on_new = on_new
        self._has_ended = False
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def reopen(self) -> None:
        """Open the file anew."""
        self._orders.put(self._reopen)

    def end(self) -> None:
        """Have the thread close the file, and end: nobody uses the descriptor any more."""
        self._has_ended = True
        self._orders.put(None)

    def _adopt(self, new: int) -> None:
        """On the event loop: nobody there uses the old descriptor from now on."""
        if self._has_ended:
            return
        old, self.fd = self.fd, new
        self._on_new()
        self._orders.put(lambda: os.close(old))

    # ---------------------------------------------------------------- the thread

    def begin(self) -> None:
        """Open the log. Raises OSError."""
        self._file.open()
        self.fd = self._file.fd

    def run(self, soon: Callable[..., object]) -> None:
        """Obey until the end, and look each second whether the file was renamed."""
        self._soon = soon
        while True:
            try:
                order = self._orders.get(timeout=_LOOK)
            except queue.Empty:
                self._hand_over(self._file.look())
            else:
                if order is None:
                    for fd in {self.fd, self._file.fd}:  # the loop may not have the new one yet
                        os.close(fd)
                    return
                order()

    def _reopen(self) -> None:
        self._hand_over(self._file.reopen())

    def _hand_over(self, old: int | None) -> None:
        if old is not None:
            self._soon(self._adopt, self._file.fd)


async def keep(path: str | os.PathLike[str], on_new: Callable[[], object]) -> Keeper:
    """Open a log, and anew when it is renamed: then `on_new` is called, on the event loop.

    `end` is to be called on what is returned. A checkpoint. Raises OSError, also (EAGAIN) where no
    thread can start.
    """
    keeper = Keeper(path, on_new)
    try:
        await _begun(keeper.begin, keeper.run)
    except BaseException:
        keeper.end()
        raise
    return keeper


async def _begun(
    begin: Callable[[], None],
    run: Callable[[Callable[..., object]], None],
    at_end: Callable[[], None] = lambda: None,
) -> None:
    """Run both in a thread; wait until the first has ended. Raises OSError.

    `run` is given a function that has another one called on the event loop, while there is one.
    """
    token, has_begun = trio.lowlevel.current_trio_token(), trio.Event()
    failures: list[OSError] = []

    def soon(call: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(call, *arguments)

    def work() -> None:
        try:
            begin()
        except OSError as error:
            failures.append(error)
        soon(has_begun.set)
        if not failures:
            run(soon)
            soon(at_end)

    _start(work)
    await has_begun.wait()
    if failures:
        raise failures[0]


def _start(run: Callable[[], None]) -> None:
    try:
        threading.Thread(target=run, name="trio_amped access log", daemon=True).start()
    except RuntimeError as error:  # a limit of processes; pthread_create(3)
        raise OSError(errno.EAGAIN, str(error)) from None
