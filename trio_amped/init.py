"""The first process of a container: an init that starts the server as its only child. Blocks.

The kernel treats process 1 of a PID namespace differently (pid_namespaces(7)): it inherits every
process whose parent has died (the helpers of a worker that was killed, what a health check leaves)
and must wait for each, or zombies fill the table of processes; and a signal for which it has no
handler does nothing, so until the server has handlers it could not be stopped. A server that waits
for all children would take the ends of its own helpers from whoever expects them. So the server
runs as a child, as under tini or `podman run --init`, where this module does nothing.
"""

import contextlib
import os
import signal
from collections.abc import MutableMapping
from typing import Final

FORWARDED: Final = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
)
"""The signals that the server is sent as well. Of all others process 1 takes no notice."""
# include/uapi/asm-generic/siginfo.h. A terminal sends ^C to all of its processes.
_SI_KERNEL: Final = 0x80
# The process that they are meant for; sd_listen_fds(3), sd_watchdog_enabled(3).
_NAMES_OF_PROCESS: Final = ("LISTEN_PID", "WATCHDOG_PID")


def leave_process_1() -> None:
    """Return at once, or, in process 1, in a child of it; process 1 ends when that child does.

    To be called before there is a thread. Raises OSError where there can be no other process.
    """
    if os.getpid() != 1:
        return
    # Blocked before there is a child: none of its signals is lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    server = os.fork()
    if server:
        os._exit(_wait_for(server))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    take_over(os.environ, os.getpid())


def take_over(environment: MutableMapping[str, str], pid: int) -> None:
    """Put this process in the place of process 1, where the environment names that."""
    for name in _NAMES_OF_PROCESS:
        if environment.get(name) == "1":
            environment[name] = str(pid)


def _wait_for(server: int) -> int:
    """Reap all children and forward signals until the server has ended; return its exit status.

    That of a server that a signal has ended is 128 and its number, as a shell has it.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2:  # a listener that was passed must close when the server closes it
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(fd)
    while True:
        received = signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
        if received.si_signo == signal.SIGCHLD:
            status = _reap(server)
            if status is not None:
                return status if status >= 0 else 128 - status
        elif received.si_code != _SI_KERNEL:
            os.kill(server, received.si_signo)


def _reap(server: int) -> int | None:
    """Wait for all children that have ended; return how the server has, if it is among them.

    One SIGCHLD may stand for several children (signal(7), standard signals do not queue).
    """
    ended = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == server:
            ended = os.waitstatus_to_exitcode(status)
