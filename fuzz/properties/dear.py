"""What one request costs the event loop: bounded by a few times the least one, whatever it says.

Steps are bytecode instructions of all that is neither trio's nor ours here: no clock is asked, so
they are the same on any machine. What C does within one call is not counted. It has bytes of one
head before it, and is linear in them (`effort` holds that), and there is no call without a step.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final

import hypothesis
import trio
from hypothesis import strategies as st

import tests
from fuzz.tally import note
from fuzz.target import Target
from fuzz.world.clients import Client, Script
from fuzz.world.disk import WorldDisk
from fuzz.world.hosts import Host, hosting
from fuzz.world.runs import run
from trio_amped.config import Config
from trio_amped.semantics.head import LINE_SLACK
from trio_amped.semantics.recogniser import recogniser

MOST_TIMES: Final = 5.0
_CONFIG: Final = Config()
_PAUSE: Final = 0.1  # seconds between requests
_REPOSITORY: Final = Path(tests.__file__).parents[1]
_NOT_COUNTED: Final = tuple(
    f"{Path(each).parent}/"
    for each in (trio.__file__, hypothesis.__file__, tests.__file__, __file__)
) + (f"{_REPOSITORY}/fuzz/", f"{_REPOSITORY}/trio_amped/testing.py")
_ENDS: Final = b"\r\nConnection: close\r\n"


class Steps:
    """Counts instructions while `counted` is entered."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename.startswith(_NOT_COUNTED):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        self.count += event == "opcode"
        return self._step
