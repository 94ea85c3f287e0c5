"""^C and SIGTERM, where what goes on is to be ended in good order."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def noting_interrupts(note: Callable[[], None]) -> Iterator[None]:
    """While this lasts, they interrupt nothing: they are noted."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        note()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
