"""What the workers of one reading of the settings share, in their supervisor. Awaits a thread.

Listeners are here, and stay open while workers come and go: a connection that waits to be accepted
belongs to a listener, and is lost with the last process that has it open.
"""

from collections.abc import Callable

from .access_log import STDOUT, Keeper, keep
from .listening import Opened, close_all
from .reloading import Fresh
from .settings.effective import packed


class Generation:
    """The settings of workers, their listeners (a set for each seat), and their access log."""

    def __init__(self, fresh: Fresh, sets: list[list[Opened]]) -> None:
        self.config = fresh.config
        self.log_level = fresh.process.log_level
        self._settings = packed(fresh.config, fresh.process)
        self._certificates = fresh.certificates
        self.sets = sets
        self._log: Keeper | None = None

    @property
    def options(self) -> list[str]:
        """What workers are given: the settings; and their certificates, as they were checked."""
        if self._certificates is None:
            return [self._settings]
        return [self._settings, "\n", self._certificates.packed()]

    async def keep_up(self) -> None:
        """Read certificates again that have changed: workers that are started later begin with the
        last that could be used, whatever the files have by then."""
        if self._certificates is not None:
            await self._certificates.keep_up()

    async def open_log(self, on_new: Callable[[], object]) -> None:
        """Open the access log, if it is a file; `on_new`: its descriptor is another one now.

        A checkpoint. Raises OSError.
        """
        place = self.config.access_log
        if place is not None and place != STDOUT:
            self._log = await keep(place, on_new)

    @property
    def log_fd(self) -> int | None:
        """The descriptor of the access log, if it is a file."""
        return None if self._log is None else self._log.fd

    def descriptor(self) -> int:
        """Return the descriptor of the access log, which there is."""
        assert self._log is not None
        return self._log.fd

    def reopen_log(self) -> None:
        """Open the access log anew, if it is a file."""
        if self._log is not None:
            self._log.reopen()

    def close_log(self) -> None:
        """Close the access log: no worker is left to whom it could be given."""
        if self._log is not None:
            self._log.end()
            self._log = None

    def close_listeners(self) -> None:
        """Close all listeners; workers have descriptors of their own."""
        for each in self.sets:
            close_all(each)

    def close(self) -> None:
        """Close all."""
        self.close_listeners()
        self.close_log()
