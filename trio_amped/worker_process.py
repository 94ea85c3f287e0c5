"""A worker as its supervisor sees it: a process, and a socket to it. Awaits its messages and end.

Both sides import this module. On the socket, which keeps messages apart, the supervisor says one of
the words below, and the worker sends JSON: {"serving": true} or {"unusable": [errno, text, file]},
{"alive": true} each second while its loop runs, and {"counters": ...} at its end. Each side takes
the end of the socket for the end of the other. The supervisor may have the rights of root, and a
worker is who talks to strangers: one that says anything else is killed, and replaced.
"""

import contextlib
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
from array import array
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias, TypeVar

import trio

from .stats import Stats

log = logging.getLogger("trio_amped")

_T = TypeVar("_T")
_Order: TypeAlias = tuple[bytes, Callable[[], int] | None]

DRAIN: Final = b"drain"  # Server.drain
RETIRE: Final = b"retire"  # Server.retire
STOP: Final = b"stop"  # at once
BEAT: Final = 1.0  # seconds between the messages of a worker that serves
LOG: Final = b"log"  # with a descriptor: write the access log there
REOPEN: Final = signal.SIGUSR1  # open the access log anew
STACKS: Final = signal.SIGUSR2  # a worker writes the stacks of its threads to stderr, and goes on
LARGEST: Final = 64 * 1024  # bytes of a message
# For the supervisor alone. A terminal sends them to all its processes, and so do some service
# managers: a worker that obeyed both would take the second one for "at once".
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, REOPEN)

_LASTING: Final = 10.0  # seconds of serving; a worker that ends earlier has failed
_STARTING: Final = 60  # seconds; a worker that does not serve by then is killed
_STILL: Final = 30  # seconds without a message of one that serves; the same
_LATE: Final = 5.0  # seconds beyond those that a worker has for its end; then it is killed
_PAUSE: Final = 1.0  # seconds, when the kernel had no memory
# Seconds for the stacks, then for the end; what is stuck in the kernel outlives even SIGKILL.
_KILL_TIMEOUT: Final = 1.0


class Worker:
    """One worker process, from before its start until after its end."""

    def __init__(self) -> None:
        self.is_serving = False
        self.is_settled = trio.Event()  # it serves, or never will
        self.has_process = False  # one could be started
        self.unusable: OSError | None = None  # why it cannot serve
        self.counters: Stats | None = None  # at its end
        self._lasts_at = math.inf
        self._heard = 0  # messages
        self._patience = trio.CancelScope()
        self._orders, self._given = trio.open_memory_channel[_Order](math.inf)

    def has_lasted(self) -> bool:
        """Return whether it has served for long enough to have started well."""
        return trio.current_time() >= self._lasts_at

    def tell(self, order: bytes, seconds: float) -> None:
        """Give it an order; it should have ended so many seconds later. It need not run yet."""
        self._orders.send_nowait((order, None))
        self._patience.deadline = trio.current_time() + seconds + _LATE

    def tell_log(self, descriptor: Callable[[], int]) -> None:
        """Have the access log written to the descriptor that there is when the order is sent."""
        self._orders.send_nowait((LOG, descriptor))

    def _expect_end(self) -> None:
        """It can hear no order any more: it should end soon."""
        deadline = trio.current_time() + _LATE
        self._patience.deadline = min(self._patience.deadline, deadline)

    async def run(
        self,
        name: str,
        listeners: Sequence[socket.socket],
        options: list[str],
        access_log: int | None = None,
    ) -> str:
        """Start the process, and wait until it has ended; return how.

        `access_log`: the descriptor that it writes to. Raises OSError, MemoryError: it cannot be
        started.
        """
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with trio.socket.from_stdlib_socket(ours) as channel:
                with theirs:
                    process, pidfd = _start(name, theirs, access_log, listeners, options)
                self.has_process = True
                try:
                    return f"process {process.pid} {await self._end_of(process, pidfd, channel)}"
                finally:
                    os.close(pidfd)
        finally:
            self.is_settled.set()

    async def _end_of(
        self, process: "subprocess.Popen[bytes]", pidfd: int, channel: trio.socket.SocketType
    ) -> str:
        fault = ""

        async def end_silence() -> None:
            nonlocal fault
            fault = await self._silence()
            self._patience.cancel()

        with self._patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_silence)
                nursery.start_soon(self._give_orders, channel)
                try:
                    while message := await _persistently(partial(channel.recv, LARGEST)):
                        self._hear(message)
                    self._expect_end()
                    await _ended(pidfd)
                except (ValueError, TypeError, RecursionError):
                    fault = "said what no worker says, and was killed"
                    self._patience.cancel()
                nursery.cancel_scope.cancel()
        was_late = process.poll() is None
        # It tells its stacks in the handler of the signal, however its loop stands still.
        for number in (STACKS, signal.SIGKILL):
            if process.poll() is None:  # send_signal does nothing to one that has ended
                process.send_signal(number)
                with trio.move_on_after(_KILL_TIMEOUT):
                    await _ended(pidfd)
        status = process.poll()
        if fault:
            return fault
        if was_late or status is None:
            return "had to be killed"
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    async def _give_orders(self, channel: trio.socket.SocketType) -> None:
        async for order, descriptor in self._given:
            await _persistently(partial(_send, channel, order, descriptor))

    async def _silence(self) -> str:
        """Wait until it has said nothing for too long: it does not start, or its loop stands still.

        Seconds are counted one by one: in those in which we stood still ourselves (SIGSTOP) there
        was nobody to hear it.
        """
        silent = heard = 0
        while silent <= (_STILL if self.is_serving else _STARTING):
            await trio.sleep(BEAT)
            silent, heard = silent + 1 if self._heard == heard else 0, self._heard
        if self.is_serving:
            return f"stood still for {_STILL} s, and was killed"
        return f"did not serve after {_STARTING} s, and was killed"

    def _hear(self, message: bytes) -> None:
        """Raises ValueError, TypeError, RecursionError for what no worker of ours says."""
        said = json.loads(message)
        match said:
            case {"serving": True}:
                self.is_serving = True
                self._lasts_at = trio.current_time() + _LASTING
            case {"counters": counters}:
                self.counters = Stats.of_dict(counters)
            case {"unusable": [int() | None as number, str() as text, str() | None as name]}:
                # Without a number it is a sentence for the user, such as a CertificateError.
                self.unusable = OSError(text) if number is None else OSError(number, text, name)
            case {"alive": True}:
                pass
            case _:
                raise ValueError(f"no message: {said!r}")
        self._heard += 1
        self.is_settled.set()


