"""Writes the log of the command line to stderr, from a thread: a terminal or a disk may be slow.

The thread writes to the descriptor, and holds no lock meanwhile: neither a logging.StreamHandler's
nor that of the buffer of sys.stderr. At its end the interpreter takes both, and would wait for ever
where nobody reads (a pipe that is full, a terminal that was stopped by ^S).
"""

import contextlib
import logging
import logging.handlers
import os
import queue
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

_WAITING: Final = 10_000  # lines that may wait to be written; more are dropped
_PATIENCE: Final = 1.0  # seconds for the last lines


class _Lines(logging.handlers.QueueHandler):
    """Puts lines into a bounded queue, and counts those that it has no room for."""

    def __init__(self, lines: "queue.Queue[logging.LogRecord | None]") -> None:
        super().__init__(lines)
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


@contextlib.contextmanager
def to_stderr(level: str) -> Iterator[Callable[[str], None]]:
    """Inside, the log goes to stderr; whoever logs never waits for it.

    Yields a function: what it is given stands before each message from then on. On leaving, the
    last lines have a second or two; what nobody reads by then is lost.
    """
    lines: queue.Queue[logging.LogRecord | None] = queue.Queue(_WAITING)
    shape = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler = _Lines(lines)

    def write() -> None:
        while (record := lines.get()) is not None:
            _write(f"{shape.format(record)}\n")
            if handler.dropped and lines.empty():
                count, handler.dropped = handler.dropped, 0
                text = f"{count} lines of this log were lost: nobody read them"
                lost = logging.LogRecord("trio_amped", logging.WARNING, "", 0, text, (), None)
                _write(f"{shape.format(handler.prepare(lost))}\n")

    def begin_with(name: str) -> None:
        handler.setFormatter(logging.Formatter(f"{name}%(message)s"))

    writer = threading.Thread(target=write, name="trio_amped log", daemon=True)
    writer.start()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield begin_with
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(queue.Full):
            lines.put(None, timeout=_PATIENCE)
            writer.join(_PATIENCE)


def _write(text: str) -> None:
    """Write to the descriptor of stderr, in as many steps as it takes; or not at all, if nobody can
    read any more. Waits for the reader."""
    if sys.__stderr__ is None:  # it was closed when we started: the descriptor is another file's
        return
    fd, rest = sys.__stderr__.fileno(), text.encode(sys.__stderr__.encoding, "backslashreplace")
    with contextlib.suppress(OSError):  # EPIPE, EIO: a reader that has ended; ENOSPC
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:  # who shares the descriptor with us has made it so
                select.select([], [fd], [])
