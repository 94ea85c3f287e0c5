"""All that can be fuzzed."""

from typing import Final

from fuzz.properties import (
    accepting,
    answers,
    applications,
    beneath,
    caching,
    cancellation,
    changes,
    configuration,
    draining,
    faults,
    folders,
    gates,
    heads,
    ledger,
    listings,
    machine,
    nginx,
    pool,
    sites,
    streams,
    texts,
    values,
    waiting,
    windows,
    wire,
    work,
)
from fuzz.target import Target

_MODULES: Final = (
    streams.TARGETS,
    answers.TARGETS,
    cancellation.TARGETS,
    draining.TARGETS,
    accepting.TARGETS,
    faults.TARGETS,
    changes.TARGETS,
    waiting.TARGETS,
    windows.TARGETS,
    work.TARGETS,
    ledger.TARGETS,
    applications.TARGETS,
    sites.TARGETS,
    caching.TARGETS,
    heads.TARGETS,
    texts.TARGETS,
    values.TARGETS,
    gates.TARGETS,
    beneath.TARGETS,
    folders.TARGETS,
    wire.TARGETS,
    pool.TARGETS,
    machine.TARGETS,
    listings.TARGETS,
    configuration.TARGETS,
    nginx.TARGETS,
)

ALL: Final[dict[str, Target]] = {target.name: target for each in _MODULES for target in each}
