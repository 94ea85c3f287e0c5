"""TLS by --tls-cert and --tls-key on real sockets: by the lane and by tasks, by one process and
by workers."""

import contextlib
import http.client
import os
import re
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trustme

import trio_amped
from tests.real.support import children, eventually
from tests.rig import GUARD
from tests.rig.server import ServerProcess, running_server
from tests.serving.cases import get
from tests.serving.client import parse
from tests.serving.peers import Client, authority, client_context
from tests.serving.tls_client import DATA, TlsClient, Writer
from tests.test_certificates import Files
from trio_amped import Config

LARGE: Final = bytes(index * index % 251 for index in range(3_000_000))
CONTENT: Final = {"small": b"small", "64k": LARGE[: 64 * 1024], "large": LARGE}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = Files(tmp_path_factory.mktemp("pair"))
    kind = trustme.KeyType.ECDSA
    files.put(authority().issue_cert("a.example", "127.0.0.1", key_type=kind))
    return files


@pytest.fixture(params=["lane", "tasks"])
def config(request: pytest.FixtureRequest, root: Path, files: Files) -> Config:
    return Config(
        root=root,
        port=0,
        listing=True,
        tls_cert=files.certificate,
        tls_key=files.key,
        fast_lane=request.param == "lane",
        head_timeout=GUARD,
        keep_alive_timeout=GUARD,
        send_timeout=GUARD,
        disk_timeout=GUARD,
        drain_timeout=GUARD,
    )


@contextlib.asynccontextmanager
async def serving(config: Config) -> AsyncIterator[tuple[trio_amped.Server, Any]]:
    server = trio_amped.Server(config)
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(server.serve)
            yield server, address
            nursery.cancel_scope.cancel()
    assert server.stats.connections_open == 0


async def connect(address: Any, context: ssl.SSLContext) -> Client:
    stream = TlsClient(await trio.open_tcp_stream(*address), context)
    await stream.shake_hands()
    return Client(stream)