async def _send(
    channel: trio.socket.SocketType, order: bytes, descriptor: Callable[[], int] | None
) -> None:
    rights = array("i", [descriptor()] if descriptor else [])
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
    await channel.sendmsg([order], ancillary)


def _start(
    name: str,
    channel: socket.socket,
    access_log: int | None,
    listeners: Sequence[socket.socket],
    options: list[str],
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start a process; return it and its pidfd. Raises OSError, MemoryError.

    Not in a thread: nobody waits for a supervisor's loop.
    """
    log_fd = () if access_log is None else (access_log,)
    settings = in_memory("".join(options))
    fds = [channel.fileno(), settings, *log_fd, *(listener.fileno() for listener in listeners)]
    name += ",log" if log_fd else ""
    argv = [sys.executable, "-P", "-m", "trio_amped.worker", name, ",".join(map(str, fds))]
    # It finds the modules that we have found, and none in the current directory (-P).
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    # Blocked signals stay blocked in what is started, until it has made itself deaf to them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process = subprocess.Popen(argv, pass_fds=fds, stdin=subprocess.DEVNULL, env=environment)
    finally:
        os.close(settings)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        return process, os.pidfd_open(process.pid)
    except (OSError, MemoryError):
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # the next Popen reaps it then
            process.wait(_KILL_TIMEOUT)
        raise


def in_memory(text: str) -> int:
    """Return the descriptor of a file in memory with a text, to be read from its begin.

    The settings of some hundred sites are more than an argument can be (128 KiB, execve(2)). Keys
    may be in them. Raises OSError.
    """
    fd = os.memfd_create("trio_amped settings")
    try:
        os.fchmod(fd, 0o600)
        with open(fd, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


async def _ended(pidfd: int) -> None:
    await _persistently(partial(trio.lowlevel.wait_readable, pidfd))


async def _persistently(call: Callable[[], Awaitable[_T]]) -> _T | None:
    """Await a call; again, later, where the kernel has no memory for it; None: the other is gone.

    To wait for a descriptor takes memory as well; epoll_ctl(2).
    """
    while True:
        try:
            return await call()
        except (BrokenPipeError, ConnectionResetError):  # it ended, maybe with an order unread
            return None
        except (OSError, MemoryError) as error:
            log.error("a worker cannot be heard or told: %s", error)
            await trio.sleep(_PAUSE)
