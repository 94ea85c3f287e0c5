"""Writes the log of the command line to stderr, from a thread: a terminal or a disk may be slow.

The thread writes to the descriptor, and holds no lock meanwhile: neither a logging.StreamHandler's
nor that of the buffer of sys.stderr. At its end the interpreter takes both, and would wait for ever
where nobody reads (a pipe that is full, a terminal that was stopped by ^S).
"""

import contextlib
import json
import logging
import logging.handlers
import os
import queue
import select
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from .config import LogShape

_WAITING: Final = 10_000  # lines that may wait to be written; more are dropped
_PATIENCE: Final = 1.0  # seconds for the last lines


class _Text(logging.Formatter):
    """A line of text, with the worker's number before the message; a traceback follows."""

    def __init__(self, worker: int | None = None) -> None:
        name = "" if worker is None else f"worker {worker}: "
        super().__init__(f"%(asctime)s %(levelname)-7s {name}%(message)s")


class _Json(logging.Formatter):
    """An object on a line, with a traceback in it, and the worker's number (RFC 8259, 3339)."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone()
        trace = {"traceback": self.formatException(record.exc_info)} if record.exc_info else {}
        line = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._worker,
            "message": record.getMessage(),
            **trace,
        }
        return json.dumps(line)


def error_as_json(text: str) -> str:
    """Return an error as a line of the log, for what ends where the log is not open."""
    return _Json().format(logging.LogRecord("trio_amped", logging.ERROR, "", 0, text, (), None))


_FORMATTERS: Final = {"text": _Text, "json": _Json}


class _Lines(logging.handlers.QueueHandler):
    """Puts lines into a bounded queue, counts those that it has no room for, and has them written.

    Where the thread that writes cannot start at first, a later line starts it.
    """

    def __init__(self, shape: logging.Formatter) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING)
        super().__init__(self._lines)
        self.setFormatter(shape)
        self._writer: threading.Thread | None = None
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> str:
        return self.format(record)

    def enqueue(self, record: str) -> None:  # type: ignore[override]
        try:
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1
        self.start()

    def start(self) -> None:
        """Start the thread that writes, if there is none; where none can start, do nothing."""
        if self._writer is None:
            writer = threading.Thread(target=self._write_all, name="trio_amped log", daemon=True)
            with contextlib.suppress(RuntimeError):  # a limit of processes; pthread_create(3)
                writer.start()
                self._writer = writer

    def _write_all(self, waits: bool = True) -> None:
        """Write lines until there comes None or, if it does not wait, no more or no reader."""
        patience = None if waits else _PATIENCE
        with contextlib.suppress(queue.Empty):
            while (line := self._lines.get(waits)) is not None:
                if not _write(f"{line}\n", patience):
                    return
                if self._dropped and self._lines.empty():
                    _write(f"{self._loss()}\n", patience)

    def _loss(self) -> str:
        count, self._dropped = self._dropped, 0
        text = f"{count} lines of this log were lost: nobody read them"
        return self.format(logging.LogRecord("trio_amped", logging.WARNING, "", 0, text, (), None))

    def finish(self) -> None:
        """Have the last lines written, if that takes no more than a second or two.

        Here, where no thread could ever start: they say why it ends.
        """
        self.start()
        if self._writer is None:
            self._write_all(waits=False)
            return
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_PATIENCE)
            self._writer.join(_PATIENCE)


@contextlib.contextmanager
def to_stderr(level: str, shape: LogShape = "text") -> Iterator[Callable[[int], None]]:
    """Inside, the log goes to stderr; whoever logs never waits for it.

    Yields a function: each line from then on names the worker whose number it is given. On leaving,
    the last lines have a second or two; what nobody reads by then is lost.
    """
    handler = _Lines(_FORMATTERS[shape]())

    def begin_with(worker: int) -> None:
        handler.setFormatter(_FORMATTERS[shape](worker))

    handler.start()
    root = logging.getLogger()
    root.addHandler(handler)
    set_level(level)
    try:
        yield begin_with
    finally:
        root.removeHandler(handler)
        handler.finish()


def set_level(level: str) -> None:
    """Say so much from now on."""
    logging.getLogger().setLevel(level.upper())


def _write(text: str, patience: float | None = None) -> bool:
    """Write to the descriptor of stderr, in as many steps as it takes.

    What nobody can read any more is lost. Return False, and lose the rest, where the reader takes
    nothing for `patience` seconds; None: it is waited for.
    """
    if sys.__stderr__ is None:  # it was closed when we started: the descriptor is another file's
        return True
    fd, rest = sys.__stderr__.fileno(), text.encode(sys.__stderr__.encoding, "backslashreplace")
    with contextlib.suppress(OSError):  # EPIPE, EIO: a reader that has ended; ENOSPC
        while rest:
            _, writable, _ = select.select([], [fd], [], patience)
            if not writable:
                return False
            # Whoever shares the descriptor with us may have taken the room meanwhile.
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(fd, rest[: select.PIPE_BUF]) :]
    return True
