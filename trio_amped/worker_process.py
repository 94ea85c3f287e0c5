"""A worker as its supervisor sees it: a process, and a socket to it. Awaits its messages and end.

Both sides import this module. On the socket, which keeps messages apart, the supervisor says one of
the words below, and the worker sends JSON: {"serving": true} or {"unusable": [errno, text, file]},
and {"counters": ...} at its end. Each side takes the end of the socket for the end of the other.
"""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import trio

DRAIN: Final = b"drain"  # Server.drain
RETIRE: Final = b"retire"  # the same, but another one serves the same listeners: no hurry
STOP: Final = b"stop"  # at once
RETIRING: Final = 2.0  # seconds from RETIRE to the drain
LARGEST: Final = 64 * 1024  # bytes of a message
# For the supervisor alone. A terminal sends them to all its processes, and so do some service
# managers: a worker that obeyed both would take the second one for "at once".
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_LASTING: Final = 10.0  # seconds of serving; a worker that ends earlier has failed
_LATE: Final = 5.0  # seconds beyond those that a worker has for its end; then it is killed
_KILL_TIMEOUT: Final = 1.0  # seconds; a process that is stuck in the kernel outlives even SIGKILL


class Worker:
    """One worker process, from before its start until after its end."""

    def __init__(self) -> None:
        self.is_serving = False
        self.is_settled = trio.Event()  # it serves, or never will
        self.unusable: OSError | None = None  # why it cannot serve
        self.counters: dict[str, Any] | None = None  # Stats.as_dict, at its end
        self._lasts_at = math.inf
        self._patience = trio.CancelScope()
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = trio.socket.from_stdlib_socket(ours)

    def has_lasted(self) -> bool:
        """Return whether it has served for long enough to have started well."""
        return trio.current_time() >= self._lasts_at

    def tell(self, order: bytes, seconds: float) -> None:
        """Give it an order; it should have ended so many seconds later. It need not run yet."""
        with contextlib.suppress(OSError):  # it has ended
            os.write(self._channel.fileno(), order)
        self._patience.deadline = trio.current_time() + seconds + _LATE

    async def run(self, name: str, listeners: Sequence[socket.socket], options: list[str]) -> str:
        """Start it, and wait until it has ended: how. Raises OSError: it cannot be started."""
        try:
            with self._channel:
                with self._theirs:
                    process, pidfd = self._start(name, listeners, options)
                try:
                    return f"process {process.pid} {await self._end_of(process, pidfd)}"
                finally:
                    os.close(pidfd)
        finally:
            self.is_settled.set()

    def _start(
        self, name: str, listeners: Sequence[socket.socket], options: list[str]
    ) -> tuple["subprocess.Popen[bytes]", int]:
        """The process and its pidfd. Not in a thread: nobody waits for a supervisor's loop."""
        fds = [self._theirs.fileno(), *(listener.fileno() for listener in listeners)]
        argv = [sys.executable, "-P", "-m", "trio_amped.worker", name, ",".join(map(str, fds))]
        # It finds the modules that we have found, and none in the current directory (-P).
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        # Blocked signals stay blocked in what is started, until it has made itself deaf to them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process = subprocess.Popen(
                [*argv, *options], pass_fds=fds, stdin=subprocess.DEVNULL, env=environment
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            return process, os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise

    async def _end_of(self, process: "subprocess.Popen[bytes]", pidfd: int) -> str:
        with self._patience:
            with contextlib.suppress(ConnectionResetError):  # it ended with an order unread
                while message := await self._channel.recv(LARGEST):
                    self._hear(json.loads(message))
            await trio.lowlevel.wait_readable(pidfd)
        was_late = process.poll() is None
        process.kill()  # does nothing to one that has ended
        with trio.move_on_after(_KILL_TIMEOUT):
            await trio.lowlevel.wait_readable(pidfd)
        status = process.poll()
        if was_late or status is None:
            return "had to be killed"
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def _hear(self, message: dict[str, Any]) -> None:
        if "serving" in message:
            self.is_serving = True
            self._lasts_at = trio.current_time() + _LASTING
        self.counters = message.get("counters")
        if "unusable" in message:
            self.unusable = OSError(*message["unusable"])
        self.is_settled.set()
