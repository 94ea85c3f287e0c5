"""What is served to the programs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import public_directory


@pytest.fixture
def site() -> Iterator[Path]:
    """An empty root, on a real disk."""
    with public_directory() as directory:
        yield directory
