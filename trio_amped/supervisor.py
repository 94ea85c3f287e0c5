"""The workers of a server that is several processes, and their listeners. Awaits their ends.

It starts them, replaces those that die, restarts all of them one by one, and ends them.
"""

import contextlib
import logging
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from . import logs
from .certificates import LOOK
from .config import Config
from .generation import Generation
from .listening import Opened, close_all, open_binds
from .notify import READY, STOPPING, ServiceManager
from .rebinding import beyond, rebind, spread_over
from .reloading import GENERATIONS, NOT_USED, PATIENCE, Fresh, ReadAgain, explain, tell_refusal
from .semantics.printable import printable
from .stats import Stats
from .terminal import Terminal
from .worker_process import DRAIN, REOPEN, RETIRE, SIGNALS, STOP, Worker

log = logging.getLogger("trio_amped")

DRAINING: Final = "%s: finishing what is being sent, at most %g s; once more stops at once"

_TOO_MANY: Final = (
    "worker %d: more than %d generations retire: the oldest finishes what it sends, at most %g s"
)
_FAILURES: Final = 5  # for each worker, while none lasts; then we give up
_FIRST_DELAY: Final = 0.1  # seconds before a worker is replaced; doubled with each failure in a row
_LAST_DELAY: Final = 5.0


