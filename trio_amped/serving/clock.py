"""The time, as answers and deadlines need it: asked for once, and used many times. Never waits."""

import time

import trio

from ..semantics.dates import format_date


class Clock:
    """The time of the last `update`.

    `now`: by trio's clock, for deadlines; `wall` in seconds since 1970, and `second` and `date` the
    same as a Date field says it. `moment` counts the updates: whatever was asked of the kernel in
    this moment need not be asked again for a request that was here when the moment began.
    """

    def __init__(self) -> None:
        self.moment = 0
        self.second = -1
        self.update()

    def update(self) -> None:
        """Ask for the time. A new moment begins, as it does with `moment += 1`."""
        self.moment += 1
        self.now = trio.current_time()
        self.wall = time.time()
        second = int(self.wall)
        if second != self.second:
            self.second = second
            self.date = format_date(second)
