"""Deadlines that are fair where the whole process stands still. Never waits; watches the loop.

A process stands still while it is stopped (SIGSTOP) or its container paused. What somebody waits
for may have come meanwhile, and trio cancels before it sees that: after a stop, epoll_wait(2) is
not asked again when its time is over. Or it is about to come, as the other side stood still as
well. So whoever waits has as much time more as its deadline was found late, once.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

import trio

_TURN: Final = 0.02  # seconds; a turn of the loop that takes no longer is no reason to look


def grace(due: float, most: float) -> float:
    """Return how many seconds more there are for who looked at a deadline now, and not when `due`.

    At most `most`; 0 if the look is in time.
    """
    return min(max(trio.current_time() - due, 0.0), most)


@contextlib.contextmanager
def until(deadline: float, most: float) -> Iterator[trio.CancelScope]:
    """Cancel a block at a deadline, as `trio.move_on_at` does, but for `grace`: `most` seconds."""
    blocks, now = _lookout().blocks, trio.current_time()
    is_late = deadline < now  # before the block has begun
    with trio.CancelScope(deadline=now + grace(deadline, most) if is_late else deadline) as scope:
        if not is_late:
            blocks[scope] = most
        try:
            yield scope
        finally:
            blocks.pop(scope, None)


def within(seconds: float) -> contextlib.AbstractContextManager[trio.CancelScope]:
    """Cancel a block after so many seconds, as `trio.move_on_after` does, but for its grace."""
    return until(trio.current_time() + seconds, seconds)


class _Lookout(trio.abc.Instrument):
    """Puts off what is late before trio looks at deadlines. There only while it is needed.

    To cancel and begin again is no way: what is sent by TLS cannot be begun again.
    """

    def __init__(self) -> None:
        self.blocks: dict[trio.CancelScope, float] = {}  # those that can be put off; by how much
        self.is_there = False
        self._seen = 0.0

    def come(self) -> None:
        """See the turns of the loop from now on."""
        self.is_there = True
        self._seen = trio.current_time()
        trio.lowlevel.add_instrument(self)

    def after_io_wait(self, timeout: float) -> None:
        """See the beginning of a turn; the last one has waited for `timeout` seconds at most."""
        now, before = trio.current_time(), self._seen
        self._seen = now
        if now - before < timeout + _TURN:
            return
        if not self.blocks:
            trio.lowlevel.remove_instrument(self)
            self.is_there = False
            return
        # Those of others count as well: the loop was to wake at the first of all deadlines.
        due = now + trio.lowlevel.current_statistics().seconds_to_next_deadline
        for scope, most in list(self.blocks.items()):
            if scope.deadline <= now and (more := grace(due, most)):
                del self.blocks[scope]
                scope.deadline = now + more


_of_this_run: Final = trio.lowlevel.RunVar[_Lookout]("trio_amped.deadlines")


def _lookout() -> _Lookout:
    try:
        lookout = _of_this_run.get()
    except LookupError:
        lookout = _Lookout()
        _of_this_run.set(lookout)
    if not lookout.is_there:
        lookout.come()
    return lookout
