"""What a helper runs in: a thread, or a process of its own. Awaits the helper's end.

Both are `async def carry(channel)`: they run helper.serve on the helper's end of a socket pair
until it ends or is cancelled, and see to it that this end is closed in our process.
"""

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable

import trio

from . import helper
from .descriptors import close
from .loading import Reader

log = logging.getLogger("trio_amped.disk")

Carrier = Callable[[socket.socket], Awaitable[None]]

# A helper process has our package without what its __init__ imports: without trio, h11 and site
# it is ready in 35 ms instead of 250, with 12 MB instead of 28 (measured, Python 3.11).
_BOOTSTRAP = """
import sys, types
package = sys.modules["trio_amped"] = types.ModuleType("trio_amped")
package.__path__ = [sys.argv.pop(1)]
from trio_amped.disk.helper import main
main()
"""
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PAUSE = 0.1  # seconds before the end of a process is waited for again
_KILL_TIMEOUT = 1.0  # seconds; a process in an uninterruptible read outlives even SIGKILL


def in_threads(limiter: trio.CapacityLimiter) -> Carrier:
    """Helpers are threads, counted by a limiter of their own: never trio's default one."""

    async def carry(channel: socket.socket) -> None:
        has_started = False

        def run() -> None:
            nonlocal has_started
            has_started = True
            helper.serve(channel, Reader().load)

        try:
            # Abandoned: a thread stuck in the kernel must not hold up the event loop. It ends
            # by itself, and closes its socket, when it finds that the other end is closed.
            await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=limiter)
        except Exception as error:
            if has_started:
                log.exception("a disk helper thread failed")
            else:  # RuntimeError: a limit of processes
                log.error("cannot start a disk helper: %s", error)
        finally:
            if not has_started:
                channel.close()

    return carry


def in_processes(limiter: trio.CapacityLimiter, niceness: int = 0) -> Carrier:
    """Helpers are processes: with them, ours can exit whatever the disk does.

    `niceness`: how far they stand back where CPU is scarce, 0 to 19; nice(2).
    trio's own open_process would take a thread of trio's default limiter to start one.
    """

    async def carry(channel: socket.socket) -> None:
        with channel:
            try:
                process = await trio.to_thread.run_sync(
                    _start, channel.fileno(), niceness, limiter=limiter
                )
            except (OSError, RuntimeError) as error:  # that of a thread: a limit of processes
                log.error("cannot start a disk helper: %s", error)
                return
        await _end_of(process)

    return carry


def _start(number: int, niceness: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, _PACKAGE, str(number), str(niceness)],
        pass_fds=[number],
        stdin=subprocess.DEVNULL,
    )


async def _end_of(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process; when cancelled, kill it."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        log.error("cannot watch a disk helper: %s", error)
        process.kill()
        _reap_later(process)
        return
    try:
        await _ended(pidfd)
    finally:
        process.kill()  # does nothing to one that has ended
        with trio.move_on_after(_KILL_TIMEOUT, shield=True) as patience:
            await _ended(pidfd)
        close(pidfd)
        if patience.cancelled_caught:  # stuck in the kernel
            _reap_later(process)
        else:
            process.wait()


async def _ended(pidfd: int) -> None:
    """Wait for the end of a process; again, where there is no memory for that, epoll_ctl(2)."""
    while True:
        try:
            return await trio.lowlevel.wait_readable(pidfd)
        except OSError as error:
            log.error("cannot watch a disk helper: %s", error)
            await trio.sleep(_PAUSE)


def _reap_later(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(RuntimeError):  # no thread: `subprocess` does it when it starts others
        trio.lowlevel.start_thread_soon(process.wait, lambda _: None)
