"""A fuzzer for each test that asks for one."""

from pathlib import Path

import pytest

from tests.fuzz.fuzzer import Fuzzer


@pytest.fixture(scope="module", autouse=True)
def _unmeasured(unmeasured: None) -> None:
    """Workers measure themselves: the measurement of this test run would slow them down."""


@pytest.fixture
def fuzzer(tmp_path: Path) -> Fuzzer:
    return Fuzzer(tmp_path)
