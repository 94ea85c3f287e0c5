"""Requests that a proxy passes on, and says of each whose it is: for logs, hooks and the disk.

On virtual time over UNIX sockets, where what is sent has arrived; then by TCP.
"""

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.rig import GUARD
from tests.serving.cases import PATIENT, get
from tests.serving.client import parse
from tests.serving.test_proxied import BODY, CLOSE, EVERY_WAY, at_work, read_all
from tests.serving.test_proxied import root as root
from trio_amped import Answered, Exchange, Server
from trio_amped.binds import read_bind
from trio_amped.config import Config
from trio_amped.disk.jobs import ASKER
from trio_amped.disk.local import LocalDisk

PLAIN: Final = read_bind("fd:3")
OF: Final = "X-Forwarded-For: "


@EVERY_WAY
async def test_each_request_has_a_client_of_its_own(
    settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    """On one connection: what the lane answers, what a task sends, and what is refused."""
    wires = [
        get("/small", f"{OF}192.0.2.1"),
        get("/small", f"{OF}192.0.2.2", "X-Forwarded-Proto: https"),
        get("/small"),
        get("/large", f"{OF}192.0.2.3"),
        get("/none", f"{OF}192.0.2.4"),
        get("/small", f"{OF}192.0.2.5", method="POST"),
        get("/small", f"{OF}198.51.100.1, 192.0.2.6", "Expect: nothing"),
        get("/small", f"{OF}nonsense", CLOSE),
    ]
    async with at_work(root, PLAIN, trust=["unix"], **settings) as desk:
        stream = await desk.connect(b"".join(wires))
        answers = parse(await read_all(stream), [])
        assert [each.status for each in answers] == [200, 200, 200, 200, 404, 405, 417, 200]
        assert answers[3].body == BODY
        told = [f"192.0.2.{number}" for number in range(1, 7)]
        assert desk.peers == [*told[:2], "", *told[2:], ""]
        assert [each.scheme for each in desk.answered[:3]] == ["http", "https", "http"]
        if not settings:
            assert desk.server.stats.by_lane >= 5


@EVERY_WAY
@pytest.mark.parametrize("trust", [[], ["192.0.2.0/24"]])
async def test_from_others_the_fields_say_nothing(
    trust: list[str], settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    fields = (f"{OF}192.0.2.1", "X-Forwarded-Proto: https", "Forwarded: for=192.0.2.1")
    async with at_work(root, PLAIN, trust=trust, **settings) as desk:
        stream = await desk.connect(get("/small", *fields), get("/large", *fields, CLOSE))
        assert (await read_all(stream)).endswith(BODY)
        assert [(each.peer, each.scheme) for each in desk.answered] == [("", "http")] * 2


@EVERY_WAY
async def test_forwarded_and_nothing_else(
    settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    trust: dict[str, Any] = {"trust": ["unix"], "forwarded_fields": "forwarded"}
    theirs = "X-Forwarded-For: 198.51.100.9"  # passed on by a proxy that does not write it
    told = 'Forwarded: for=198.51.100.1, for="[2001:db8::1]:1234";proto=https'
    async with at_work(root, PLAIN, **trust, **settings) as desk:
        stream = await desk.connect(get("/small", theirs), get("/small", theirs, told, CLOSE))
        assert (await read_all(stream)).endswith(b"small")
        asked = [(each.peer, each.scheme) for each in desk.answered]
        assert asked == [("", "http"), ("2001:db8::1", "https")]


@EVERY_WAY
async def test_the_disk_is_asked_for_the_client(
    settings: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose places in the queue are bounded: not the proxy's, by which all of them come."""
    asked: list[str] = []
    fetch = LocalDisk.fetch

    async def noted(self: LocalDisk, *arguments: Any, **more: Any) -> Any:
        asked.append(ASKER.get().client)
        return await fetch(self, *arguments, **more)

    monkeypatch.setattr(LocalDisk, "fetch", noted)
    config = replace(PATIENT, root=root, port=0, trust=["127.0.0.1"], gate="always", **settings)
    async with serving(config) as (_, _, address):
        for client in ("192.0.2.1", "2001:db8::7"):
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(get(f"/none-{client}", f"{OF}{client}", CLOSE))
                assert b" 404 " in await read_all(stream)
    assert list(dict.fromkeys(asked)) == ["192.0.2.1", "2001:db8::/64"]


@EVERY_WAY
async def test_an_application_is_told(
    settings: dict[str, Any], root: Path, autojump_clock: MockClock
) -> None:
    async def tell(exchange: Exchange) -> None:
        await exchange.respond(200, [], exchange.peer.encode())

    async with at_work(root, PLAIN, trust=["unix"], fallback=tell, **settings) as desk:
        stream = await desk.connect(get("/a", f"{OF}192.0.2.1"), get("/b", f"{OF}192.0.2.2", CLOSE))
        assert [each.body for each in parse(await read_all(stream), [])] == [
            b"192.0.2.1",
            b"192.0.2.2",
        ]


# ---------------------------------------------------------------- by TCP, on the real clock


@contextlib.asynccontextmanager
async def serving(config: Config) -> AsyncIterator[tuple[Server, list[Answered], tuple[str, int]]]:
    answered: list[Answered] = []
    server = Server(replace(config, on_request=answered.append))
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve)
            assert isinstance(address, tuple)
            yield server, answered, address
            nursery.cancel_scope.cancel()


@EVERY_WAY
async def test_a_network_of_proxies(settings: dict[str, Any], root: Path) -> None:
    config = replace(PATIENT, root=root, port=0, trust=["127.0.0.0/8", "10.0.0.0/8"], **settings)
    async with serving(config) as (_, answered, address):
        async with await trio.open_tcp_stream(*address) as stream:
            request = get("/small", f"{OF}198.51.100.1, 192.0.2.1, 10.0.0.1")
            await stream.send_all(request + get("/small", CLOSE))
            assert (await read_all(stream)).endswith(b"small")
        assert [each.peer for each in answered] == ["192.0.2.1", "127.0.0.1"]


@EVERY_WAY
async def test_a_client_that_resets_is_logged_with_its_address(
    settings: dict[str, Any], root: Path
) -> None:
    """The kernel does not know it any more (getpeername(2)): it was asked before."""
    config = replace(PATIENT, root=root, port=0, **settings)
    async with serving(config) as (server, answered, address):
        with socket.create_connection(address) as client:
            await wait_all_tasks_blocked()
            while not server.stats.connections:
                await trio.lowlevel.checkpoint()
            client.sendall(get("/large") * 2)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        while server.stats.connections_open:
            await trio.lowlevel.checkpoint()
        assert {each.peer for each in answered} == {"127.0.0.1"}
