"""A server in this process alone: signals end it, and SIGHUP replaces it in place. Awaits both.

A new server, with the new settings, begins on the same sockets; then the old one retires. Both have
helpers, limits and caches of their own for as long as the old one has clients.
"""

import contextlib
import logging
import signal
from typing import Any, Final

import trio

from . import logs
from .config import Config
from .listening import Opened, close_all, open_binds
from .notify import READY, STOPPING, ServiceManager
from .privileges import warn_of_root
from .rebinding import beyond, rebind, shared
from .reloading import GENERATIONS, NOT_USED, PATIENCE, Fresh, ReadAgain, tell_refusal
from .serving.server import Server
from .stats import Stats
from .supervisor import DRAINING
from .terminal import Terminal
from .worker_process import REOPEN

log = logging.getLogger("trio_amped")

_TOO_MANY: Final = (
    "more than %d servers with older settings retire: the oldest finishes what it sends, at most "
    "%g s"
)


class Alone:
    """Serves in this process.

    fresh: the settings that hold. stats: the sum of the counters of all servers that have ended.
    """

    def __init__(self, fresh: Fresh, read_again: ReadAgain) -> None:
        self.stats = Stats()
        self.fresh = fresh
        self._read_again = read_again
        self._manager = ServiceManager.of_this_process()
        self._terminal = Terminal()
        self._opened: list[Opened] = []
        self._servers: list[Server] = []  # the oldest first; all but the last one retire
        self._is_asked = trio.Event()  # for new settings
        self._until_drained = trio.CancelScope()  # of what has no use from then on

    async def run(self) -> int:
        """Serve until a signal ends it; the exit status. Raises OSError like Server.serve."""
        unusable: OSError | None = None
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: close_all(self._opened))
            async with trio.open_nursery() as around:
                await around.start(self._obey_signals, around.cancel_scope)
                around.start_soon(self._manager.feed)
                async with trio.open_nursery() as self._nursery:
                    try:
                        await self._start()
                    except OSError as error:
                        unusable = error
                around.cancel_scope.cancel()
        if unusable:
            raise unusable
        return 0

    async def _start(self) -> None:
        """Raises OSError."""
        self._opened = await open_binds(self.fresh.config.binds)
        await self._begin(self.fresh, self._opened)
        warn_of_root()
        self._manager.tell(READY, "serving")
        self._nursery.start_soon(self._reload_when_asked)

    async def _begin(self, fresh: Fresh, opened: list[Opened]) -> None:
        """Have a server serve. Raises OSError."""
        server = Server(fresh.config)
        server.certificates = fresh.certificates
        listeners = [each.listener() for each in shared(opened)]
        await self._nursery.start(self._serve, server, listeners)

    async def _serve(
        self, server: Server, listeners: list[Any], *, task_status: trio.TaskStatus[Any]
    ) -> None:
        self._servers.append(server)
        try:
            await server.serve(listeners, task_status=task_status)
        finally:
            self._servers.remove(server)
            self.stats.add(server.stats)
            if not self._servers:
                self._until_drained.cancel()

    # ---------------------------------------------------------------- signals

    async def _obey_signals(
        self,
        everything: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        numbers = {signal.SIGINT, signal.SIGTERM, REOPEN}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup(1): a terminal may go away
            numbers.add(signal.SIGHUP)
        with trio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                if number == REOPEN:
                    for server in self._servers:
                        server.reopen_access_log()
                elif number != signal.SIGHUP or self._terminal.has_gone:
                    self._drain(signal.Signals(number).name)
                    break
                else:
                    self._is_asked.set()
            async for number in signals:
                if number not in (signal.SIGHUP, REOPEN):
                    everything.cancel()

    def _drain(self, cause: str) -> None:
        log.info(DRAINING, cause, self.fresh.config.drain_timeout)
        self._manager.tell(STOPPING, "finishing what is being sent")
        self._until_drained.cancel()
        close_all(self._opened)
        for server in self._servers:
            server.drain()

    # ---------------------------------------------------------------- new settings

    async def _reload_when_asked(self) -> None:
        """Several who ask meanwhile are one more: about what has changed since it began."""
        with self._until_drained:
            while True:
                await self._is_asked.wait()
                self._is_asked = trio.Event()
                self._manager.tell_reloading()
                status = await self._reload()
                self._manager.tell(READY, status)

    async def _reload(self) -> str:
        """Have a server with new settings take the place of the one that accepts; return how it
        went."""
        config: Config | None = None
        try:
            with trio.fail_after(PATIENCE), contextlib.ExitStack() as undo:
                fresh = await self._read_again()
                config = fresh.config
                [opened] = await rebind([self._opened], config.binds)
                undo.callback(close_all, beyond([opened], [self._opened]))
                await self._begin(fresh, opened)
                if self._until_drained.cancel_called:  # at this very moment
                    await trio.lowlevel.checkpoint()
                undo.pop_all()
        except (ValueError, OSError, trio.TooSlowError) as error:
            tell_refusal(error, config)
            return NOT_USED
        self._adopt(fresh, opened)
        return "serving, with new settings"

    def _adopt(self, fresh: Fresh, opened: list[Opened]) -> None:
        """The last server has these settings, and accepts: the one before retires."""
        gone = beyond([self._opened], [opened])
        self.fresh, self._opened = fresh, opened
        close_all(gone)
        log.info("SIGHUP: the new settings hold")
        logs.set_level(fresh.process.log_level)
        *retiring, before, _ = self._servers
        before.retire()
        if len(retiring) >= GENERATIONS:
            timeout = retiring[0].config.drain_timeout
            log.warning(_TOO_MANY, GENERATIONS, timeout)
            retiring[0].drain()
