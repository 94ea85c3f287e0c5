"""Who is told of answers: the access log when one begins, the hook of a program when it ends."""

import logging
from collections.abc import Callable
from typing import NamedTuple

import trio

from ..config import Answered
from ..semantics.printable import printable

log = logging.getLogger("trio_amped.serving")
access_log = logging.getLogger("trio_amped.access")


class Begun(NamedTuple):
    """An answer under way, of which the `hook` is told at its end.

    `since`: a time of trio's; `before`: what the counter of bytes said then.
    """

    hook: Callable[[Answered], object]
    line: bytes  # of the request
    status: int
    peer: str
    since: float
    before: int

    def went_on(self, counter: int) -> "Begun":
        """The same for another counter, which begins at 0; this one says `counter`."""
        return self._replace(before=self.before - counter)

    def end(self, counter: int) -> None:
        """It has ended. What the hook raises is for the log alone."""
        method, _, rest = self.line.partition(b" ")
        target, _, version = rest.rpartition(b" ")
        if not version.startswith(b"HTTP/"):
            method = target = b""
        seconds = trio.current_time() - self.since
        try:
            sent = counter - self.before
            said = printable(method), printable(target)
            self.hook(Answered(*said, self.status, sent, seconds, self.peer))
        except Exception:
            log.exception("on_request failed")


def log_access(line: bytes, status: int, length: int | None) -> None:
    """For a request that is answered, before anything is sent.

    `length`: bytes of the body; None where that is not known yet.
    """
    if access_log.isEnabledFor(logging.DEBUG):
        shown = "-" if length is None else length
        access_log.debug("%s %d %s", printable(line), status, shown)
