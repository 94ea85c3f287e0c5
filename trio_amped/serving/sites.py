"""For programs with an accept loop of their own: sites, and connections one by one. Awaits both."""

import contextlib
from collections.abc import AsyncIterator

import trio

from ..config import Config
from ..stats import Stats
from .connection import Connection
from .request_log import RequestLog
from .router import Router, open_router
from .transport import Pace, Turns, transport_of


class Sites:
    """What `open_sites` has opened; `stats` are its counters, which may be read at any time."""

    def __init__(
        self, config: Config, stats: Stats, router: Router, log: RequestLog | None = None
    ) -> None:
        self.config = config
        self.stats = stats
        self._routers = {tls: router.at(None, is_secure=tls) for tls in (False, True)}
        self._log = log or RequestLog(config)
        self._turns = Turns()
        self._connections: set[Connection] = set()
        self._is_draining = False

    def drain(self) -> None:
        """Have each connection end after the answer that it sends; those that are idle end now.

        What is passed to `handle_connection` from now on ends at once too (a socket: after the
        answer, if its request is there). Wait for your tasks, with the deadline that you like.
        """
        self._is_draining = True
        for connection in self._connections:
            connection.drain()

    async def _handle(self, stream: trio.abc.Stream, received: bytes) -> None:
        connection = Connection(
            transport_of(stream, Pace(self.config, self.stats), self._turns),
            self.config,
            self._routers[isinstance(stream, trio.SSLStream)],
            self.stats,
            first_deadline=trio.current_time() + self.config.head_timeout,
            log=self._log,
        )
        self.stats.connections += 1
        self.stats.connections_open += 1
        self._connections.add(connection)
        if self._is_draining:
            connection.drain()
        try:
            await connection.run(received)
        finally:
            self._connections.discard(connection)
            self.stats.connections_open -= 1


@contextlib.asynccontextmanager
async def open_sites(config: Config) -> AsyncIterator[Sites]:
    """`async with open_sites(config) as sites`: for `handle_connection`, whose calls end first.

    Entering is a checkpoint; cancelling it leaves nothing behind. Leaving closes all files and ends
    all helpers, and waits a second at most for what closes slowly. Raises OSError when a root
    cannot be used. The helpers live in a nursery: what the body raises leaves in an ExceptionGroup.
    `host`, `port`, `bind`, `trust`, `forwarded_fields`, `tls_cert`, `tls_key`, `redirect_http`,
    `max_connections`,
    `max_connections_per_address`, `fast_lane`, `drain_timeout` and `retire_timeout` mean nothing
    here.
    """
    stats, told = Stats(), RequestLog(config)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(told.opened())
        router = await stack.enter_async_context(open_router(config, stats))
        await router.introduce()
        await stack.enter_async_context(told.flushed())
        yield Sites(config, stats, router, told)


async def handle_connection(stream: trio.abc.Stream, sites: Sites, received: bytes = b"") -> None:
    """Serve one client until it or we have enough; then `stream` is closed.

    The stream is taken over: a `trio.SocketStream` is sent files from the kernel, any other (a
    `trio.SSLStream`, streams in memory) their bytes. `received`: what was read from it before.

    Always a checkpoint. When it is cancelled the connection is closed at once, and no file of it is
    left open. Raises nothing: what goes wrong with a client, its files or an application is
    answered, as far as it can be, and logged.
    """
    await sites._handle(stream, received)
    await trio.lowlevel.checkpoint()
