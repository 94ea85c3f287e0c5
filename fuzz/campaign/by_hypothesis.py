"""The engine that generates examples from strategies: batches, with one seed after another."""

import base64
import itertools
from collections.abc import Callable
from typing import Final

import hypothesis
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

from fuzz.campaign.profiles import CAMPAIGN
from fuzz.campaign.watch import Over, Watch, replay, reuse, run
from fuzz.campaign.worker import Desk, find_targets
from fuzz.target import Target

MEASURED: Final = 4  # every so many turns coverage is measured, which halves the speed


def fuzz(desk: Desk) -> None:
    """The corpus first, then turns of a batch of each target."""
    work = desk.work
    desk.meter.on()  # before trio_amped is imported, which is when its modules run
    targets = _targets(desk)
    for target in targets:
        _replay_corpus(desk, target)
    desk.meter.off()
    for turn in itertools.count() if work.turns is None else range(work.turns):
        for target in targets:
            _batch(desk, target, work.seed + turn * work.step, is_measured=turn % MEASURED == 0)


def _targets(desk: Desk) -> list[Target]:
    known = find_targets(desk.work.module)
    return [known[name] for name in desk.work.targets]


def _replay_corpus(desk: Desk, target: Target) -> None:
    desk.begin(target.name, desk.work.seed)
    database = DirectoryBasedExampleDatabase(desk.work.kept_in().corpus / "hypothesis")
    watch = desk.watch(target)
    try:
        reuse(watch, database)
    except Exception as error:
        desk.report_error(error)
    finally:
        desk.report(watch)
    desk.reached(desk.meter.take())


def _batch(desk: Desk, target: Target, seed: int, *, is_measured: bool) -> None:
    desk.begin(target.name, seed)
    if is_measured:
        desk.meter.on()
    try:
        _run(desk, desk.watch(target), seed)
        if is_measured and desk.meter.peek():
            _find_who(desk, target, seed)
    finally:
        if is_measured:
            desk.meter.off()
            desk.reached(desk.meter.take())


def _run(desk: Desk, watch: Watch, seed: int, profile: settings = CAMPAIGN) -> None:
    """What a watch has found is reported even if it is told to end."""
    try:
        run(hypothesis.seed(seed)(watch.test(profile)), watch)
    except Over:
        raise
    except BaseException as error:
        desk.report_error(error)
    finally:
        desk.report(watch)


def _find_who(desk: Desk, target: Target, seed: int) -> None:
    """The same batch again: which of its examples have reached something new?

    To look after each example takes four times as long, and few batches reach anything new.
    """
    desk.meter.forget()
    _run(desk, desk.watch(target, lambda drawn: desk.reached(desk.meter.take(), drawn)), seed)


def measure(desk: Desk) -> None:
    """What atheris keeps as bytes, run here without its instruments, and with coverage."""
    desk.meter.on()
    for target in _targets(desk):
        desk.begin(target.name, desk.work.seed)
        watch = desk.watch(target)
        drive = watch.test().hypothesis.fuzz_one_input  # type: ignore[attr-defined]
        desk.reached(desk.meter.take())
        places = desk.work.kept_in()
        for directory in (places.atheris_seeds(target.name), places.atheris_corpus(target.name)):
            for path in sorted(directory.glob("*")):
                _measure(desk, watch, drive, path.read_bytes())


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
