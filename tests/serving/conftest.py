"""The clock on the wall stands still, so that answers can be compared byte by byte; and what is
asked by `converse` is asked of h11 alone, of kept answers, and of the fast lane, also by TLS."""

import ssl
import time

import pytest

from tests.serving.peers import TLS, WAYS, Ways, client_context, server_context
from tests.simulated import NOW


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    ways = ["plain"]
    if {"converse", "Case", "Row"} & vars(metafunc.module).keys():
        ways = ["lane"] if metafunc.config.getoption("--brief") else [*WAYS, TLS]
    long = getattr(metafunc.module, "LONG_WAYS", ())
    each = [pytest.param(way, marks=[pytest.mark.long] * (way in long)) for way in ways]
    metafunc.parametrize("way", each, indirect=True)


@pytest.fixture(autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ways, "name", request.param)


@pytest.fixture(scope="session")
def of_server() -> ssl.SSLContext:
    return server_context()


@pytest.fixture(scope="session")
def of_client() -> ssl.SSLContext:
    return client_context()
