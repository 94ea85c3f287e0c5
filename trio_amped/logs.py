"""Writes the log of the command line to stderr, from a thread: a terminal or a disk may be slow."""

import contextlib
import errno
import logging
import logging.handlers
import queue
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

    Yields a function: what it is given stands before each message from then on. Raises OSError
    (EAGAIN) where no thread can be started.
    """
    lines: queue.Queue[logging.LogRecord | None] = queue.Queue(_WAITING)
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    handler = _Lines(lines)

    def write() -> None:
        while (record := lines.get()) is not None:
            stream.handle(record)
            if handler.dropped and lines.empty():
                count, handler.dropped = handler.dropped, 0
                text = f"{count} lines of this log were lost: nobody read them"
                stream.handle(
                    handler.prepare(
                        logging.LogRecord("trio_amped", logging.WARNING, "", 0, text, (), None)
                    )
                )

    def begin_with(name: str) -> None:
        handler.setFormatter(logging.Formatter(f"{name}%(message)s"))

    writer = threading.Thread(target=write, name="trio_amped log", daemon=True)
    try:
        writer.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from None
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
