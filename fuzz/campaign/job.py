"""A worker process, as its parent has it: its pipe, its log, and how it ended."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from fuzz.campaign.desk import Assignment
from fuzz.campaign.places import ROOT, shown
from fuzz.limits import Stopwatch

_FRAME: Final = re.compile(r'\s+File "(.+)", line (\d+) in (\S+)')  # as faulthandler writes it


class Job:
    """One worker process after another."""

    def __init__(self, number: int, reports: Path) -> None:
        self.log = reports / f"worker-{number}.log"
        self.flight = reports / f"worker-{number}.flight"
        self.number = number
        self.target, self.seed, self.batch = "", 0, 0  # what runs now
        self.has_begun = self.is_over = self.is_hung = False
        self.process: subprocess.Popen[bytes]
        self.pipe: IO[bytes]
        self.silence: Stopwatch  # since its last word
        self._rest = b""

    def start(self, work: Assignment) -> None:
        reading, writing = os.pipe()
        argument = replace(work, flight=str(self.flight)).as_argument()
        command = [sys.executable, "-m", "fuzz.campaign.worker", argument, str(writing)]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(writing,),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # ^C is for the parent alone
            )
        os.close(writing)
        self.pipe = os.fdopen(reading, "rb", buffering=0)
        self.has_begun = self.is_over = self.is_hung = False
        self.silence, self._rest = Stopwatch(self.process.pid), b""

    def messages(self) -> list[dict[str, Any]] | None:
        """What can be read now; None at the end of the worker."""
        data = self.pipe.read(1 << 20)
        if not data:
            return None
        self.silence.start()
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-20_000:]

    def stop(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    def death(self) -> str:
        """How it ended, if it did not say that it was over."""
        status = self.process.wait()
        if self.is_hung:
            return "the worker hung, and said nothing for too long"
        if status < 0:
            return f"the worker was killed by {signal.Signals(-status).name}"
        return f"the worker exited with status {status}"


def top_of_stack(log: str) -> str:
    """Where faulthandler found the worker, without its line, which changes with every edit."""
    for line in log.splitlines():
        match = _FRAME.match(line)
        if match and match[1].startswith(f"{ROOT}/") and "/campaign/" not in match[1]:
            return f"{shown(Path(match[1]))} in {match[3]}"
    return "nowhere"
