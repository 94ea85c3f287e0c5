"""A fuzzer for each test that asks for one."""

from pathlib import Path

import pytest

from tests.fuzz.fuzzer import Fuzzer


@pytest.fixture
def fuzzer(tmp_path: Path) -> Fuzzer:
    return Fuzzer(tmp_path)
