"""Under real servers on trio, from real files: Hypercorn alone, Starlette, Quart-Trio."""

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hypercorn.trio
import pytest
import trio
from h2.connection import H2Connection
from h2.events import ResponseReceived
from hypercorn.config import Config as HypercornConfig
from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from trio.testing import wait_all_tasks_blocked

from tests.real.support import MIB, SIZES, WINDOW, Reply, content, evict, fill, put
from tests.rig import GUARD, public_directory
from trio_amped.asgi import StaticFiles
from trio_amped.config import Config
from trio_amped.disk import open_files

pytestmark = pytest.mark.usefixtures("as_long_as_it_takes", "nobody_renames")


@pytest.fixture(scope="module")
def root() -> Any:
    """One file of each size, on a real disk."""
    with public_directory() as directory:
        fill(directory)
        put(directory / "index.html", b"<h1>index</h1>")
        put(directory / "folder/index.html", b"<h1>folder</h1>")
        yield directory


class Client:
    """Asks a server that runs in the same loop.

    `closes`: the server is to end the connection. Quart-Trio does not: it is cancelled before.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self._port)

    async def get(
        self, path: str, *fields: str, method: str = "GET", closes: bool = False
    ) -> Reply:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *fields, "", ""]
        stream = await self.connect()
        async with stream:
            await stream.send_all("\r\n".join(lines).encode())
            received = bytearray()
            while b"\r\n\r\n" not in received:
                received += await self._more(stream)
            head, _, body = bytes(received).partition(b"\r\n\r\n")
            reply = Reply.parse(head, b"")
            length = int(reply.fields.get("content-length", "0")) if method != "HEAD" else 0
            received = bytearray(body)
            while len(received) < length:
                received += await self._more(stream)
            assert len(received) == length
            if closes:
                assert not await stream.receive_some()
        return reply._replace(body=bytes(received))

    async def _more(self, stream: trio.SocketStream) -> bytes:
        data = await stream.receive_some()
        assert data, "the answer has no end"
        return bytes(data)

    async def leave(self, path: str) -> None:
        """Ask, take the first bytes, and be gone."""
        stream = await self.connect()
        async with stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await stream.receive_some(1024)


@contextlib.asynccontextmanager
async def hypercorn_with(app: Any) -> AsyncIterator[Client]:
    """Hypercorn with its trio worker; at the end it is told to stop, and does so by itself."""
    stops = trio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = HypercornConfig()
        config.bind = [f"fd://{os.dup(listener.fileno())}"]
        config.loglevel = "WARNING"
        with trio.fail_after(GUARD):
            async with trio.open_nursery() as nursery:
                serving = hypercorn.trio.serve
                trigger: Any = {"shutdown_trigger": stops.wait}
                await nursery.start(lambda **status: serving(app, config, **trigger, **status))
                yield Client(listener.getsockname()[1])
                stops.set()


@pytest.mark.parametrize("size", SIZES)
async def test_hypercorn(root: Path, size: int) -> None:
    files = StaticFiles(root)
    async with hypercorn_with(files) as client:
        reply = await client.get(f"/{size}.bin")
        assert (reply.status, reply.body) == (200, content(size))
        assert reply.fields["content-length"] == str(size)
        head = await client.get(f"/{size}.bin", method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.fields["content-length"] == str(size)
        again = await client.get(f"/{size}.bin", f"If-None-Match: {reply.fields['etag']}")
        assert (again.status, again.body) == (304, b"")
    assert files.stats.files_open == 0


async def test_a_body_by_http_2_does_not_end_the_server(root: Path) -> None:
    """Hypercorn 0.18 ends when more comes of a request that has been answered."""
    h2 = H2Connection()
    h2.initiate_connection()
    fields = [(":authority", "a"), (":scheme", "http"), (":path", "/index.html")]
    async with hypercorn_with(StaticFiles(root)) as client, await client.connect() as stream:

        async def answer(number: int) -> list[tuple[bytes, bytes]]:
            while True:
                for event in h2.receive_data(await stream.receive_some()):
                    if isinstance(event, ResponseReceived) and event.stream_id == number:
                        return list(event.headers)

        h2.send_headers(1, [(":method", "POST"), *fields])
        await stream.send_all(h2.data_to_send())
        await wait_all_tasks_blocked(0.01)
        h2.send_data(1, bytes(1000))
        await stream.send_all(h2.data_to_send())
        await wait_all_tasks_blocked(0.01)
        h2.send_data(1, bytes(1000), end_stream=True)
        await stream.send_all(h2.data_to_send())
        assert (b":status", b"405") in await answer(1)
        h2.send_headers(3, [(":method", "GET"), *fields], end_stream=True)
        await stream.send_all(h2.data_to_send())
        assert (b":status", b"200") in await answer(3)


async def test_ranges_and_errors(root: Path) -> None:
    async with hypercorn_with(StaticFiles(root)) as client:
        part = await client.get(f"/{5 * MIB}.bin", f"Range: bytes={WINDOW - 5}-{2 * WINDOW}")
        assert (part.status, part.body) == (206, content(5 * MIB)[WINDOW - 5 : 2 * WINDOW + 1])
        parts = await client.get("/index.html", "Range: bytes=0-3,10-")
        assert parts.status == 206
        assert parts.fields["content-type"].startswith("multipart/byteranges")
        assert b"\r\n\r\n<h1>\r\n" in parts.body
        assert (await client.get("/index.html", "Range: bytes=99-")).status == 416
        missing = await client.get("/nothing")
        assert (missing.status, missing.body) == (404, b"404 Not Found\n")
        assert (await client.get("/index.html", method="DELETE")).status == 405


@pytest.mark.parametrize("size", [1, WINDOW, 5 * MIB])
async def test_no_hop_for_what_is_in_memory(root: Path, hops: list[object], size: int) -> None:
    files = StaticFiles(root)
    async with hypercorn_with(files) as client:
        await client.get(f"/{size}.bin")  # the names are looked up, and those of sidecars
        hops.clear()
        for _ in range(5):
            assert (await client.get(f"/{size}.bin")).body == content(size)
        # The names in the folder are read meanwhile, and what they came in is closed in a thread.
        assert [hop for hop in hops if getattr(hop, "__name__", "") != "_close_all"] == []
        assert files.stats.opened_by_helper == 0 or files.stats.opened_cached >= 1


async def test_a_helper_reads_what_is_not(root: Path) -> None:
    files = StaticFiles(root)
    async with hypercorn_with(files) as client:
        await client.get(f"/{MIB * 5}.bin", method="HEAD")
        evict(root / f"{MIB * 5}.bin")
        before = files.stats.jobs
        assert (await client.get(f"/{MIB * 5}.bin")).body == content(MIB * 5)
        assert files.stats.jobs > before


async def test_a_client_that_leaves(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "_SWEEP", 0.01)
    files = StaticFiles(Config(root=root, revalidate=0.1, open_file_timeout=0))
    async with hypercorn_with(files) as client:
        await client.leave(f"/{5 * MIB}.bin")
        assert (await client.get("/1.bin")).status == 200
        with trio.fail_after(GUARD):
            while files.stats.files_open:
                await trio.lowlevel.checkpoint()


async def test_a_connection_that_ends_with_a_large_body(root: Path) -> None:
    """Hypercorn says that the client is gone while it is still sending the end."""
    async with hypercorn_with(StaticFiles(root)) as client:
        reply = await client.get(f"/{5 * MIB}.bin", "Connection: close", closes=True)
        assert reply.body == content(5 * MIB)


async def test_starlette(root: Path) -> None:
    """Mount does not pass the lifespan on."""

    async def hello(request: object) -> PlainTextResponse:
        return PlainTextResponse("hello")

    files = StaticFiles(root)
    opened = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with files.opened():
            yield
        opened.append(files.stats.requests)

    routes = [Route("/hello", hello), Mount("/outer", routes=[Mount("/static", app=files)])]
    async with hypercorn_with(Starlette(routes=routes, lifespan=lifespan)) as client:
        assert (await client.get("/hello")).body == b"hello"
        page = await client.get("/outer/static/")
        assert (page.status, page.body) == (200, b"<h1>index</h1>")
        folder = await client.get("/outer/static/folder?x=y")
        assert folder.fields["location"] == "folder/?x=y"
        assert (await client.get("/outer/static/hello")).status == 404
        large = await client.get(f"/outer/static/{5 * MIB}.bin")
        assert large.body == content(5 * MIB)
    assert opened == [4]


def quart_app() -> QuartTrio:
    app = QuartTrio(__name__, static_folder=None)

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.post("/index.html")
    async def posted() -> str:
        return "posted"

    return app


async def test_quart_trio_otherwise(root: Path) -> None:
    """Files where there are some, and the application for all else, on the same paths."""
    async with hypercorn_with(StaticFiles(root, otherwise=quart_app())) as client:
        assert (await client.get("/hello")).body == b"hello"
        assert (await client.get("/")).body == b"<h1>index</h1>"
        assert (await client.get("/index.html", "Content-Length: 0", method="POST")).body == (
            b"posted"
        )
        missing = await client.get("/nothing")
        assert missing.status == 404
        assert b"<title>404 Not Found</title>" in missing.body  # Quart's
        assert (await client.get(f"/{5 * MIB}.bin")).body == content(5 * MIB)


async def test_quart_trio_and_a_dispatcher(root: Path) -> None:
    """Hypercorn's dispatcher passes the lifespan on, and requests with their whole path."""
    files = StaticFiles(root)
    app = TrioDispatcherMiddleware({"/static": files, "": quart_app()})
    async with hypercorn_with(app) as client:
        assert (await client.get("/hello")).body == b"hello"
        assert (await client.get("/static/")).body == b"<h1>index</h1>"
        assert (await client.get("/static")).fields["location"] == "static/"
        assert (await client.get("/static/folder")).fields["location"] == "folder/"
