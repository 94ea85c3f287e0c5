"""Properties of whole request streams, shared with `python -m fuzz`."""

import pytest

from fuzz.target import Target
from fuzz.targets import ALL


@pytest.mark.parametrize("target", ALL.values(), ids=ALL)
def test_property(target: Target) -> None:
    target.as_test()()
