"""What a worker is told to do, and how it reports: on a pipe, in lines of JSON."""

import base64
import dataclasses
import importlib
import json
import mmap
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from fuzz.campaign.covering import Arcs, Meter
from fuzz.campaign.failures import Failure, described, formatted, identify
from fuzz.campaign.places import Places
from fuzz.campaign.watch import Observer, Over, Watch
from fuzz.tally import TALLY
from fuzz.target import Target

_LENGTH: Final = struct.Struct("I")
_OFTEN: Final = 0.5  # seconds between two reports of progress, at least


@dataclass(frozen=True)
class Assignment:
    """What a worker does until it is told to end."""

    engine: str  # "hypothesis", "atheris", or one of those below
    module: str  # where the targets are
    targets: tuple[str, ...]
    seed: int
    step: int = 1  # from one seed to the next
    turns: int | None = None  # of all targets; no end if None
    batch: int | None = None  # examples with one seed; as many as fit if None
    corpus: tuple[str, ...] = ()  # the targets whose corpus is run first
    seconds: float = 0.0  # of CPU time, for atheris and measure
    since: float = 0.0  # for measure: only what was kept after this time
    places: tuple[str, str, str] = ("", "", "")  # corpus, crashes, reports
    flight: str = ""  # the file for the example that runs
    choices: str = ""  # for repeat: the one example

    def as_argument(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> "Assignment":
        values = json.loads(text)
        for name in ("targets", "places", "corpus"):
            values[name] = tuple(values[name])
        return cls(**values)

    def kept_in(self) -> Places:
        return Places(*map(Path, self.places))


def find_targets(module: str) -> dict[str, Target]:
    """Raises whatever the import does, and TypeError or AttributeError if there are no targets."""
    found = importlib.import_module(module).ALL
    if not isinstance(found, dict) or not found:
        raise TypeError("its ALL is no dictionary of targets")
    return found


class Flight:
    """A file that has the example that runs now: what is left of a worker that dies in it."""

    _SIZE: Final = 1 << 18

    def __init__(self, path: Path) -> None:
        with path.open("wb+") as file:
            file.truncate(self._SIZE)
            self._map = mmap.mmap(file.fileno(), self._SIZE)

    def begins(self, drawn: bytes) -> None:
        if len(drawn) <= self._SIZE - _LENGTH.size:
            self._map[_LENGTH.size : _LENGTH.size + len(drawn)] = drawn
            _LENGTH.pack_into(self._map, 0, len(drawn))

    def ends(self) -> None:
        _LENGTH.pack_into(self._map, 0, 0)

    @staticmethod
    def left_in(path: Path) -> bytes:
        """Nothing, if it died between two examples."""
        data = path.read_bytes() if path.exists() else b""
        length = _LENGTH.unpack_from(data)[0] if data else 0
        return data[_LENGTH.size : _LENGTH.size + length]


class Desk(Observer):
    """What the engines of a worker share: the pipe to the parent, the meter, what is known."""

    def __init__(self, assignment: Assignment, pipe: int) -> None:
        self.work = assignment
        self.meter = Meter()
        self._is_over = False
        self._pipe = pipe
        self._flight = Flight(Path(assignment.flight))
        self._engine = "atheris" if assignment.engine == "measure" else assignment.engine
        self._target = ""
        self._seed = 0
        self._batch = 0
        self._unsent = 0  # executions
        self._said = time.monotonic()  # when progress was
        self._known: set[str] = set()  # failures: reported, and passed over from now on

    def say(self, kind: str, **details: Any) -> None:
        line = json.dumps({"is": kind, "target": self._target, **details})
        data = line.encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._pipe, data) :]
        except BrokenPipeError:
            os._exit(1)  # the parent is gone: there is nobody to work for

    def begin(self, target: str, seed: int, batch: int = 0) -> None:
        self.progress()
        self._target, self._seed, self._batch = target, seed, batch
        self.say("begun", seed=seed, batch=batch)

    def watch(self, target: Target, passed: Callable[[str], None] | None = None) -> Watch:
        watch = Watch(target, self, passed)
        watch.passed_over = frozenset(self._known)
        return watch

    def tell_over(self, number: int, frame: FrameType | None) -> None:
        """On SIGTERM: the next execution does not begin."""
        self._is_over = True

    def before(self, drawn: bytes) -> None:
        if self._is_over:
            raise Over
        self._flight.begins(drawn)
        self._unsent += 1
        if time.monotonic() - self._said > _OFTEN:
            self.progress()

    def after(self) -> None:
        self._flight.ends()

    def progress(self) -> None:
        """How many executions, and what they reached: a sign of life, too."""
        tally = [[list(name), count] for name, count in TALLY.items()]
        TALLY.clear()
        now = time.monotonic()
        self.say("progress", executions=self._unsent, seconds=now - self._said, tally=tally)
        self._unsent, self._said = 0, now

    def report(self, watch: Watch, **raw: bytes) -> None:
        """The failures that a watch has, each one once."""
        more = {name: base64.b64encode(data).decode() for name, data in raw.items()}
        for failure in watch.failures(self._engine, self._seed, self.work.module):
            self._fail(dataclasses.replace(failure, batch=self._batch, raw=failure.raw | more))
        if watch.again:
            self.say("again", counts=watch.again)
            watch.again.clear()

    def report_error(self, error: BaseException) -> None:
        """The target, or its strategies, failed outside of an example."""
        name, where = identify(self._target, error)
        self._fail(
            Failure(
                id=name,
                target=self._target,
                module=self.work.module,
                engine=self._engine,
                seed=self._seed,
                batch=self._batch,
                error=described(error),
                where=where,
                traceback=formatted(error),
            )
        )

    def _fail(self, failure: Failure) -> None:
        self._known.add(failure.id)
        self.say("failure", failure=dataclasses.asdict(failure))

    def reached(self, arcs: Arcs, choices: str = "", data: str = "") -> None:
        """`choices` or `data`: the example that reached it, if it is worth keeping."""
        if arcs:
            self.say("reached", arcs=arcs, choices=choices, data=data)
