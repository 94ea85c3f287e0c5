"""The engine that generates examples from strategies: batches, with one seed after another."""

import base64
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import hypothesis
from hypothesis import settings

from fuzz.campaign.corpus import database
from fuzz.campaign.desk import Desk, find_targets
from fuzz.campaign.places import Places
from fuzz.campaign.profiles import CAMPAIGN
from fuzz.campaign.watch import Over, Watch, replay, reuse, run
from fuzz.target import Target

MEASURED: Final = 4  # every so many turns coverage is measured, which halves the speed
_SIZES: Final = (10, 20, 50, 100, 200, 500, 1000)  # of batches
_SECONDS: Final = 3.0  # that a batch is to take: slow targets and fast ones have the same time


class Pace:
    """How many examples a batch of each target has."""

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        self._rates: dict[str, float] = {}  # executions a second, without coverage

    def size(self, name: str) -> int:
        fitting = [size for size in _SIZES if size <= _SECONDS * self._rates.get(name, 0.0)]
        return self._fixed or max(fitting, default=_SIZES[0])

    def note(self, name: str, executions: int, seconds: float) -> None:
        self._rates[name] = executions / max(seconds, 0.001)


def fuzz(desk: Desk) -> None:
    """Turns of a batch of each target; the first one begins with the corpus."""
    work = desk.work
    with _metered(desk):  # before trio_amped is imported, which is when its modules run
        targets = _targets(desk)
    pace = Pace(work.batch)
    for turn in itertools.count() if work.turns is None else range(work.turns):
        for target in targets:
            if turn == 0 and target.name in work.corpus:
                _replay_corpus(desk, target)
            _batch(desk, target, work.seed + turn * work.step, turn, pace)


def _targets(desk: Desk) -> list[Target]:
    known = find_targets(desk.work.module)
    return [known[name] for name in desk.work.targets]


def _replay_corpus(desk: Desk, target: Target) -> None:
    desk.begin(target.name, desk.work.seed)
    watch = desk.watch(target)
    with _metered(desk):
        try:
            reuse(watch, database(desk.work.kept_in()))
        except Exception as error:
            desk.report_error(error)
        finally:
            desk.report(watch)


def _batch(desk: Desk, target: Target, seed: int, turn: int, pace: Pace) -> None:
    size = pace.size(target.name)
    desk.begin(target.name, seed, size)
    if turn % MEASURED:
        started = time.monotonic()
        executions = _run(desk, desk.watch(target), seed, size)
        pace.note(target.name, executions, time.monotonic() - started)
        return
    with _metered(desk):
        if turn:
            _run(desk, desk.watch(target), seed, size)
        if desk.meter.peek() or turn == 0:
            _find_who(desk, target, seed, size)


@contextlib.contextmanager
def _metered(desk: Desk) -> Iterator[None]:
    desk.meter.on()
    try:
        yield
    finally:
        desk.meter.off()
        desk.reached(desk.meter.take())


def _run(desk: Desk, watch: Watch, seed: int, size: int) -> int:
    """Returns how many executions it took. What was found is reported even if all is over."""
    profile = settings(CAMPAIGN, max_examples=size)
    try:
        run(hypothesis.seed(seed)(watch.test(profile)), watch)
    except Over:
        raise
    except BaseException as error:
        desk.report_error(error)
    finally:
        desk.report(watch)
    return watch.executions


def _find_who(desk: Desk, target: Target, seed: int, size: int) -> None:
    """Which examples of a batch reach something new? In the first turn most do; later few batches
    have any, and these are run once more for it: to look after each example takes its time.
    """
    desk.meter.forget()
    _run(desk, desk.watch(target, lambda drawn: desk.reached(desk.meter.take(), drawn)), seed, size)


def measure(desk: Desk) -> None:
    """What atheris keeps as bytes, run here without its instruments, and with coverage."""
    desk.meter.on()
    for target in _targets(desk):
        desk.begin(target.name, desk.work.seed)
        watch = desk.watch(target)
        drive = watch.test().hypothesis.fuzz_one_input  # type: ignore[attr-defined]
        desk.reached(desk.meter.take())
        started = time.process_time()
        for path in _kept_since(desk.work.kept_in(), target.name, desk.work.since):
            if time.process_time() - started < desk.work.seconds:
                _measure(desk, watch, drive, path.read_bytes())


def _kept_since(places: Places, target: str, since: float) -> list[Path]:
    """Oldest first. A second more, since libFuzzer keeps what it finds a little later."""
    directories = (*places.atheris_seeds(target), places.atheris_corpus(target))
    paths = (path for directory in directories for path in directory.glob("*"))
    dated = sorted((path.stat().st_mtime, path) for path in paths)
    return [path for date, path in dated if date >= since - 1]


def repeat(desk: Desk) -> None:
    """One example that has killed a worker: here it kills nobody else."""
    [target] = _targets(desk)
    desk.begin(target.name, desk.work.seed)
    watch = desk.watch(target)
    replay(watch, desk.work.choices)
    desk.report(watch)


def _measure(desk: Desk, watch: Watch, drive: Callable[[bytes], object], data: bytes) -> None:
    try:
        drive(data)
    except Exception as error:
        desk.report(watch) if watch.best else desk.report_error(error)
    desk.reached(desk.meter.take(), data=base64.b64encode(data).decode())
