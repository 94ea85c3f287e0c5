"""All that can be fuzzed."""

from typing import Final

from fuzz.properties import streams, texts
from fuzz.target import Target

ALL: Final[dict[str, Target]] = {
    target.name: target for target in (*streams.TARGETS, *texts.TARGETS)
}
