"""The clock on the wall stands still, and applications get a simulated disk."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.asgi.support import ROUTERS
from tests.simulated import NOW
from trio_amped import asgi
from trio_amped.config import Config
from trio_amped.serving.router import Router
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[SimDisk], SimDisk]:
    """What is opened from now on is this disk."""

    def use(disk: SimDisk) -> SimDisk:
        @contextlib.asynccontextmanager
        async def open_simulated(config: Config, stats: Stats) -> AsyncIterator[Router]:
            router = Router(config, [disk])
            ROUTERS[disk] = router
            async with router.swept():
                yield router

        monkeypatch.setattr(asgi, "open_router", open_simulated)
        return disk

    return use
