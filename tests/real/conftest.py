"""Files that a server process can be asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import ServerProcess, public_directory, running_server

from .support import fill


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory on a real disk that every user may enter: roots and mounts go here."""
    with public_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """A root with one file of each size (support.fill); tests may add to it, not change it."""
    with public_directory() as directory:
        fill(directory)
        yield directory


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[ServerProcess]:
    """A server for `site` as it comes, which must survive all the tests of a module."""
    with running_server(root=site) as server:
        yield server
        assert server.process.poll() is None
        assert server.stop() == 0
        assert "Traceback" not in "\n".join(server.log)
