"""Clean URLs, trailing slashes and redirects, by an ASGI application: as by the server."""

import itertools
from collections.abc import Callable
from typing import Final

import pytest

from tests.asgi.support import ask, left_open
from tests.serving.cases import get
from tests.serving.client import parse
from tests.serving.peers import converse_by_task
from tests.serving.test_urls import PAGES, RULED, RULES, SETTINGS, URLS
from trio_amped.asgi import StaticFiles
from trio_amped.config import Config, Site
from trio_amped.testing import SimDisk

TARGETS: Final = [*URLS, "/file.html?q", *(case[0] for case in RULED)]
TARGETS.remove("/old?")  # whose query no scope has


@pytest.mark.parametrize("settings", SETTINGS)
async def test_it_says_what_the_server_says(
    settings: str, use: Callable[[SimDisk], SimDisk]
) -> None:
    chosen = SETTINGS[settings] | {"redirects": RULES}
    files = StaticFiles(Site("r", **chosen))
    disk = use(SimDisk(PAGES))
    for target, method in itertools.product(TARGETS, ("GET", "HEAD")):
        request = get(target, method=method)
        sent = await converse_by_task(SimDisk(PAGES), [request], Config(**chosen))
        (served,) = parse(sent, [method.encode()])
        for mount in ("", "/at"):
            reply = await ask(files, mount + target, method=method, root_path=mount)
            assert (reply.status, reply.body) == (served.status, served.body)
            assert reply.headers.get("location") == served.headers.get("location")
    assert left_open(disk) == 0
