"""What a campaign shows while it runs: a line that is rewritten, or plain lines now and then."""

import shutil
import sys
import time
from typing import Final, TextIO

from fuzz.campaign.failures import Failure, repro_command, seed_options
from fuzz.campaign.summary import Point, Summary, clock, counted, many

_SELDOM: Final = 10.0  # seconds between plain lines
_RECENT: Final = 10.0  # seconds that a rate is the mean of


class Display:
    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._is_terminal = self._out.isatty()
        self._last = time.monotonic()  # of the plain lines
        self._points: list[Point] = []

    def update(self, summary: Summary, now: Point, at_work: str) -> None:
        self._points = [p for p in self._points if p.seconds > now.seconds - _RECENT] + [now]
        line = self._line(summary, now, at_work)
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[K{line[:width]}")
        elif time.monotonic() - self._last > _SELDOM:
            self._last = time.monotonic()
            self._write(line + "\n")

    def _line(self, summary: Summary, now: Point, at_work: str) -> str:
        first = self._points[0]
        rate = (now.executions - first.executions) / max(now.seconds - first.seconds, 0.001)
        return (
            f"{clock(now.seconds)}  {many(now.executions)} executions, {rate:.0f}/s  "
            f"{now.branches} branches of {summary.reached.possible} "
            f"({summary.reached.percent:.1f} %), {now.branches - first.branches:+} new  "
            f"{counted(now.failures, 'failure')}  {at_work}"
        )

    def failure(self, failure: Failure, where: str) -> None:
        """With all that matters if this is a log: the directory may be out of reach by then."""
        told = [
            f"FAILED {failure.id}: {failure.error}",
            f"  at {failure.where}, {seed_options(failure)}",
            f"  {where}",
            f"  {repro_command(failure)}",
        ]
        if not self._is_terminal:
            told += ["", failure.traceback.rstrip(), "", failure.example, ""]
        self.say("\n".join(told))

    def say(self, text: str) -> None:
        """Something that stays."""
        self._write(("\r\x1b[K" if self._is_terminal else "") + text + "\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
