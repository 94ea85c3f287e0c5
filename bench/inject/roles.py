"""The processes and threads whose system calls fail, and what makes them busy. Blocks."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from bench.inject.load import Client, Site
from tests.rig import ServerProcess
from trio_amped.disk.listings import HELPERS as LISTERS

_RECVMSG: Final = 47  # its number on x86-64, by which a helper that waits for an order is known
_SUPERVISED: Final = 20.0  # seconds for what a supervisor does
_MOST_HELPERS: Final = 2
_THREADS: Final = ("--helpers", "thread", "--max-helpers", str(_MOST_HELPERS))
_PROCESSES: Final = ("--helpers", "process", "--max-helpers", str(_MOST_HELPERS))


class Role(NamedTuple):
    """A process or thread. `stir` makes it do all that it does, at most so many `times`."""

    name: str
    options: tuple[str, ...]
    find: Callable[[ServerProcess], int]
    stir: Callable[[ServerProcess, Client, Site], None]
    times: int = 6
    follows: bool = False  # what it starts is looked at as well
    without: tuple[str, ...] = ()  # calls

    @property
    def most_children(self) -> int:
        """The most helper processes: where one is slow to start, another one is started beside."""
        return LISTERS + (_MOST_HELPERS if "process" in self.options else 0)


def children(pid: int) -> list[int]:
    """The processes that any thread of a process has started, the first one first.

    Without those that have ended: `subprocess` reaps those of a failed start at the next one.
    """
    found: list[str] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return sorted(each for each in map(int, found) if not _has_ended(each))


def _has_ended(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def _main(server: ServerProcess) -> int:
    return server.pid


def _first_child(server: ServerProcess) -> int:
    return children(server.pid)[0]


def _helper_of_files(server: ServerProcess) -> int:
    return _by_niceness(server)[0]


def _helper_of_listings(server: ServerProcess) -> int:
    return _by_niceness(server)[-1]


def _by_niceness(server: ServerProcess) -> list[int]:
    """Helper processes of files, and then those that list folders, which are nicer."""

    def niceness(pid: int) -> int:
        return os.getpriority(os.PRIO_PROCESS, pid)

    def have_started() -> bool:
        return len({niceness(pid) for pid in children(server.pid)}) == 2

    until(have_started)
    return sorted(children(server.pid), key=niceness)


def _waiting_helper(server: ServerProcess) -> int:
    for task in sorted(map(int, os.listdir(f"/proc/{server.pid}/task"))):
        call = Path(f"/proc/{server.pid}/task/{task}/syscall").read_text().split()[0]
        if call == str(_RECVMSG):
            return task
    raise LookupError("no helper waits for an order")


def _log_thread(server: ServerProcess) -> int:
    """The first thread that the main one has started."""
    return sorted(map(int, os.listdir(f"/proc/{server.pid}/task")))[1]


def _visits(server: ServerProcess, client: Client, site: Site) -> None:
    client.visit(site)


def _lose_helpers(server: ServerProcess, client: Client, site: Site) -> None:
    """Have helpers started, while there is work for them."""
    for pid in children(server.pid)[::3]:  # one of files, and one that lists folders
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    client.visit(site)


def _lose_and_restart(server: ServerProcess, client: Client, site: Site) -> None:
    """Have a dead worker replaced, and then all of them."""
    before = children(server.pid)
    with suppress(ProcessLookupError):
        os.kill(before[-1], signal.SIGKILL)
    until(lambda: len(set(children(server.pid)) - {before[-1]}) == len(before))
    client.visit(site)
    restart(server)


def restart(server: ServerProcess) -> bool:
    """Ask a supervisor for new workers; return whether it has made them."""

    def told() -> int:
        return sum("all workers are new" in line for line in server.log)

    before = told()
    with suppress(ProcessLookupError):
        server.process.send_signal(signal.SIGHUP)
    return until(lambda: told() > before or server.process.poll() is not None) and told() > before


def until(is_so: Callable[[], bool], seconds: float = _SUPERVISED) -> bool:
    """Look again and again; return whether it has become so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# trio's threads and signal handlers wake the event loop by it: what that costs is trio's.
_WAKE: Final = ("sendto",)

ROLES: Final = (
    Role("event loop", _THREADS, _main, _visits),
    Role("thread helper", _THREADS, _waiting_helper, _visits),
    Role("log thread", (*_THREADS, "--log-level", "debug"), _log_thread, _visits),
    Role("event loop with helper processes", _PROCESSES, _main, _lose_helpers),
    Role("helper process", _PROCESSES, _helper_of_files, _visits),
    Role("listing helper", _PROCESSES, _helper_of_listings, _visits),
    Role(
        "helper processes that start", _PROCESSES, _main, _lose_helpers, follows=True, without=_WAKE
    ),
    Role("worker", (*_THREADS, "--confine"), _first_child, _visits),
    Role(
        "supervisor",
        (*_THREADS, "--workers", "2"),
        _main,
        _lose_and_restart,
        times=1,
        without=_WAKE,
    ),
)
