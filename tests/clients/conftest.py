"""What is served to the programs, and the browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import public_directory

from .browser import Browser, running_browser


@pytest.fixture
def site() -> Iterator[Path]:
    """An empty root, on a real disk."""
    with public_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    """The browser, which remembers nothing of other tests."""
    shared_browser.forget()
    yield shared_browser
    shared_browser.forget()  # it lets go of its connections
