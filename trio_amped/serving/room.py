"""The places for connections of a server, which the lane and the tasks share. Awaits a free one."""

import logging
import math
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from typing import Final

import trio

from ..config import Config
from ..disk.descriptors import of_connections
from ..stats import Stats

log = logging.getLogger("trio_amped.serving")

_LATE: Final = 1.0  # seconds, also for the first byte of a client
_PAUSE: Final = 0.1  # seconds between looks for idle connections, where there were none
_GIVEN: Final = 32  # connections that are closed for others in one go
_LINE: Final = 60.0  # seconds between lines of the log about clients that are refused
_NAT64: Final = IPv6Network("64:ff9b::/96")  # IPv4 clients of an IPv6 server: RFC 6052 2.1


def most_connections(config: Config) -> int:
    """Return how many connections may be open, by a config and the limits of the process."""
    return min(config.max_connections, of_connections(config.max_open_files, config.max_helpers))


def given(idle: int) -> int:
    """Return how many of so many idle connections are closed for others in one go.

    One that is closed now may be wanted soon, and to look for them takes as long for one as for
    many: an eighth, as nginx does.
    """
    return max(1, min(_GIVEN, idle // 8))


def guest_of(name: object) -> str:
    """Return whom a connection is counted for, from what getpeername(2) says; "": for nobody.

    An IPv4 address stands for itself, also where it is written as an IPv6 one. Of IPv6 one client
    is given a network of 64 bits at least (RFC 6177), so that network is counted; but for the
    link-local one, which all hosts of a link share. A UNIX socket has no address.
    """
    if not (isinstance(name, tuple) and isinstance(name[0], str)):
        return ""
    host = name[0]
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host)
    except ValueError:  # of another family, such as AF_BLUETOOTH
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    if address.is_link_local or address in _NAT64:
        return host
    return str(IPv6Network((int(address) >> 64 << 64, 64)))


class Guests:
    """Counts the connections of each client address, of which at most `most` are open.

    What is beyond is refused: closed at once, by a reset. An answer (nginx says 503 to a request)
    would hold the connection until its head has come and its answer has gone, which is what the
    client is refused; and an orderly close leaves a TIME_WAIT of a minute in the kernel for each.
    Nor does an idle connection of the same address give way: to look for one takes longer than to
    connect. `most` is None: any number, and nothing is counted.
    """

    def __init__(self, stats: Stats, most: int | None) -> None:
        self._stats = stats
        self._most = most
        self._open: dict[str, int] = {}
        self._next_line = -math.inf

    def admit(self, name: object) -> str | None:
        """Count a connection by its getpeername(2); return for whom (`leave`). None: refuse it."""
        if self._most is None or not (guest := guest_of(name)):
            return ""
        count = self._open.get(guest, 0)
        if count >= self._most:
            self._note_refusal(guest)
            return None
        self._open[guest] = count + 1
        return guest

    def leave(self, guest: str) -> None:
        """A connection that was admitted has ended."""
        if guest:
            self._open[guest] -= 1
            if not self._open[guest]:
                del self._open[guest]

    def _note_refusal(self, guest: str) -> None:
        """Count it; a line a minute, or the log would be theirs to fill."""
        self._stats.connections_refused += 1
        now = trio.current_time()
        if now >= self._next_line:
            self._next_line = now + _LINE
            refused = self._stats.connections_refused
            log.warning("%s has %d connections: %d refused so far", guest, self._most, refused)


class Room:
    """At most `most` connections are open; who has accepted another one waits with it.

    Those that are idle give way: clients that have had an answer, and those that take more than
    `late` seconds for their first byte or for a head. The `givers` are asked in their order: each
    closes some, those first that have been idle for longest, and returns whether there were any.
    """

    def __init__(self, stats: Stats, most: int, most_of_each: int | None = None) -> None:
        self._stats = stats
        self._most = most
        self.guests = Guests(stats, most_of_each)
        self._waiting = trio.lowlevel.ParkingLot()
        self.givers: list[Callable[[], bool]] = []
        self.late = _LATE
        self._next_ask = -math.inf
        self._when_empty: Callable[[], None] | None = None

    @property
    def has_place(self) -> bool:
        return self._stats.connections_open < self._most

    def enter(self) -> None:
        """A connection has come; `has_place` was asked before."""
        self._stats.connections += 1
        self._stats.connections_open += 1

    def leave(self, guest: str) -> None:
        """A connection has ended, which was counted for this `guest`."""
        self.guests.leave(guest)
        self._stats.connections_open -= 1
        self._waiting.unpark()
        self._tell_if_empty()

    def call_when_empty(self, call: Callable[[], None]) -> None:
        """Call something, which must not wait, when no connection is open; now, if none is."""
        self._when_empty = call
        self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        if self._when_empty and not self._stats.connections_open:
            self._when_empty()

    def ask(self) -> None:
        """Have idle connections closed, at once or soon."""
        now = trio.current_time()
        if now >= self._next_ask and not any(give() for give in self.givers):
            self._next_ask = now + _PAUSE

    async def wait_to_enter(self) -> None:
        """Enter when there is a place: at once, without a checkpoint, if there is one now."""
        while not self.has_place:
            self.ask()
            if not self.has_place:
                with trio.move_on_after(self.late):
                    await self._waiting.park()
        self.enter()
