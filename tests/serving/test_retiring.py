"""A server that retires, and clients by TLS: as by plain TCP (tests/test_worker.py), nobody is cut
off. On virtual time; workers have no TLS, so this is a server in a program."""

import contextlib
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.real.support import MIB, content
from tests.serving.cases import get
from tests.serving.client import Answer, parse
from trio_amped import Config, Server

Client: TypeAlias = trio.SSLStream[trio.SocketStream]

BODY: Final = content(4 * MIB)
MOMENT: Final = 0.001


class Desk:
    """A server that serves by TLS, and what its clients need to know of it.

    By UNIX sockets, where what is sent has arrived: virtual time does not wait for TCP.
    """

    def __init__(
        self,
        config: Config,
        of_server: ssl.SSLContext,
        of_client: ssl.SSLContext,
        has_plain: bool,
    ) -> None:
        self.server = Server(config)
        self._of_client = of_client
        self.ended_at = math.nan
        # As a successor has it: who comes when nobody accepts is not refused.
        self.queue = _listener()
        below = trio.SocketListener(trio.socket.from_stdlib_socket(self.queue.dup()))
        self._listeners: list[trio.abc.Listener[Any]] = [
            trio.SSLListener(below, of_server, https_compatible=True)
        ]
        if has_plain:
            plain = _listener()
            self._listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(plain)))

    async def work(self, task_status: trio.TaskStatus[Any]) -> None:
        await self.server.serve(self._listeners, task_status=task_status)
        self.ended_at = trio.current_time()

    async def connect(self) -> trio.SocketStream:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.connect(self.queue.getsockname())
        return trio.SocketStream(sock)

    async def client(self) -> Client:
        stream, name = await self.connect(), "a.example"
        return trio.SSLStream(stream, self._of_client, server_hostname=name, https_compatible=True)


Start: TypeAlias = Callable[..., contextlib.AbstractAsyncContextManager[Desk]]


def _listener() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")  # Linux makes up a name
    listener.listen()
    return listener


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "large").write_bytes(BODY)
    return tmp_path


@pytest.fixture(params=[False, True], ids=["tls", "tls and plain"])
def at_work(
    root: Path,
    of_server: ssl.SSLContext,
    of_client: ssl.SSLContext,
    request: pytest.FixtureRequest,
) -> Start:
    """Starts a server without any thread for which the clock would not wait; it ends by itself."""

    @contextlib.asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Desk]:
        config = Config(root=root, port=0, gate="never", revalidate=math.inf, **settings)
        desk = Desk(config, of_server, of_client, request.param)
        with desk.queue:
            async with trio.open_nursery() as nursery:
                await nursery.start(desk.work)
                yield desk
        assert desk.server.stats.connections_open == 0

    return start


async def ask(client: Client) -> Answer:
    """The answer to a request; the connection may go on."""
    await client.send_all(get("/small"))
    return await answer_to(client, b"small")


async def answer_to(client: Client, body: bytes) -> Answer:
    received = b""
    while not received.endswith(body[-9:]):
        data = await client.receive_some()
        assert data, "the answer has no end"
        received += data
    (answer,) = parse(received, [])
    assert answer.body == body
    return answer


async def test_who_is_there_is_served_once_more(at_work: Start, autojump_clock: MockClock) -> None:
    """Also who has not begun with the handshake; who comes later is for the successor."""
    settings = {"keep_alive_timeout": 50.0, "head_timeout": 40.0}
    async with at_work(**settings) as desk:
        silent, used, patient = [await desk.client() for _ in range(3)]
        for client in (used, patient):
            assert not (await ask(client)).closes
        await wait_all_tasks_blocked()
        retired_at = trio.current_time()
        desk.server.retire()
        late = await desk.connect()
        await trio.sleep(30.0)
        for client in (silent, used):
            assert (await ask(client)).closes
            assert await client.receive_some() == b""
            assert trio.current_time() == retired_at + 30.0
            await client.aclose()
        assert await patient.receive_some() == b""
        assert 50.0 <= trio.current_time() - retired_at <= 52.0
        await patient.aclose()
        with trio.move_on_after(MOMENT):
            raise AssertionError(await late.receive_some())
        await late.aclose()
    assert desk.ended_at - retired_at <= 52.0
    assert desk.server.stats.connections == 3


async def test_a_download_goes_on(at_work: Start, autojump_clock: MockClock) -> None:
    settings = {"drain_timeout": 1.0, "send_timeout": 100.0}
    async with at_work(**settings) as desk:
        client = await desk.client()
        await client.send_all(get("/large"))
        await wait_all_tasks_blocked()
        desk.server.retire()
        await trio.sleep(80.0)
        await answer_to(client, BODY)
        assert (await ask(client)).closes
        await client.aclose()


async def test_who_waits_for_a_place_has_an_answer(
    at_work: Start, autojump_clock: MockClock
) -> None:
    """One that has been accepted: no successor can serve it."""
    async with at_work(max_connections=1) as desk:
        busy, waiting = [await desk.client() for _ in range(2)]
        await busy.send_all(get("/large"))
        await wait_all_tasks_blocked()
        desk.server.retire()
        await answer_to(busy, BODY)
        await busy.aclose()
        assert (await ask(waiting)).closes
        await waiting.aclose()


async def test_who_asks_again_and_again_loses_no_request(
    at_work: Start, autojump_clock: MockClock
) -> None:
    """At whatever moment it retires, from the handshake on."""
    for steps in range(30):
        async with at_work() as desk, trio.open_nursery() as nursery:
            client = await desk.client()
            closes: list[bool] = []

            async def be_busy(client: Client = client, closes: list[bool] = closes) -> None:
                while not closes or not closes[-1]:
                    assert len(closes) < 100, "it is never told"
                    closes.append((await ask(client)).closes)
                await client.aclose()

            await wait_all_tasks_blocked()  # it has been accepted
            nursery.start_soon(be_busy)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            asked = len(closes)
            desk.server.retire()
        assert asked <= len(closes) <= asked + 2
    assert asked > 2
