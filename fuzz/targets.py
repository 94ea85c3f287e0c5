"""All that can be fuzzed."""

from typing import Final

from fuzz.properties import answers, cancellation, faults, streams, texts, values
from fuzz.target import Target

_MODULES: Final = (
    streams.TARGETS,
    answers.TARGETS,
    cancellation.TARGETS,
    faults.TARGETS,
    texts.TARGETS,
    values.TARGETS,
)

ALL: Final[dict[str, Target]] = {target.name: target for each in _MODULES for target in each}