async def answer_to(client: Client) -> tuple[int, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += await client.receive(1)
    (head,) = parse(received, [b"HEAD"])
    return head.status, await client.receive(int(head.headers["content-length"]))


async def test_files_listings_ranges_and_errors(config: Config) -> None:
    """What the lane sends, what it gives to a task, and what it gets back."""
    async with serving(config) as (server, address):
        client = await connect(address, client_context())
        for _ in range(2):
            for name, content in CONTENT.items():
                await client.send(get(f"/{name}"))
                assert await answer_to(client) == (200, content)
            await client.send(get("/large", "Range: bytes=100000-2899999"))
            assert await answer_to(client) == (206, LARGE[100_000:2_900_000])
            await client.send(get("/folder/"))
            status, listing = await answer_to(client)
            assert (status, b"<html" in listing) == (200, True)
            await client.send(get("/missing"))
            assert (await answer_to(client))[0] == 404
        await client.send(get("/small", "Connection: close"))
        assert (await client.receive_all()).endswith(b"small")
        assert isinstance(client.stream, TlsClient)
        assert client.stream.notified
        await client.stream.aclose()
        assert bool(server.stats.by_lane) == config.fast_lane


async def test_a_client_that_reads_late_gets_every_byte(config: Config) -> None:
    async with serving(config) as (server, address):
        client = await connect(address, client_context())
        await client.send(get("/large") + get("/64k") + get("/small"))
        while not server._connections:  # until the kernel's buffers are full, and a task waits
            await trio.lowlevel.checkpoint()
        for name in ("large", "64k", "small"):
            assert await answer_to(client) == (200, CONTENT[name])
        await client.stream.aclose()


async def test_requests_in_one_record_or_in_many(config: Config) -> None:
    async with serving(config) as (_, address):
        client = await connect(address, client_context())
        assert isinstance(client.stream, TlsClient)
        await client.send(get("/small") * 40)
        for _ in range(40):
            assert await answer_to(client) == (200, b"small")
        for byte in get("/small") * 2:
            client.stream.ssl.write(bytes([byte]))
        await client.stream.stream.send_all(client.stream.said())
        for _ in range(2):
            assert await answer_to(client) == (200, b"small")
        await client.stream.aclose()


async def test_key_updates(config: Config, tmp_path: Path) -> None:
    """Of the client, between requests, and while an answer is sent that it does not read."""
    context, keylog = client_context(), tmp_path / "secrets"
    context.keylog_filename = str(keylog)
    async with serving(config) as (_, address):
        client = await connect(address, context)
        assert isinstance(client.stream, TlsClient)
        writer = Writer(keylog)
        for name in ("small", "large", "small"):
            updates = b"".join(writer.key_update(wants_one=True) for _ in range(5))
            request = writer.record(DATA, get(f"/{name}"))
            await client.stream.stream.send_all(updates + request)
            await client.stream.stream.send_all(writer.key_update(wants_one=True))
            assert await answer_to(client) == (200, CONTENT[name])
        await client.stream.aclose()


@pytest.mark.parametrize("says", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\0\x05hello"])
async def test_what_is_no_handshake_is_closed(says: bytes, config: Config) -> None:
    async with serving(config) as (server, address):
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(says)
        assert b"HTTP/" not in await Client(stream).receive_all()
        await stream.aclose()
        client = await connect(address, client_context())
        await client.send(get("/small"))
        assert await answer_to(client) == (200, b"small")
        await client.stream.aclose()
        assert server.stats.requests == 1


@pytest.mark.parametrize("together", [True, False])
async def test_the_header_of_a_proxy_is_before_the_handshake(
    together: bool, config: Config
) -> None:
    answered: list[trio_amped.Answered] = []
    config = replace(
        config,
        port=8000,
        bind=["127.0.0.1:0,proxy"],
        trust=["127.0.0.1"],
        on_request=answered.append,
    )
    async with serving(config) as (_, address):
        plain = await trio.open_tcp_stream(*address)
        header = b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n"
        stream = TlsClient(plain, client_context())
        if together:
            with pytest.raises(ssl.SSLWantReadError):
                stream.ssl.do_handshake()
            header += stream.said()
        await plain.send_all(header)
        await stream.shake_hands()
        client = Client(stream)
        for name in ("small", "large"):
            await client.send(get(f"/{name}"))
            assert await answer_to(client) == (200, CONTENT[name])
        await stream.aclose()
    assert {each.peer for each in answered} == {"192.0.2.7"}


async def test_clients_that_shake_hands_and_go(config: Config) -> None:
    async with serving(config) as (server, address):
        for _ in range(5):
            client = await connect(address, client_context())
            await client.stream.aclose()
            await (await trio.open_tcp_stream(*address)).aclose()
        is_empty = trio.Event()
        server._room.call_when_empty(is_empty.set)
        await is_empty.wait()
        assert server.stats.connections == 10


async def test_it_drains(config: Config) -> None:
    """The idle are told the end, and what is being sent is sent to its end."""
    async with trio.open_nursery() as nursery:
        server = trio_amped.Server(config)
        [address] = await nursery.start(server.serve)
        idle, silent = (
            await connect(address, client_context()),
            await trio.open_tcp_stream(*address),
        )
        busy = await connect(address, client_context())
        await busy.send(get("/large"))
        await busy.receive(1000)
        server.drain()
        assert await idle.receive_all() == b""
        assert isinstance(idle.stream, TlsClient)
        assert idle.stream.notified
        assert (await busy.receive_all()).endswith(LARGE[-1000:])
        assert await Client(silent).receive_all() == b""
        for each in (idle, busy):
            await each.stream.aclose()
        await silent.aclose()


# ------------------------------------------------------------------ by processes


def get_once(server: ServerProcess, path: str) -> bytes:
    context = client_context()
    connection = http.client.HTTPSConnection(
        "127.0.0.1", server.port, timeout=GUARD, context=context
    )
    with contextlib.closing(connection):
        connection.request("GET", path)
        return bytes(connection.getresponse().read())


@pytest.fixture(params=[(), ("--workers", "2"), ("--no-fast-lane",)], ids=["one", "two", "tasks"])
def server(request: pytest.FixtureRequest, root: Path, files: Files) -> Iterator[ServerProcess]:
    with running_server(*files.options, *request.param, root=root) as server:
        yield server


def test_a_server(server: ServerProcess) -> None:
    for name, content in CONTENT.items():
        assert get_once(server, f"/{name}") == content
    assert server.url.startswith("https://")
    assert server.stop() == 0


def test_workers_keep_what_they_have_where_the_next_ones_cannot_use_it(
    root: Path, files: Files
) -> None:
    with running_server(*files.options, "--workers", "2", root=root) as server:
        server.wait_for_log("2 workers serve")
        files.key.write_bytes(b"")
        server.process.send_signal(signal.SIGHUP)
        pair = re.escape(f"{files.certificate}, {files.key}; see --tls-cert and --tls-key")
        why = f"no certificate and key in PEM: {pair}; the old settings stay$"
        server.wait_for_log(f"ERROR +SIGHUP: {why}")
        assert get_once(server, "/small") == CONTENT["small"]


@pytest.mark.parametrize("asks", [False, True], ids=["silent", "after a SIGHUP"])
def test_a_worker_that_is_replaced_has_the_pair_that_was_checked(
    asks: bool, root: Path, files: Files
) -> None:
    """Half of a renewal is on the disk, or it never gets any further."""
    with running_server(*files.options, "--workers", "2", root=root) as server:
        server.wait_for_log("2 workers serve")
        files.put_certificate(authority().issue_cert("a.example", "127.0.0.1"))
        if asks:
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_log("SIGHUP: the key .* is not that of .*; the old settings stay$")
        before = children(server.pid)
        for victim in before:
            os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(set(children(server.pid)) - set(before)) == 2)
        assert get_once(server, "/small") == CONTENT["small"]  # it waits for whoever is next
        assert server.stop() == 0
        ends = [line for line in server.log if re.search(r"ERROR +worker \d:", line)]
        assert len(ends) == 2
        assert all("was killed by SIGKILL" in line for line in ends)
