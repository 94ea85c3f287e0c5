"""Connections that a proxy forwards by the PROXY protocol: whose they are, by the lane and tasks.

On virtual time over UNIX sockets, where what is sent has arrived; whom to trust is for TCP.
"""

import contextlib
import logging
import math
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.rig import GUARD, needs
from tests.rig.tools import tool
from tests.serving.cases import PATIENT, get
from tests.serving.client import parse
from trio_amped import Answered, Config, Server
from trio_amped.binds import Bind, read_bind
from trio_amped.listening import BindListener

CLOSE: Final = "Connection: close"
BODY: Final = bytes(range(251)) * 40_000
SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL: Final = SIGNATURE + b"\x20\x00\x00\x00"
BEHIND: Final = read_bind("fd:3,proxy")
WAYS: Final[list[dict[str, Any]]] = [{}, {"fast_lane": False}]
EVERY_WAY: Final = pytest.mark.parametrize("settings", WAYS, ids=["lane", "tasks"])


def text_of(host: str) -> bytes:
    return f"PROXY TCP4 {host} 198.51.100.1 40000 80\r\n".encode()


def binary_of(host: str) -> bytes:
    """With more that the proxy tells."""
    addresses = socket.inet_aton(host) + socket.inet_aton("198.51.100.1") + b"\x9c\x40\x00\x50"
    return SIGNATURE + b"\x21\x11\x00\x13" + addresses + b"\x03\x00\x04abcd"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "large").write_bytes(BODY)
    return tmp_path


class Desk:
    """A server behind a proxy, at a UNIX socket; and what it says of its answers."""

    def __init__(self, config: Config) -> None:
        self.answered: list[Answered] = []
        self.server = Server(replace(config, on_request=self.answered.append))
        self.queue = socket.socket(socket.AF_UNIX)
        self.queue.bind("")  # Linux makes up a name
        self.queue.listen()
        self.streams: list[trio.SocketStream] = []

    async def connect(self, *sent: bytes) -> trio.SocketStream:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.connect(self.queue.getsockname())
        stream = trio.SocketStream(sock)
        self.streams.append(stream)
        for piece in sent:
            await stream.send_all(piece)
            await wait_all_tasks_blocked()
        return stream

    @property
    def peers(self) -> list[str]:
        return [each.peer for each in self.answered]


@contextlib.asynccontextmanager
async def at_work(root: Path, bind: Bind = BEHIND, **settings: Any) -> AsyncIterator[Desk]:
    """Without any thread for which the clock would not wait."""
    desk = Desk(Config(root=root, port=0, gate="never", revalidate=math.inf, **settings))
    with desk.queue:
        async with trio.open_nursery() as nursery:
            listener = BindListener(desk.queue.dup(), bind)
            await nursery.start(desk.server.serve, [listener])
            yield desk
            for stream in desk.streams:
                await stream.aclose()
            nursery.cancel_scope.cancel()
    assert desk.server.stats.connections_open == 0


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """What comes until the end, which may be a reset."""
    received = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await stream.receive_some():
            received += data
    return received


