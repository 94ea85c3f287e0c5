"""nginx, HAProxy and Caddy in front, by their examples: deploys under load, HTTP/2, keep-alive."""

import http.client
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import trio

from tests.deploy.proxies import HOST, Proxy, in_front
from tests.real.support import KIB, MIB, content, curl, put
from tests.rig import needs
from tests.serving.cases import PATIENT
from trio_amped import Answered, Server

pytestmark = pytest.mark.usefixtures("as_long_as_it_takes")

SIZES: Final = {"/small": KIB, "/middle": 100 * KIB, "/large": 2 * MIB}
RELEASES: Final = 12
CLIENTS: Final = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
KINDS: Final = [pytest.param(kind, marks=needs(kind)) for kind in ("nginx", "haproxy", "caddy")]
EVERY_KIND: Final = pytest.mark.parametrize("kind", KINDS)
WAYS: Final = {"lane": True, "tasks": False}
EVERY_WAY: Final = pytest.mark.parametrize("fast_lane", WAYS.values(), ids=WAYS)


def body(path: str, release: int) -> bytes:
    """What this file of a release has: no part of it is also one of another release."""
    return content(SIZES[path] + release)


def lay_out(place: Path, release: int) -> None:
    for path in SIZES:
        put(place / f"release-{release}" / path[1:], body(path, release))


def switch(place: Path, release: int) -> None:
    """Put another link in the place of `current`, as `mv -T` does."""
    (place / "next").symlink_to(f"release-{release}")
    os.rename(place / "next", place / "current")


class Desk(NamedTuple):
    """A server with a proxy in front, and what the server has answered."""

    proxy: Proxy
    server: Server
    answered: list[Answered]


@asynccontextmanager
async def behind(kind: str, place: Path, fast_lane: bool) -> AsyncIterator[Desk]:
    answered: list[Answered] = []
    bind = "127.0.0.1:0,proxy" if kind == "haproxy" else "127.0.0.1:0"
    config = replace(
        PATIENT,
        root=place / "current",
        fast_lane=fast_lane,
        revalidate=0.01,
        on_request=answered.append,
        bind=[bind],
        trust=["127.0.0.1"],
    )
    lay_out(place, 1)
    switch(place, 1)
    files = place / "proxy"
    files.mkdir()
    server = Server(config)
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(server.serve)
        front = in_front(kind, files, address[1])
        proxy = await trio.to_thread.run_sync(front.__enter__)
        try:
            yield Desk(proxy, server, answered)
        finally:
            front.__exit__(None, None, None)
            nursery.cancel_scope.cancel()


class Load:
    """A client that asks again and again, by one connection, and compares what comes."""

    def __init__(self, proxy: Proxy, source: str) -> None:
        self.seen = dict.fromkeys(SIZES, 0)
        self.ends = threading.Event()
        self._connection = http.client.HTTPConnection(HOST)
        self._connection.sock = proxy.connect(source)
        self._connection.auto_open = 0  # a connection that ends is a failure

    def run(self) -> None:
        with self._connection.sock:
            while not self.ends.is_set():
                for path in SIZES:
                    self._ask(path)

    def has_all_of(self, release: int) -> bool:
        return set(self.seen.values()) == {release}

    def _ask(self, path: str) -> None:
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        received = answer.read()
        assert answer.status == 200
        release = len(received) - SIZES[path]
        assert received == body(path, release)
        assert release >= self.seen[path], "an older one than before"
        self.seen[path] = release


@EVERY_KIND
@EVERY_WAY
async def test_deploys_by_link_under_load(kind: str, fast_lane: bool, tmp_path: Path) -> None:
    """No request fails, and none has a byte of another release."""
    for release in range(2, RELEASES + 1):
        lay_out(tmp_path, release)
    async with behind(kind, tmp_path, fast_lane) as desk:
        load = [Load(desk.proxy, source) for source in CLIENTS]
        async with trio.open_nursery() as nursery:
            for client in load:
                nursery.start_soon(trio.to_thread.run_sync, client.run)
            try:
                for release in range(1, RELEASES + 1):
                    if release > 1:
                        await trio.to_thread.run_sync(switch, tmp_path, release)
                    while not all(client.has_all_of(release) for client in load):  # noqa: ASYNC110
                        await trio.sleep(0.005)
            finally:
                for client in load:
                    client.ends.set()
        assert {each.peer for each in desk.answered} == set(CLIENTS)
        assert len(desk.answered) >= RELEASES * len(SIZES) * len(CLIENTS)
        assert desk.server.stats.connections * 3 < len(desk.answered), "none was kept"
        assert bool(desk.server.stats.by_lane) == fast_lane


@needs("curl")
@EVERY_KIND
@EVERY_WAY
async def test_http_2_and_the_way_to_https(kind: str, fast_lane: bool, tmp_path: Path) -> None:
    async with behind(kind, tmp_path, fast_lane) as desk:
        proxy = desk.proxy
        here: list[str] = []
        for port in (proxy.http, proxy.https):
            here += ["--resolve", f"{HOST}:{port}:127.0.0.1"]
        options = ["--http2", "--cacert", str(proxy.authority), "-w%{http_version} %{http_code}"]
        for path in SIZES:
            into = tmp_path / "received"
            url = f"https://{HOST}:{proxy.https}{path}"
            done = await trio.to_thread.run_sync(partial(curl, *here, *options, f"-o{into}", url))
            assert done.stdout == b"2 200"
            assert into.read_bytes() == body(path, 1)
        plain = ["-o/dev/null", "-w%{http_code} %{redirect_url}"]
        url = f"http://{HOST}:{proxy.http}/small?a=b"
        done = await trio.to_thread.run_sync(partial(curl, *here, *plain, url))
        assert done.stdout.startswith(b"308 https://www.example.org")
        assert done.stdout.endswith(b"/small?a=b")
