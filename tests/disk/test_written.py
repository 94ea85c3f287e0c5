"""Whichever way a file is read or sent: a writer that holds its lock stops nobody but its readers.

The lock is simulated, on an ext4 that has none: whoever reads in the event loop's thread without
RWF_NOWAIT would wait for the writer, and is found out; helpers do wait. (tests/real/test_written.py
has the lock of XFS itself.)
"""

import contextlib
import errno
import os
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import trio
import trustme

from tests.asgi.support import ZERO_COPY
from tests.asgi.support import ask as ask_application
from tests.disk.support import KIB, eventually_async
from tests.rig import GUARD, load, needs
from tests.serving.cases import PATIENT, get
from trio_amped import Server, disk
from trio_amped.asgi import StaticFiles
from trio_amped.disk import opening

pytestmark = needs("root", "loop")

Ask: TypeAlias = Callable[[], Awaitable[bytes]]
Way: TypeAlias = Callable[[Path], AbstractAsyncContextManager[Ask]]


class Writer:
    """Somebody who holds the lock of a file from `begin` to `end`.

    `refusal`: what a read with RWF_NOWAIT gets (EAGAIN: XFS; EOPNOTSUPP, lock or no lock:
    overlayfs).
    """

    def __init__(self, path: Path, refusal: int, monkeypatch: pytest.MonkeyPatch) -> None:
        found = path.stat()
        self._file = found.st_dev, found.st_ino
        self._refusal = refusal
        self._loop = threading.get_ident()
        self._has_lock = False
        self._lets_go = threading.Event()
        self.helpers_waited = 0
        self.loop_waited: list[str] = []
        self._pread, self._preadv, self._sendfile = os.pread, os.preadv, os.sendfile
        monkeypatch.setattr(os, "pread", self._pread_locked)
        monkeypatch.setattr(os, "preadv", self._preadv_locked)
        monkeypatch.setattr(os, "sendfile", self._sendfile_locked)

    def begin(self) -> None:
        self._has_lock = True

    def end(self) -> None:
        self._has_lock = False
        self._lets_go.set()

    def _wait_for_lock(self, fd: int, call: str) -> None:
        if not self._has_lock or not self._is_ours(fd):
            return
        if threading.get_ident() == self._loop:
            self.loop_waited.append(call)
            return
        self.helpers_waited += 1
        assert self._lets_go.wait(GUARD)

    def _is_ours(self, fd: int) -> bool:
        found = os.fstat(fd)
        return (found.st_dev, found.st_ino) == self._file

    def _pread_locked(self, fd: int, count: int, offset: int) -> bytes:
        self._wait_for_lock(fd, "pread")
        return self._pread(fd, count, offset)

    def _preadv_locked(self, fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if not flags & os.RWF_NOWAIT:
            self._wait_for_lock(fd, "preadv")
        elif self._is_ours(fd) and (self._has_lock or self._refusal != errno.EAGAIN):
            raise OSError(self._refusal, os.strerror(self._refusal))
        return self._preadv(fd, buffers, offset, flags)

    def _sendfile_locked(self, out: int, fd: int, offset: int, count: int) -> int:
        self._wait_for_lock(fd, "sendfile")
        return self._sendfile(out, fd, offset, count)


# ---------------------------------------------------------------- the ways


@asynccontextmanager
async def by_server(path: Path, *, lane: bool = True, tls: bool = False) -> AsyncIterator[Ask]:
    size = os.stat(path).st_size
    server = Server(replace(PATIENT, root=path.parent, fast_lane=lane))
    authority = trustme.CA()
    of_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("a.example").configure_cert(of_server)
    of_client = ssl.create_default_context()
    authority.configure_trust(of_client)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    listeners = [trio.SSLListener(listener, of_server) if tls else listener]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, listeners)
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
        if tls:
            stream = trio.SSLStream(stream, of_client, server_hostname="a.example")

        async def ask() -> bytes:
            await stream.send_all(get(f"/{path.name}"))
            received = b""
            while len(received.partition(b"\r\n\r\n")[2]) < size:
                data = await stream.receive_some()
                assert data, received[:1000]
                received += data
            return received.partition(b"\r\n\r\n")[2]

        try:
            yield ask
        finally:
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


def by_lane(path: Path) -> AbstractAsyncContextManager[Ask]:
    return by_server(path)


def by_tasks(path: Path) -> AbstractAsyncContextManager[Ask]:
    return by_server(path, lane=False)


def by_tls(path: Path) -> AbstractAsyncContextManager[Ask]:
    return by_server(path, tls=True)


@asynccontextmanager
async def by_asgi(path: Path, **more: Any) -> AsyncIterator[Ask]:
    async with StaticFiles(path.parent).opened() as files:

        async def ask() -> bytes:
            return (await ask_application(files, f"/{path.name}", **more)).body

        yield ask


def by_zero_copy(path: Path) -> AbstractAsyncContextManager[Ask]:
    return by_asgi(path, extensions={ZERO_COPY: {}})


@asynccontextmanager
async def by_reader(path: Path) -> AsyncIterator[Ask]:
    async with disk.open_gate() as gate, gate.open(path) as file:

        async def ask() -> bytes:
            return await file.read_at(0, file.size)

        yield ask


WAYS: Final[list[Way]] = [by_lane, by_tasks, by_tls, by_asgi, by_zero_copy, by_reader]


@pytest.fixture(autouse=True)
def _every_disk_has_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_READ_WITHOUT_LOCK", frozenset())


@contextlib.contextmanager
def writing(writer: Writer) -> Iterator[None]:
    writer.begin()
    try:
        yield
    finally:
        writer.end()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [100, 300 * KIB])
@pytest.mark.parametrize(
    "refusal", [errno.EAGAIN, errno.EOPNOTSUPP], ids=["XFS", "overlayfs above"]
)
async def test_helpers_wait_for_a_writer_and_the_event_loop_does_not(
    refusal: int, size: int, way: Way, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is in memory, and was written lately."""
    path, content = root / "written", os.urandom(size)
    path.write_bytes(content)
    load(path)
    writer = Writer(path, refusal, monkeypatch)
    async with way(path) as ask:
        for _ in range(3):  # as soon as it can be, an answer is kept
            assert await ask() == content
        answers: list[bytes] = []

        async def read() -> None:
            answers.append(await ask())

        async with trio.open_nursery() as nursery:
            with writing(writer):
                nursery.start_soon(read)
                await eventually_async(lambda: bool(writer.helpers_waited or writer.loop_waited))
                assert not answers
        assert answers == [content]
    assert writer.loop_waited == []
