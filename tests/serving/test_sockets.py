"""What the kernel is told of a connection, and what it says: in each way in which one is served."""

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fuzz.world.disk import Plan, WorldDisk
from fuzz.world.hosts import EMBEDDED, hosting
from tests.rig import GUARD
from tests.serving.cases import FILES, LARGE, PATIENT, get
from tests.serving.peers import WAYS
from tests.simulated import failure
from trio_amped import Server, handle_connection, open_sites

# ------------------------------------------------------------------ what it is told


@contextlib.asynccontextmanager
async def listening(root: Path, way: str) -> AsyncIterator[tuple[str, int]]:
    """The address of a server, or of an accept loop of our own."""
    config = replace(PATIENT, root=root, port=0, fast_lane=way == "lane")
    async with contextlib.AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        if way == EMBEDDED:
            sites = await stack.enter_async_context(open_sites(config))

            async def handle(stream: trio.SocketStream) -> None:
                await handle_connection(stream, sites)

            listeners: Any = await nursery.start(trio.serve_tcp, handle, 0)
            address = listeners[0].socket.getsockname()
            yield ("127.0.0.1", address[1])
        else:
            [address] = await nursery.start(Server(config).serve)
            yield address
        nursery.cancel_scope.cancel()


def other_end(address: object) -> socket.socket:
    """The end in this process of the connection of the client with this address."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue  # a copy of it would stay open
            sock = socket.socket(fileno=os.dup(number))
            with contextlib.suppress(OSError):
                if sock.getpeername()[:2] == address:
                    return sock
            sock.close()
    raise AssertionError("nobody has accepted it")


@pytest.mark.parametrize("door", ["lane", "tasks", EMBEDDED])
async def test_the_options_of_a_connection(door: str, tmp_path: Path) -> None:
    """No piece of an answer waits for the client's ACK of another one (Nagle), and a window of a
    file goes to the kernel in one or two calls."""
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    with trio.fail_after(GUARD):
        async with (
            listening(tmp_path, door) as address,
            await trio.open_tcp_stream(*address) as stream,
        ):
            await stream.send_all(get("/a.txt"))
            assert await stream.receive_some()
            with other_end(stream.socket.getsockname()) as sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                unsent = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
                assert unsent == 512 * 1024


# ------------------------------------------------------------------ what it says

DOORS: Final = [*WAYS, EMBEDDED]
OF_THE_CLIENT: Final = (
    *("EPIPE", "ECONNRESET", "ECONNABORTED", "ENOTCONN", "ETIMEDOUT"),
    *("EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN"),
)
OF_THE_FILE: Final = ("EIO", "ENOMEM", "EOVERFLOW", "EINVAL")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", [*OF_THE_CLIENT, *OF_THE_FILE])
async def test_sendfile_says_what_is_wrong_with_the_client_or_with_the_file(
    name: str,
    door: str,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client that is gone is nothing for the log; a file that cannot be read is."""

    def fail(*_: object) -> int:
        raise failure(getattr(errno, name))

    async with hosting(door, WorldDisk({**FILES, b"huge": LARGE}, Plan()), PATIENT) as host:
        monkeypatch.setattr(os, "sendfile", fail)
        await host.ask(get("/huge") + get("/a.txt"))
        await wait_all_tasks_blocked()
        host.check_is_idle()
    loud = [record for record in caplog.records if record.levelno >= logging.INFO]
    if name in OF_THE_CLIENT:
        assert loud == []
    else:
        [record] = loud
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith("/huge: reading failed while it was sent: ")
