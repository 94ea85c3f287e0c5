"""What the lane gives to a task: a connection, with what is to be done first. Pure."""

from typing import NamedTuple, Self

from ..disk.misses import Arrivals
from .clients import Whose
from .connection import Unfinished
from .entrance import Entrance
from .parked import Parked
from .wire import Wire


class Handover(NamedTuple):
    """A connection that a task of its own goes on with, and owns from here on.

    `entrance`: how it has come. `received` follows the answer that is `unfinished`.
    `first_deadline`: for the first head, if that has not come yet. `came`: what the first request
    that was received has waited for. `whose`: the connection is. `asked_at`: a time of trio's,
    since when the first request waits.
    """

    sock: Wire
    entrance: Entrance
    received: bytes
    first_deadline: float | None = None
    unfinished: Unfinished | None = None
    came: Arrivals | None = None
    whose: Whose = Whose()
    asked_at: float | None = None

    @classmethod
    def at_the_end(cls, parked: Parked) -> Self:
        """Return what a task does when the lane ends: wait for the end of the client's side, or
        answer what was received and what has just come, and say that this is the last."""
        if not parked.lingers:
            return cls(parked.sock, parked.entrance, parked.rest, None, None, None, parked.whose)
        last = Unfinished(b"", (), None, None, closes=True)
        return cls(parked.sock, parked.entrance, b"", None, last, None, parked.whose)

    @classmethod
    def to_flush(cls, parked: Parked) -> Self:
        """Return a wait until a client takes what TLS has to send before it goes on."""
        if parked.is_new:  # its first head has a deadline, whatever it waits for
            return cls(parked.sock, parked.entrance, b"", parked.deadline, None, None, parked.whose)
        unsent = Unfinished(b"", (b"",), None, None, closes=False)
        return cls(parked.sock, parked.entrance, b"", None, unsent, None, parked.whose)
