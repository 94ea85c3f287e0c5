"""The places for connections of a server, which the lane and the tasks share. Awaits a free one."""

import trio

from ..stats import Stats


class Room:
    """At most `most` connections are open; who has accepted another one waits with it."""

    def __init__(self, stats: Stats, most: int) -> None:
        self._stats = stats
        self._most = most
        self._waiting = trio.lowlevel.ParkingLot()

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

    async def wait_to_enter(self) -> None:
        """Enter when there is a place: at once, without a checkpoint, if there is one now."""
        while not self.has_place:
            await self._waiting.park()
        self.enter()