class Seat:
    """The place of a worker, from 1 on."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.retiring: list[Worker] = []  # the oldest one first
        self.delay = _FIRST_DELAY  # seconds before the next one that dies is replaced
        self.renewing = trio.Lock()  # held while a restart puts another worker here


class Supervisor:
    """Serves by several workers; `stats` is the sum of their counters when they have ended."""

    def __init__(self, fresh: Fresh, workers: int, read_again: ReadAgain) -> None:
        self.stats = Stats()
        self.uncounted = 0  # workers that did not live to send their counters
        self._fresh = fresh
        self._read_again = read_again
        self._manager = ServiceManager.of_this_process()
        self._terminal = Terminal()
        self._seats = [Seat(number) for number in range(1, workers + 1)]
        self._workers: dict[Worker, Generation] = {}  # all that have not ended
        self._failures = 0  # while no worker has lasted
        self._has_served = trio.Event()
        self._restarting = trio.Lock()  # held by whoever starts all workers
        self._ending = trio.Event()
        self._reading = trio.CancelScope()  # of the settings, which has no use at the end
        self._unusable: OSError | None = None
        self._status = 0

    async def run(self) -> int:
        """Serve until a signal ends it; the exit status. Raises OSError like Server.serve."""
        with contextlib.ExitStack() as stack:
            sets = await listen(self._fresh.config, len(self._seats))
            for each in sets:
                stack.callback(close_all, each)
            self._now = await self._generation(self._fresh, sets)
            stack.callback(lambda: self._now.close())
            return await self._run()

    async def _generation(self, fresh: Fresh, sets: list[list[Opened]]) -> Generation:
        """Return what workers with these settings are started with. Raises OSError: no log."""
        generation = Generation(fresh, sets)
        await generation.open_log(lambda: self._tell_log(generation))
        return generation

    def _tell_log(self, generation: Generation) -> None:
        """Tell workers that their access log has another descriptor."""
        for worker, of_worker in self._workers.items():
            if of_worker is generation:
                worker.tell_log(generation.descriptor)

    async def _run(self) -> int:
        async with trio.open_nursery() as around:
            async with trio.open_nursery() as self._nursery:
                await around.start(self._obey_signals)
                around.start_soon(self._manager.feed)
                around.start_soon(self._keep_up)
                await self._start_all()
            around.cancel_scope.cancel()
        if self._unusable:
            raise self._unusable
        return self._status

    async def _keep_up(self) -> None:
        """Have the last certificates that could be used for workers to come, for ever."""
        while True:
            await trio.sleep(LOOK)
            await self._now.keep_up()

    async def _start_all(self) -> None:
        async with self._restarting:
            first, *others = self._seats
            first.worker = self._start(first)  # it finds out, and says, whether and how it serves
            await self._has_served.wait()
            for seat in others:
                seat.worker = self._start(seat)
            for worker in list(self._workers):
                await worker.is_settled.wait()
        if not self._ending.is_set():
            count = sum(worker.is_serving for worker in self._workers)
            log.info("%d workers serve", count)
            self._manager.tell(READY, f"{count} workers serve")

    async def _obey_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                if number == REOPEN:
                    for generation in {self._now, *self._workers.values()}:
                        generation.reopen_log()
                elif self._ending.is_set():
                    if number != signal.SIGHUP:
                        self._tell_all(STOP, lambda config: 0)
                elif number != signal.SIGHUP or self._terminal.has_gone:
                    log.info(DRAINING, signal.Signals(number).name, self._now.config.drain_timeout)
                    self._end()
                elif not self._restarting.statistics().tasks_waiting:
                    self._nursery.start_soon(self._restart)

    def _end(self, status: int = 0) -> None:
        """Accept nothing more, and let the workers finish what they send."""
        self._status = status
        self._ending.set()
        self._manager.tell(STOPPING, "finishing what is being sent")
        self._has_served.set()
        self._reading.cancel()
        self._now.close_listeners()
        self._tell_all(DRAIN, lambda config: config.drain_timeout)

    def _tell_all(self, order: bytes, seconds: Callable[[Config], float]) -> None:
        for worker, generation in self._workers.items():
            worker.tell(order, seconds(generation.config))

    def _start(
        self, seat: Seat, generation: Generation | None = None, announces: bool = False
    ) -> Worker:
        """A worker, of the present generation if none is given; only one that `announces` says at
        its start where and how it serves."""
        worker = Worker()
        self._workers[worker] = generation or self._now
        announces = announces or not self._has_served.is_set()
        self._nursery.start_soon(self._look_after, worker, seat, announces)
        self._nursery.start_soon(self._note_that_it_serves, worker)
        return worker

    async def _note_that_it_serves(self, worker: Worker) -> None:
        await worker.is_settled.wait()
        if worker.is_serving:
            self._has_served.set()

    async def _look_after(self, worker: Worker, seat: Seat, announces: bool) -> None:
        """All the life of a worker."""
        if self._ending.is_set():  # since it was to be started
            self._forget(worker)
            worker.is_settled.set()
            return
        generation = self._workers[worker]
        manner = "announce" if announces else "quiet"
        opened = generation.sets[seat.number - 1]
        name = ",".join([str(seat.number), manner, *(str(each.number) for each in opened)])
        try:
            listeners = [each.sock for each in opened]
            end = await worker.run(name, listeners, generation.options, generation.log_fd)
        except (OSError, MemoryError) as error:
            end = f"cannot be started: {error or 'out of memory'}"
        self._forget(worker)
        if worker in seat.retiring:
            seat.retiring.remove(worker)
        self._note_counters(worker)
        if worker.unusable and not self._has_served.is_set():
            self._unusable = worker.unusable
            self._end()
            return
        if worker.unusable:
            end = printable(explain(generation.config, worker.unusable))
        if worker is seat.worker and not self._ending.is_set():
            await self._replace(worker, seat, end)
        elif worker.unusable or worker.counters is None:
            log.error("worker %d: %s", seat.number, end)

    def _forget(self, worker: Worker) -> None:
        """A worker is no more, and nobody writes the access log of an older generation than ours
        when the last one of it has ended."""
        generation = self._workers.pop(worker)
        if generation is not self._now and generation not in self._workers.values():
            generation.close_log()

    def _note_counters(self, worker: Worker) -> None:
        if worker.counters is None:
            self.uncounted += 1
        else:
            self.stats.add(worker.counters)

    async def _replace(self, worker: Worker, seat: Seat, end: str) -> None:
        """Put another one in the place of one that has died, unless all of them do."""
        if worker.has_lasted():
            seat.delay = _FIRST_DELAY
        if worker.has_lasted() or any(other.has_lasted() for other in self._workers):
            self._failures = 0
        elif worker.has_process or not self._has_served.is_set():
            # Later the system may have no room for a process, but will have it again.
            self._failures += 1
        with trio.move_on_after(_LAST_DELAY):  # a successor that hangs is not waited for
            async with seat.renewing:
                pass
        if worker is not seat.worker or self._ending.is_set():
            return  # a restart was faster
        if self._failures >= _FAILURES * sum(seat.worker is not None for seat in self._seats):
            log.error("worker %d: %s", seat.number, end)
            log.error("%d workers in a row ended at once: given up", self._failures)
            self._end(status=1)
            return
        log.error("worker %d: %s; the next one in %g s", seat.number, end, seat.delay)
        with trio.move_on_after(seat.delay):
            await self._ending.wait()
        if worker is seat.worker:
            seat.delay = min(2 * seat.delay, _LAST_DELAY)
            seat.worker = self._start(seat)

    async def _restart(self) -> None:
        """Replace all workers, one by one: the old one goes on until the new one serves."""
        async with self._restarting:
            if self._ending.is_set():
                return
            self._manager.tell_reloading()
            self._reading = trio.CancelScope()
            generation = await self._read_generation()
            status = NOT_USED if generation is None else await self._renew_all(generation)
            if not self._ending.is_set():
                self._manager.tell(READY, status)

    async def _read_generation(self) -> Generation | None:
        """Read the settings again, and open what they want that is not open; None: the log says why
        they cannot be used."""
        config: Config | None = None
        try:
            with self._reading, trio.fail_after(PATIENCE), contextlib.ExitStack() as undo:
                fresh = await self._read_again()
                config = fresh.config
                sets = await rebind(self._now.sets, config.binds)
                undo.callback(close_all, beyond(sets, self._now.sets))
                generation = await self._generation(fresh, sets)
                undo.pop_all()
                return generation
        except (ValueError, OSError, trio.TooSlowError) as error:
            tell_refusal(error, config)
        return None

    async def _renew_all(self, generation: Generation) -> str:
        """Return how it went; where a successor does not serve, it ends there."""
        log.info("SIGHUP: starting the workers anew, one by one")
        for seat in self._seats:
            if not await self._renew(seat, generation):
                if generation is not self._now:
                    close_all(beyond(generation.sets, self._now.sets))
                    generation.close_log()
                return f"worker {seat.number} could not be renewed; the old ones serve"
        log.info("all workers are new")
        return f"{len(self._seats)} workers serve, all new"

    async def _renew(self, seat: Seat, generation: Generation) -> bool:
        async with seat.renewing:
            new = self._start(seat, generation, announces=seat is self._seats[0])
            await new.is_settled.wait()
            if new.is_serving and new in self._workers and not self._ending.is_set():
                self._adopt(generation)
                old, seat.worker = seat.worker, new
                if old in self._workers:
                    self._retire(old, seat)
            elif not self._ending.is_set():
                log.error("worker %d is not renewed: its successor does not serve", seat.number)
        return new is seat.worker

    def _adopt(self, generation: Generation) -> None:
        """All workers that are started from now on are of this generation, whose first serves."""
        before, self._now = self._now, generation
        close_all(beyond(before.sets, generation.sets))
        if before not in self._workers.values():
            before.close_log()
        logs.set_level(generation.log_level)

    def _retire(self, worker: Worker, seat: Seat) -> None:
        """Have a worker serve its clients to their end; and the oldest of too many end now."""
        worker.tell(RETIRE, self._workers[worker].config.retire_timeout)
        seat.retiring.append(worker)
        if len(seat.retiring) > GENERATIONS:
            oldest = seat.retiring.pop(0)
            timeout = self._workers[oldest].config.drain_timeout
            log.warning(_TOO_MANY, seat.number, GENERATIONS, timeout)
            oldest.tell(DRAIN, timeout)


async def listen(config: Config, count: int) -> list[list[Opened]]:
    """`count` times listeners for the same addresses, among which connections are spread.

    Raises CannotListen, OSError.
    """
    first = await open_binds(config.binds)
    listeners: list[list[Opened]] = []
    try:
        listeners += spread_over(count, first)
    except OSError:  # no more descriptors: the file of a UNIX socket must not stay
        for each in listeners:
            close_all(each)
        raise
    return listeners


def usable_processors(
    groups: Path = Path("/sys/fs/cgroup"), ours: Path = Path("/proc/self/cgroup")
) -> int:
    """How many this process may use at a time: its affinity, and the limits of its cgroups."""
    limit = float(len(os.sched_getaffinity(0)))
    for line in ours.read_text().splitlines():
        hierarchy, _, path = line.split(":", 2)
        if hierarchy == "0":  # the second version of cgroups
            group = Path(path.lstrip("/"))
            for each in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # the uppermost one has no limit
                    quota, period = (groups / each / "cpu.max").read_text().split()
                    limit = min(limit, int(quota) / int(period))  # ValueError: it is "max"
    return max(1, math.ceil(limit))
