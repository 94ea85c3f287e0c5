"""What it costs to ask whether a file is in memory, by the gates that the server has. Blocks."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trio_amped.disk.descriptors import Descriptor
from trio_amped.disk.opening import Status
from trio_amped.disk.pages import Gate, OpenFile, PageGate

SECONDS: Final = 0.2  # of CPU time, for which it is asked again and again
LEAST: Final = 100  # times


def microseconds(path: Path, gate: Gate) -> float:
    """Return the CPU time that the server needs to ask about a whole file, window by window.

    All of it must be in memory: raises RuntimeError when the answer is another one.
    """
    asker = PageGate("nowait" if gate is Gate.NOWAIT else "mincore")
    with _opened(path, gate) as file:
        asker.note_loaded(file, 0, file.size)  # as after a helper's first touch
        _ask(asker, file)  # makes the mapping, once for a file that is kept open
        begun, count = time.thread_time(), 0
        while count < LEAST or time.thread_time() - begun < SECONDS:
            _ask(asker, file)
            count += 1
        return 1e6 * (time.thread_time() - begun) / count


@contextmanager
def _opened(path: Path, gate: Gate) -> Iterator[OpenFile]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file = OpenFile(Descriptor(fd), Status.of(fd), gate)
        yield file
        if file.mapping:
            file.mapping.close()
    finally:
        os.close(fd)


def _ask(asker: PageGate, file: OpenFile) -> None:
    offset = 0
    while offset < file.size:
        length = min(file.window_at(offset), file.size) - offset
        if asker.resident(file, offset, length) < length:
            raise RuntimeError(f"{file.gate} says that a file in memory is not there")
        offset += length
