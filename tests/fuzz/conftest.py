"""A fuzzer for each test that asks for one."""

from pathlib import Path

import pytest

from tests.fuzz.fuzzer import Fuzzer


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers measure themselves: the measurement of this test run would slow them down."""
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fuzzer(tmp_path: Path) -> Fuzzer:
    return Fuzzer(tmp_path)