@EVERY_WAY
@pytest.mark.parametrize("header", [text_of("192.0.2.7"), binary_of("192.0.2.7")])
async def test_the_client_is_whom_the_proxy_tells(
    header: bytes, settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """For all of a connection: what the lane answers, and what a task sends."""
    async with at_work(root, **settings) as desk:
        stream = await desk.connect(header + get("/small") + get("/large"))
        async with trio.open_nursery() as nursery:
            received: list[bytes] = []

            async def receive() -> None:
                received.append(await read_all(stream))

            nursery.start_soon(receive)
            await trio.sleep(1.0)
            for path in ("/small", "/large", "/none"):
                await stream.send_all(get(path))
                await trio.sleep(1.0)
            await stream.send_all(get("/small", CLOSE))
    answers = parse(received[0], [])
    assert [each.body for each in answers[:4]] == [b"small", BODY, b"small", BODY]
    assert desk.peers == ["192.0.2.7"] * 6
    assert bool(desk.server.stats.by_lane) == (settings == {})


@EVERY_WAY
@pytest.mark.parametrize("header", [text_of("192.0.2.7"), binary_of("192.0.2.7"), LOCAL])
async def test_a_header_in_pieces(
    header: bytes, settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    pieces = [bytes([byte]) for byte in header]
    async with at_work(root, **settings) as desk:
        stream = await desk.connect(*pieces, get("/small", CLOSE))
        (answer,) = parse(await read_all(stream), [])
        assert answer.body == b"small"
        assert desk.peers == ["" if header == LOCAL else "192.0.2.7"]


@EVERY_WAY
async def test_a_proxy_that_looks_whether_we_live(
    settings: dict[str, Any],
    root: Path,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says LOCAL, and goes; or asks on its own behalf."""
    caplog.set_level(logging.WARNING)
    async with at_work(root, **settings) as desk:
        await (await desk.connect(LOCAL)).aclose()
        for header in (LOCAL, b"PROXY UNKNOWN\r\n"):
            stream = await desk.connect(header + get("/small", CLOSE))
            assert (await read_all(stream)).endswith(b"small")
        assert desk.peers == ["", ""]
    assert caplog.messages == []


@EVERY_WAY
@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (get("/small"), "no PROXY protocol header"),
        (b"PROXY TCP4 a b 1 2\r\n" + get("/small"), "with an address that is none"),
        (SIGNATURE + b"\x21\x11\xff\xff", "of more than 4096 bytes"),
        (b"\x16\x03\x01", "no PROXY protocol header"),
    ],
)
async def test_a_trusted_peer_must_tell(
    sent: bytes,
    why: str,
    settings: dict[str, Any],
    root: Path,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else the connection is ended; it is said once a minute."""
    caplog.set_level(logging.WARNING)
    async with at_work(root, **settings) as desk:
        for _ in range(3):
            assert await read_all(await desk.connect(sent)) == b""
        assert desk.answered == []
        assert desk.server.stats.connections_open == 0
        (line,) = caplog.messages
        assert line.startswith("a connection of a UNIX socket is ended: ")
        assert line.endswith(f"{why}; 1 so far")
        await trio.sleep(60.0)
        await desk.connect(sent)
        assert caplog.messages[-1].endswith("; 4 so far")


@EVERY_WAY
@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 ", LOCAL[:15], text_of("192.0.2.7")])
async def test_the_header_is_in_the_time_of_the_head(
    sent: bytes, settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """Which begins when the client comes, not when its header has come."""
    async with at_work(root, head_timeout=10.0, keep_alive_timeout=500.0, **settings) as desk:
        began = trio.current_time()
        stream = await desk.connect()
        await trio.sleep(6.0)
        if sent:
            await stream.send_all(sent)
        assert await read_all(stream) == b""
        assert 9.5 <= trio.current_time() - began <= 12.0


@EVERY_WAY
async def test_who_has_come_when_the_server_drains(
    settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """Whoever has told nothing, or a part, is let go at once; a request here is answered."""
    async with at_work(root, drain_timeout=5.0, **settings) as desk:
        silent, slow = await desk.connect(), await desk.connect(b"PROXY ")
        began = trio.current_time()
        here = await desk.connect(b"PROXY")
        with socket.socket(fileno=here.socket.detach()) as sock:  # to send without a checkpoint
            sock.send(text_of("192.0.2.7").removeprefix(b"PROXY") + get("/small"))
            desk.server.drain()
            here = trio.SocketStream(trio.socket.from_stdlib_socket(sock.dup()))
            desk.streams[-1] = here
        assert await read_all(silent) == await read_all(slow) == b""
        assert (await read_all(here)).endswith(b"small")
        assert trio.current_time() - began < 1.0


@EVERY_WAY
async def test_who_has_come_when_the_server_retires(
    settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """The header may come later, and its request is answered, as the last one."""
    async with at_work(root, **settings) as desk:
        stream = await desk.connect(b"PROXY ")
        desk.server.retire()
        await trio.sleep(5.0)
        await stream.send_all(text_of("192.0.2.7").removeprefix(b"PROXY ") + get("/small"))
        (answer,) = parse(await read_all(stream), [])
        assert answer.body == b"small"
        assert answer.closes


@EVERY_WAY
async def test_who_tells_nothing_gives_way(
    settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """To those who wait for a place, a second after it came."""
    settings = {"max_connections": 2, "head_timeout": 500.0, **settings}
    async with at_work(root, **settings) as desk:
        silent = [await desk.connect(), await desk.connect(b"PROXY TCP4")]
        began = trio.current_time()
        for _ in range(3):
            stream = await desk.connect(text_of("192.0.2.7") + get("/small", CLOSE))
            assert (await read_all(stream)).endswith(b"small")
        assert trio.current_time() - began < 10.0
        assert b"" in [await read_all(silent[0])]


@EVERY_WAY
async def test_limits_are_those_of_the_client(
    settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """And not of the proxy, by which all of them come."""
    async with at_work(root, max_connections_per_address=1, **settings) as desk:
        first = await desk.connect(text_of("192.0.2.7") + get("/small"))
        more = await desk.connect(binary_of("192.0.2.7") + get("/small", CLOSE))
        other = await desk.connect(text_of("192.0.2.8") + get("/small", CLOSE))
        assert await read_all(more) == b""
        assert (await read_all(other)).endswith(b"small")
        assert desk.server.stats.connections_refused == 1
        await first.aclose()
        await wait_all_tasks_blocked()
        again = await desk.connect(text_of("192.0.2.7") + get("/small", CLOSE))
        assert (await read_all(again)).endswith(b"small")
        assert desk.peers == ["192.0.2.7", "192.0.2.8", "192.0.2.7"]


@EVERY_WAY
async def test_the_fields_of_its_requests_say_nothing_then(
    settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    request = get("/small", "X-Forwarded-For: 192.0.2.9", CLOSE)
    async with at_work(root, trust=["unix"], **settings) as desk:
        for header in (text_of("192.0.2.7"), LOCAL):
            assert (await read_all(await desk.connect(header + request))).endswith(b"small")
        assert desk.peers == ["192.0.2.7", ""]


# ---------------------------------------------------------------- by TCP, on the real clock


@contextlib.asynccontextmanager
async def by_tcp(
    root: Path, context: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[tuple[Server, list[Answered], tuple[str, int]]]:
    """A server behind a proxy, and TLS, that trusts whom the settings name."""
    answered: list[Answered] = []
    config = replace(PATIENT, root=root, on_request=answered.append, **settings)
    server = Server(config)
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    listener: trio.abc.Listener[Any] = BindListener(sock, BEHIND)
    if context is not None:
        listener = trio.SSLListener(listener, context)
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [listener])
            yield server, answered, address
            nursery.cancel_scope.cancel()


async def told(address: tuple[str, int], *sent: bytes) -> bytes:
    """All that a client is told who sends this."""
    async with await trio.open_tcp_stream(*address) as stream:
        for piece in sent:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(piece)
        return await read_all(stream)


@EVERY_WAY
async def test_from_others_a_header_ends_the_connection(
    settings: dict[str, Any], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without one they are clients like any other."""
    caplog.set_level(logging.WARNING)
    async with by_tcp(root, trust=["192.0.2.0/24"], **settings) as (_, answered, address):
        for header in (text_of("192.0.2.7"), binary_of("192.0.2.7"), LOCAL):
            assert await told(address, header + get("/small", CLOSE)) == b""
        assert answered == []
        assert caplog.messages == [
            "a connection of 127.0.0.1 is ended: it is not trusted (--trust), and sent a PROXY "
            "protocol header; 1 so far"
        ]
        for ask in (get("/small", CLOSE), b"\r\n\r\n" + get("/small", CLOSE)):
            assert (await told(address, ask)).endswith(b"small")
        assert b"HTTP/1.1 400 " in await told(address, b"PROX", b"Y\r\n\r\n")
        assert [each.peer for each in answered[:2]] == ["127.0.0.1"] * 2


@EVERY_WAY
async def test_those_of_a_network_are_trusted(settings: dict[str, Any], root: Path) -> None:
    async with by_tcp(root, trust=["10.0.0.0/8", "127.0.0.0/8"], **settings) as (
        _,
        answered,
        address,
    ):
        assert await told(address, get("/small", CLOSE)) == b""
        header = b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n"
        assert (await told(address, header + get("/small", CLOSE))).endswith(b"small")
        assert [each.peer for each in answered] == ["2001:db8::7"]


@EVERY_WAY
@pytest.mark.parametrize("trusted", ["127.0.0.1", "192.0.2.1"])
async def test_who_has_not_told_yet_is_counted_unless_it_is_a_proxy(
    trusted: str, settings: dict[str, Any], root: Path
) -> None:
    """A trusted proxy has connections for many clients; anybody else has its own."""
    settings = {"trust": [trusted], "max_connections_per_address": 2, **settings}
    async with by_tcp(root, **settings) as (server, answered, address):
        async with contextlib.AsyncExitStack() as stack:
            silent = []
            for _ in range(4):
                with contextlib.suppress(OSError):  # refused at once: it is none for its client
                    stream = await trio.open_tcp_stream(*address)
                    silent.append(await stack.enter_async_context(stream))
            while server.stats.connections + server.stats.connections_refused < 4:
                await trio.lowlevel.checkpoint()
            is_proxy = trusted == "127.0.0.1"
            assert server.stats.connections_refused == (0 if is_proxy else 2)
            for number, stream in enumerate(silent * is_proxy, 1):
                await stream.send_all(text_of(f"192.0.2.{number}") + get("/small", CLOSE))
                assert (await read_all(stream)).endswith(b"small")
        assert [each.peer for each in answered] == [
            f"192.0.2.{number}" for number in range(1, 1 + 4 * is_proxy)
        ]


@EVERY_WAY
async def test_the_header_is_before_tls(
    settings: dict[str, Any], root: Path, of_server: ssl.SSLContext, of_client: ssl.SSLContext
) -> None:
    async with by_tcp(root, of_server, trust=["127.0.0.1"], **settings) as (_, answered, address):
        plain = await trio.open_tcp_stream(*address)
        await plain.send_all(binary_of("192.0.2.7"))
        stream = trio.SSLStream(plain, of_client, server_hostname="a.example")
        await stream.send_all(get("/small", CLOSE))
        assert (await read_all(stream)).endswith(b"small")
        assert [each.peer for each in answered] == ["192.0.2.7"]
        await stream.aclose()


HAPROXY: Final = """
defaults
    mode http
    timeout connect 600s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
frontend here
    bind fd@{number}
    default_backend there
backend there
    server one 127.0.0.1:{port} {option} check inter 50ms
"""


@needs("haproxy")
@EVERY_WAY
@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
async def test_behind_haproxy(
    option: str, settings: dict[str, Any], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It forwards two clients, whose addresses are known; and looks whether the server lives."""
    caplog.set_level(logging.WARNING)
    async with by_tcp(root, trust=["127.0.0.1"], **settings) as (server, answered, address):
        with socket.create_server(("127.0.0.1", 0)) as door:
            text = HAPROXY.format(number=door.fileno(), port=address[1], option=option)
            config = root.with_name("haproxy.cfg")
            await trio.Path(config).write_text(text)
            clients: list[str] = []
            argv = [tool("haproxy") or "haproxy", "-db", "-q", "-f", str(config)]
            process = await trio.lowlevel.open_process(argv, pass_fds=[door.fileno()])
            try:
                while server.stats.connections - len(clients) < 3:  # those that look
                    clients += ["127.0.0.7", "127.0.0.8"]
                    for client in clients[-2:]:
                        stream = await trio.open_tcp_stream(
                            *door.getsockname(), local_address=client
                        )
                        async with stream:
                            await stream.send_all(get("/small") + get("/large", CLOSE))
                            received = await read_all(stream)  # with the names in lower case
                        assert b"\r\n\r\nsmallHTTP/1.1 200 " in received
                        assert received.endswith(b"\r\n\r\n" + BODY)
            finally:
                process.kill()
                await process.wait()
    assert [each.peer for each in answered] == [each for each in clients for _ in range(2)]
    assert caplog.messages == []


@EVERY_WAY
async def test_without_the_option_a_header_is_no_request(
    settings: dict[str, Any], root: Path
) -> None:
    server = Server(replace(PATIENT, root=root, trust=["127.0.0.1"], port=0, **settings))
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve)
            assert isinstance(address, tuple)
            answer = await told(address, text_of("192.0.2.7") + get("/small", CLOSE))
            assert answer.startswith(b"HTTP/1.1 400 ")
            nursery.cancel_scope.cancel()
