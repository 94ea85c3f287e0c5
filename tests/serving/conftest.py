"""The clock on the wall stands still, so that answers can be compared byte by byte; and what is
asked by `converse` is asked with the fast lane and without."""

import time

import pytest

from tests.serving.peers import Ways
from tests.simulated import NOW


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    converses = {"converse", "Case", "Row"} & vars(metafunc.module).keys()
    ways = ["plain", "lane"] if converses else ["plain"]
    metafunc.parametrize("way", ways, indirect=True)


@pytest.fixture(autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ways, "by_lane", request.param == "lane")
