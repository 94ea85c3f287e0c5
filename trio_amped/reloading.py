"""Settings that are read again while the server runs (SIGHUP), and why they cannot be used.

A thread reads and checks them, since that waits for disks and for look-ups of users. Awaits it.
"""

import dataclasses
import errno
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeAlias

import trio

from .certificates import Certificates
from .config import Config, Process
from .description import settings_of
from .listening import CannotListen
from .semantics.printable import printable

log = logging.getLogger("trio_amped")

PATIENCE: Final = 60.0  # seconds until new settings are used; or else the old ones stay
GENERATIONS: Final = 4  # of servers with older settings, or of workers in a seat, that retire
NOT_USED: Final = "the new settings cannot be used, and the old ones stay"

_CHANGEABLE: Final = frozenset({"config", "log_level"})  # of Process, without a restart


class Fresh(NamedTuple):
    """Settings that have passed all checks which need neither a server nor a listener."""

    config: Config
    process: Process
    certificates: Certificates | None


ReadAgain: TypeAlias = Callable[[], Awaitable[Fresh]]
"""Reads the settings again. Raises ValueError, OSError: why they cannot be used."""


class Reader:
    """Reads settings again; those of the process stay, but for the level of the log."""

    def __init__(self, read: Callable[[], Fresh], process: Process) -> None:
        """`read` may wait for disks. It raises ValueError, OSError."""
        self._read = read
        self._process = process
        self._thread = trio.CapacityLimiter(1)  # a disk that hangs has this one thread

    async def __call__(self) -> Fresh:
        """Return the new settings. A checkpoint. Raises ValueError, OSError."""
        try:
            fresh = await trio.to_thread.run_sync(
                self._read, abandon_on_cancel=True, limiter=self._thread
            )
        except RuntimeError as error:  # a limit of processes; pthread_create(3)
            raise ValueError(f"{error}; allow more processes, see ulimit -u") from None
        if fixed := changed_in_vain(self._process, fresh.process):
            log.warning("SIGHUP: only a restart can change %s", ", ".join(fixed))
        process = dataclasses.replace(self._process, log_level=fresh.process.log_level)
        return fresh._replace(process=process)


def changed_in_vain(old: Process, new: Process) -> list[str]:
    """Return the names of settings that differ, and hold for as long as the process lives."""
    names = [name for name in settings_of(Process) if name not in _CHANGEABLE]
    return [name for name in names if getattr(old, name) != getattr(new, name)]


def tell_refusal(error: Exception, config: Config | None) -> None:
    """Say in the log why new settings are not used; config: these, if they could be read."""
    if isinstance(error, trio.TooSlowError):
        why = f"the new settings could not be used within {PATIENCE:g} s"
    elif isinstance(error, OSError) and config is not None:
        why = explain(config, error)
    else:
        why = str(error)
    log.error("SIGHUP: %s; the old settings stay", printable(why))


def explain(config: Config, error: OSError) -> str:
    """Return what is wrong with these settings, and how to mend it."""
    if isinstance(error, CannotListen) or error.errno is None:  # a sentence, and not the kernel's
        return str(error)
    root, place = os.fspath(config.root), config.access_log
    if place is not None and error.filename == place:
        return f"cannot write the access log {place}: {error.strerror}; see --access-log"
    if error.errno == errno.EAGAIN:
        return f"cannot serve {root}: {error.strerror}; allow more processes, see ulimit -u"
    if config.sites and error.filename is not None:  # of which site it is, only the error says
        return f"cannot serve {os.fsdecode(error.filename)}: {error.strerror}; see its [[site]]"
    return f"cannot serve {root}: {error.strerror}; give a readable folder with --root"
