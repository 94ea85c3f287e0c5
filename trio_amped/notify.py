"""Tells systemd what state the service is in, and that its event loop runs; sd_notify(3).

Own lines and no library: the protocol is one datagram, whose manual page promises that it stays and
shows these lines; a dependency would be more to look after than they are. Nothing here waits, but
`feed`.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

import trio

from .semantics.printable import printable

log = logging.getLogger("trio_amped")

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
_WATCHDOG: Final = "WATCHDOG=1"


class ServiceManager:
    """Whoever has started us and wants to know; without NOTIFY_SOCKET nobody does."""

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = _watchdog(environment, pid)

    @classmethod
    def of_this_process(cls) -> "ServiceManager":
        """Return that of this process; what it starts has the same environment, and is not heard
        unless the unit says so (NotifyAccess=)."""
        return cls(os.environ, os.getpid())

    def tell(self, state: str, status: str = "") -> None:
        """Tell a state, and a status for people; one that cannot be told is said in the log."""
        if not self._address.startswith(("/", "\0")):  # there is none, or it is of another kind
            return
        lines = [state, f"STATUS={printable(status)}"] if status else [state]
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            with socket.socket(socket.AF_UNIX, kind) as sock:
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning("the service manager cannot be told %s: %s", state, error.strerror)

    def tell_reloading(self) -> None:
        """Tell that a reload begins now; READY=1 is to follow (Type=notify-reload)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.tell(f"RELOADING=1\nMONOTONIC_USEC={now}", "reading the settings anew")

    async def feed(self) -> None:
        """Keep the watchdog quiet, twice in its time, for as long as the event loop runs."""
        if self.watchdog is None:
            return
        while True:
            self.tell(_WATCHDOG)
            await trio.sleep(self.watchdog / 2)


def _watchdog(environment: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds after which we are taken for hung; sd_watchdog_enabled(3)."""
    usec = environment.get("WATCHDOG_USEC", "")
    is_ours = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
    return int(usec) / 1e6 if is_ours and usec.isdecimal() and int(usec) > 0 else None
