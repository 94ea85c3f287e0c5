"""Starts helpers as they are needed, listens to each, and replaces those that die. Awaits."""

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import trio

from ..stats import Stats
from .carriers import Carrier
from .channels import Channel, HelperDied
from .jobs import StartClock

log = logging.getLogger("trio_amped.disk")

START_LIMIT: Final = 10.0  # seconds for a helper to start, by which deadlines are put off at most
_START_PATIENCE: Final = 1.0  # seconds for a helper to start, before another one is
_FIRST_PAUSE: Final = 0.05  # seconds before a helper that failed at once is replaced; doubles
_LONGEST_PAUSE: Final = 5.0
_SPARE: Final = 2  # helpers that are started before the first job


class Foreman(Protocol):
    """Who has work for the helpers, and hears what they say."""

    @property
    def work(self) -> int:
        """For how many helpers there is work now."""

    def be_free(self, helper: Channel) -> None:
        """A helper has started."""

    def hear(self, helper: Channel, message: bytes, received: list[int]) -> None:
        """A helper has said something. Raises HelperDied where that makes no sense."""

    def lose(self, helper: Channel, has_died: bool) -> None:
        """A helper has died, or all is at an end: nothing more is heard of it."""


class Crew:
    """At most `size` helpers, started `start_pause` seconds one after the other.

    `close` closes descriptors that nobody has asked for. `has_own_privileges`: helpers are
    processes, which keep the privileges that the program had when they were started.
    """

    def __init__(
        self,
        carry: Carrier,
        close: Callable[[int], None],
        nursery: trio.Nursery,
        stats: Stats,
        foreman: Foreman,
        *,
        size: int,
        start_pause: float,
        has_own_privileges: bool,
    ) -> None:
        self._carry = carry
        self._close = close
        self._nursery = nursery
        self._stats = stats
        self._foreman = foreman
        self._size = size
        self._start_pause = start_pause
        self._has_own_privileges = has_own_privileges
        self._stuck = 0  # do not start
        self._need = trio.lowlevel.ParkingLot()
        self._has_begun = trio.Event()  # a helper is there, or cannot start now
        self.count = 0  # of helpers, those that are being replaced included
        self.starting = 0  # helpers that will soon be there
        self.starts = StartClock()
        for _ in range(min(_SPARE, size)):
            self._add()
        nursery.start_soon(self._grow)

    def check(self) -> None:
        """Start another helper, if there is work for all."""
        if self.count < self._size:
            self._need.unpark()

    async def begun(self) -> None:
        """Wait for the first helper, for a second at most; not where none can start.

        To start one takes descriptors, which clients may have taken by then.
        """
        if self._size:
            with trio.move_on_after(_START_PATIENCE):
                await self._has_begun.wait()

    async def _grow(self) -> None:
        """Keep one helper idle, up to the bound: to start one takes longer than a job.

        One after the other, since a process that starts takes the CPU that the loop needs, and
        the GIL until its exec (5 ms measured).
        """
        while self.count < self._size:
            while self.count - self._stuck > self._foreman.work:
                await self._need.park()
            with self.starts.running():
                self._add()
                await trio.sleep(self._start_pause)

    def _add(self) -> None:
        self.count = self._stats.helpers = self.count + 1
        self._nursery.start_soon(self._employ)

    async def _employ(self) -> None:
        """Have one helper after the other, and hear what each of them says."""
        pause = _FIRST_PAUSE
        while True:
            with contextlib.suppress(HelperDied), self._new_helper() as helper:
                await self._start(helper)
                self._has_begun.set()
                self._foreman.be_free(helper)
                while True:
                    self._foreman.hear(helper, *await helper.heard())
                    pause = _FIRST_PAUSE
            self._has_begun.set()
            log.warning("a disk helper ended: another one takes its place")
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @contextlib.contextmanager
    def _new_helper(self) -> Iterator[Channel]:
        try:
            helper, theirs = self._new_channel()
        except OSError as error:
            log.error("cannot start a disk helper: %s", error)
            raise HelperDied from None
        has_died = False
        try:
            self._nursery.start_soon(self._carry, theirs)
            yield helper
        except HelperDied:
            has_died = True
            raise
        finally:
            helper.close()
            self._foreman.lose(helper, has_died)

    def _new_channel(self) -> tuple[Channel, socket.socket]:
        """A channel, and the helper's end of its socket. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            theirs.setblocking(True)  # whatever socket.setdefaulttimeout says
            return Channel(ours, self._close, self._has_own_privileges), theirs
        except OSError:
            ours.close()
            theirs.close()
            raise

    async def _start(self, helper: Channel) -> None:
        """Wait for the first word of a helper. Raises HelperDied.

        The word may never come: to fork and exec is to close descriptors, which hangs where one is
        of a file on a FUSE file system that does. So another helper is started after
        _START_PATIENCE, and after START_LIMIT this one puts off no deadline any more.
        """
        self.starting += 1
        try:
            with self.starts.running():
                if await _is_free_within(_START_PATIENCE, helper):
                    return
        finally:
            self.starting -= 1
        self._stuck += 1
        self._need.unpark()
        try:
            with self.starts.running():
                if await _is_free_within(START_LIMIT - _START_PATIENCE, helper):
                    return
            log.error("a disk helper has not started in %g s", START_LIMIT)
            await helper.is_free()
        finally:
            self._stuck -= 1


async def _is_free_within(seconds: float, helper: Channel) -> bool:
    """Return whether a helper has said that it is free in this time. Raises HelperDied."""
    with trio.move_on_after(seconds) as patience:
        await helper.is_free()
    return not patience.cancelled_caught
