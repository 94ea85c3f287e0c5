"""Writes the log of the command line to stderr, from a thread: a terminal or a disk may be slow."""

import contextlib
import logging
import logging.handlers
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final, TextIO

_WAITING: Final = 10_000  # lines that may wait to be written; more are dropped
_PATIENCE: Final = 1.0  # seconds for the last lines


class _Stream(logging.StreamHandler[TextIO]):
    """Writes lines; nothing is said of one that cannot be written, and there is nowhere to say it.

    The default is to write a traceback to stderr, which is where the line could not be written.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on with the next line."""


class _Lines(logging.handlers.QueueHandler):
    """Puts lines into a bounded queue, counts those that it has no room for, and has them written.

    Where the thread that writes cannot start at first, a later line starts it.
    """

    def __init__(self, stream: logging.Handler) -> None:
        self._lines: queue.Queue[logging.LogRecord | None] = queue.Queue(_WAITING)
        super().__init__(self._lines)
        self._stream = stream
        self._writer: threading.Thread | None = None
        self._dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1
        self.start()

    def start(self) -> None:
        """Start the thread that writes, if there is none; where none can start, do nothing."""
        if self._writer is None:
            writer = threading.Thread(target=self._write, name="trio_amped log", daemon=True)
            with contextlib.suppress(RuntimeError):  # a limit of processes; pthread_create(3)
                writer.start()
                self._writer = writer

    def _write(self, waits: bool = True) -> None:
        """Write lines until there comes None or, if it does not wait, no more."""
        with contextlib.suppress(queue.Empty):
            while (record := self._lines.get(waits)) is not None:
                self._stream.handle(record)
                if self._dropped and self._lines.empty():
                    self._tell_dropped()

    def _tell_dropped(self) -> None:
        count, self._dropped = self._dropped, 0
        text = f"{count} lines of this log were lost: nobody read them"
        record = logging.LogRecord("trio_amped", logging.WARNING, "", 0, text, (), None)
        self._stream.handle(self.prepare(record))

    def finish(self) -> None:
        """Have the last lines written, if that takes no more than a second.

        Here, however long it takes, where no thread could ever start: they say why it ends.
        """
        self.start()
        if self._writer is None:
            self._write(waits=False)
            return
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_PATIENCE)
            self._writer.join(_PATIENCE)


@contextlib.contextmanager
def to_stderr(level: str) -> Iterator[Callable[[str], None]]:
    """Inside, the log goes to stderr; whoever logs never waits for it.

    Yields a function: what it is given stands before each message from then on.
    """
    stream = _Stream(sys.stderr)
    stream.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    handler = _Lines(stream)

    def begin_with(name: str) -> None:
        handler.setFormatter(logging.Formatter(f"{name}%(message)s"))

    handler.start()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield begin_with
    finally:
        root.removeHandler(handler)
        handler.finish()
