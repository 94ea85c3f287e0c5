"""The engine that mutates bytes, steered by what they reach in trio_amped: libFuzzer's.

libFuzzer never gives the process back: what comes after it is done in the last execution.
"""

import importlib.util
import os
import time
from typing import Any, Final

from fuzz.campaign.desk import Desk, find_targets
from fuzz.campaign.watch import Over, Watch, shrink
from fuzz.target import Target

MISSING: Final = (
    "--engine atheris needs the package atheris, which is not installed: "
    "pip install --group atheris (it has wheels for Python 3.11 to 3.13), "
    "or leave out --engine"
)


def is_installed() -> bool:
    return importlib.util.find_spec("atheris") is not None


def fuzz(desk: Desk) -> None:
    """One target, for the seconds that are assigned."""
    import atheris

    with atheris.instrument_imports(include=["trio_amped"]):
        target = find_targets(desk.work.module)[desk.work.targets[0]]
    desk.begin(target.name, desk.work.seed)
    atheris.Setup(_options(desk, target.name), _one_input(desk, target))
    atheris.Fuzz()


def _options(desk: Desk, target: str) -> list[str]:
    places = desk.work.kept_in()
    corpus, seeds = places.atheris_corpus(target), places.atheris_seeds(target)
    corpus.mkdir(parents=True, exist_ok=True)
    return [
        "fuzz",
        str(corpus),  # what is new comes here
        *(str(each) for each in seeds if each.is_dir()),
        f"-seed={desk.work.seed % (1 << 32) or 1}",  # 0 would be any
        f"-artifact_prefix={places.reports}/",
        "-handle_term=0",
        "-handle_int=0",
        "-timeout=86400",  # the parent knows when a worker hangs; 0 is a second to atheris
        "-rss_limit_mb=0",
    ]


def _one_input(desk: Desk, target: Target) -> Any:
    watch = desk.watch(target)
    drive = watch.test().hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    started = time.process_time()

    def one_input(data: bytes) -> None:
        try:
            drive(data)
            if watch.again:
                desk.report(watch)
            if time.process_time() - started > desk.work.seconds:
                raise Over
        except Over:
            _leave(desk)
        except Exception as error:
            _settle(desk, target, watch, data, error)

    return one_input


def _settle(desk: Desk, target: Target, watch: Watch, data: bytes, error: Exception) -> None:
    """A failure is shrunk at once, by Hypothesis, and passed over from then on."""
    if not watch.best:
        desk.report_error(error)
    for name, found in watch.best.items():
        smaller = desk.watch(target)
        smaller.only = name
        smaller.first[name] = smaller.best[name] = found
        try:
            shrink(smaller, found.choices)
        except Over:
            pass  # and the next execution ends the worker
        finally:
            desk.report(smaller, input=data)
    watch.passed_over |= set(watch.best)
    watch.first.clear()
    watch.best.clear()


def _leave(desk: Desk) -> None:
    desk.progress()
    desk.say("over")
    os._exit(0)
