"""The places for connections of a server, which the lane and the tasks share. Awaits a free one."""

import math
from collections.abc import Callable
from typing import Final

import trio

from ..config import Config
from ..disk.descriptors import of_connections
from ..stats import Stats

_LATE: Final = 1.0  # seconds, also for the first byte of a client
_PAUSE: Final = 0.1  # seconds between looks for idle connections, where there were none
_GIVEN: Final = 32  # connections that are closed for others in one go


def most_connections(config: Config) -> int:
    """Return how many connections may be open, by a config and the limits of the process."""
    return min(config.max_connections, of_connections(config.max_open_files, config.max_helpers))


def given(idle: int) -> int:
    """Return how many of so many idle connections are closed for others in one go.

    One that is closed now may be wanted soon, and to look for them takes as long for one as for
    many: an eighth, as nginx does.
    """
    return max(1, min(_GIVEN, idle // 8))


class Room:
    """At most `most` connections are open; who has accepted another one waits with it.

    Those that are idle give way: clients that have had an answer, and those that take more than
    `late` seconds for their first byte or for a head. The `givers` are asked in their order: each
    closes some, those first that have been idle for longest, and returns whether there were any.
    """

    def __init__(self, stats: Stats, most: int) -> None:
        self._stats = stats
        self._most = most
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

    def leave(self) -> None:
        """A connection has ended."""
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
