"""The properties hold."""

from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from fuzz import targets
from fuzz.properties import values
from fuzz.target import Target
from fuzz.targets import ALL

# Those of values are in test_values.py.
_TARGETS: Final = [
    target for target in ALL.values() if target not in values.TARGETS and not target.is_live
]
# Where an example is many runs of a world, fewer examples do.
_COSTS: Final = {
    "caching": 8,
    "cancellations": 12,
    "common": 0.5,
    "deadlines": 2,
    "dear": 3,
    "drains": 2,
    "drips": 3,
    "farewells": 5,
    "faults": 10,
    "folders": 4,
    "hung": 2,
    "idle": 4,
    "lane": 2,
    "ledger": 3,
    "listeners": 2,
    "machine": 6,
    "reference": 2,
    "replacements": 3,
    "residency": 3,
    "several": 4,
    "sites": 2,
    "stalls": 3,
    "truncations": 30,
    "work": 4,
    "world": 2,
}


@pytest.mark.parametrize("target", _TARGETS, ids=lambda target: target.name)
def test_property(target: Target) -> None:
    assert settings.default is not None
    count = int(settings.default.max_examples / _COSTS.get(target.name, 1))
    settings(max_examples=max(count, 1))(target.as_test())()


def test_what_was_found_is_tried_first() -> None:
    tried = []
    target = Target(
        "x", lambda number: tried.append(number), {"number": st.just(1)}, found=({"number": 7},)
    )
    target.as_test()()
    assert (tried[0], set(tried)) == (7, {7, 1})


def test_names_are_unique() -> None:
    assert len(ALL) == sum(map(len, targets._MODULES))  # a dictionary would hide it
    assert all(target.help.endswith(".") for target in _TARGETS)
