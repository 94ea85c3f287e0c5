"""The pool: one job for the same misses, bounded, and no helper's death is the end of a job.

The helpers here are in the test's own hands: it takes an order from a helper's socket and
answers it there, so that nothing depends on a thread or on the time.
"""

import array
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import pairwise, product
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.disk.support import children, descriptors, eventually_async, serving
from tests.rig import needs
from trio_amped.disk.descriptors import Closer, Descriptor
from trio_amped.disk.jobs import Asker, Job, Mount, Place, Result, Sequel, admit, asking
from trio_amped.disk.messages import FREE, MAX_MESSAGE, Operation, Order, Reply
from trio_amped.disk.pool import HelperPool
from trio_amped.stats import Stats

pytestmark = needs("root", "loop")


DONE = Reply(0)


class Hand:
    """A helper whose every move the test makes."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.received: list[int] = []
        self._number = 0
        self._death = trio.Event()
        self.last_deed: Callable[[], object] = lambda: None  # in the step in which it ends

    def start(self) -> None:
        """Say that it has started."""
        self.channel.send(FREE)

    async def live(self) -> None:
        with self.channel:
            await self._death.wait()
            self.last_deed()

    def take(self) -> Order | None:
        """The order that has arrived, if any."""
        try:
            message, ancillary, _, _ = self.channel.recvmsg(
                MAX_MESSAGE, socket.CMSG_SPACE(16), socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return None
        except ConnectionResetError:
            message = b""
        if not message:  # it was given up
            return None
        for _, _, data in ancillary:
            self.received += array.array("i", data)
        self._number, order = Order.unpack(message)
        return order

    def answer(self, reply: Reply = DONE, *descriptors: int) -> None:
        """Answer the order that was taken last."""
        self.forget()
        socket.send_fds(self.channel, [reply.pack(self._number)], descriptors)

    def hand_over(self, path: Path, reply: Reply) -> None:
        """Answer, with a descriptor of this file."""
        with path.open("rb") as file:
            self.answer(reply, file.fileno())

    def forget(self) -> None:
        while self.received:
            os.close(self.received.pop())

    def die(self) -> None:
        self.forget()
        self._death.set()


class Hands:
    """A pool, and all of its helpers in the order in which they were started."""

    pool: HelperPool

    def __init__(self, nursery: trio.Nursery, closer: Closer, starts_at_once: bool) -> None:
        self.starts_at_once = starts_at_once
        self.helpers: list[Hand] = []
        self.stats = Stats()
        self.nursery = nursery
        self.closer = closer
        self.began = trio.current_time()

    async def carry(self, channel: socket.socket) -> None:
        helper = Hand(channel)
        if self.starts_at_once:
            helper.start()
        self.helpers.append(helper)
        await helper.live()

    async def working(self) -> list[tuple[Hand, Order]]:
        """The helpers that have a new order, when everything has come to rest."""
        await wait_all_tasks_blocked()
        taken = [(helper, helper.take()) for helper in self.helpers if helper.channel.fileno() >= 0]
        return [(helper, order) for helper, order in taken if order]

    async def the_order(self) -> tuple[Hand, Order]:
        (found,) = await self.working()
        return found


@asynccontextmanager
async def a_pool(
    size: int = 4,
    queue: int = 8,
    patience: float = 1e6,
    start_pause: float = 0,
    starts_at_once: bool = True,
    has_own_privileges: bool = True,
    devices: Sequence[int] = (),
) -> AsyncIterator[Hands]:
    closer = Closer()
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        hands = Hands(nursery, closer, starts_at_once)
        hands.pool = HelperPool(
            hands.carry,
            closer,
            nursery,
            hands.stats,
            size=size,
            queue=queue,
            timeout=patience,
            start_pause=start_pause,
            has_own_privileges=has_own_privileges,
            devices=devices,
        )
        try:
            with trio.fail_after(10_000):  # it may be virtual time
                await wait_all_tasks_blocked()
                yield hands
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
        hands.pool.close()
    for helper in hands.helpers:
        helper.forget()
    while not closer._idle.is_set():  # no deadline: virtual time would pass before a thread's
        await closer._idle.wait()
    if failure:
        raise failure
    assert hands.stats.helpers_busy == 0


def load(number: int = 0) -> Order:
    return Order(Operation.LOAD, offset=number, length=1)


async def taken(job: Job) -> Result:
    """The result of a job, once it is there."""
    await job.wait()
    return job.take()


@contextmanager
def a_descriptor(root: Path) -> Iterator[Descriptor]:
    (root / "file").touch()
    descriptor = Descriptor(os.open(root / "file", os.O_RDONLY))
    yield descriptor
    descriptor.release()


# ---------------------------------------------------------------- orders and answers


async def test_an_order_goes_out_with_its_descriptor_and_the_answer_comes_back(root: Path) -> None:
    async with a_pool() as hands:
        with a_descriptor(root) as descriptor:
            job = hands.pool.submit(Order(Operation.READ, b"", 5, 7), descriptor)
            assert hands.stats.jobs == 1
        helper, order = await hands.the_order()
        assert order == Order(Operation.READ, b"", 5, 7)
        (received,) = helper.received
        assert os.readlink(f"/proc/self/fd/{received}") == str(root / "file")
        assert hands.stats.helpers_busy == 1
        helper.answer(Reply(0, b"content"))
        assert await taken(job) == Result(b"content")
        job.drop()
        assert hands.stats.helpers_busy == 0
        assert descriptors(root) == [], "the job had a hold on it, and let go"


async def test_an_error_comes_back() -> None:
    async with a_pool() as hands:
        job = hands.pool.submit(load())
        helper, _ = await hands.the_order()
        helper.answer(Reply(errno.ENOSPC))
        with pytest.raises(OSError, match="No space left") as caught:
            await taken(job)
        assert caught.value.errno == errno.ENOSPC
        job.drop()


async def test_a_descriptor_comes_back(root: Path) -> None:
    (root / "file").touch()
    async with a_pool() as hands:
        job = hands.pool.submit(Order(Operation.OPEN, b"file"))
        helper, _ = await hands.the_order()
        helper.hand_over(root / "file", Reply(0, b"facts"))
        result = await taken(job)
        job.drop()
        fd = result.descriptor.fd
        assert result.content == b"facts"
        assert os.readlink(f"/proc/self/fd/{fd}") == str(root / "file")
        assert not os.get_inheritable(fd)
        result.descriptor.release()
        await eventually_async(lambda: descriptors(root) == [])


async def test_the_answer_is_an_io_event() -> None:
    """It arrives on a socket that trio waits for: nothing enters the loop by another way."""
    woken = []

    class Watcher(trio.abc.Instrument):
        def after_io_wait(self, timeout: float) -> None:
            woken.append(trio.lowlevel.current_statistics().run_sync_soon_queue_size)

    async with a_pool(size=1) as hands:
        (helper,) = hands.helpers
        job = hands.pool.submit(load())
        await hands.the_order()
        statistics = trio.lowlevel.current_statistics().io_statistics
        assert statistics.tasks_waiting_read == 2, "the one that trio has, and a helper's"
        trio.lowlevel.add_instrument(watcher := Watcher())
        helper.answer()
        await job.wait()
        trio.lowlevel.remove_instrument(watcher)
        job.drop()
        assert set(woken) == {0}


# ---------------------------------------------------------------- one job for the same misses


async def test_the_same_misses_are_one_job(root: Path) -> None:
    async with a_pool() as hands:
        with a_descriptor(root) as descriptor:
            jobs = [hands.pool.submit(load(), descriptor, key="window") for _ in range(5)]
            other = hands.pool.submit(load(1), descriptor, key="another")
        assert len(set(map(id, jobs))) == 1
        assert (hands.stats.jobs, hands.stats.coalesced) == (2, 4)
        first, second = sorted(await hands.working(), key=lambda found: found[1].offset)
        assert [first[1], second[1]] == [load(0), load(1)], "two orders for six"
        first[0].answer(Reply(0, b"one"))
        for job in jobs:
            assert await taken(job) == Result(b"one")
            job.drop()
        second[0].answer()
        await other.wait()
        other.drop()
        assert descriptors(root) == []


async def test_what_is_done_is_done_anew_the_next_time() -> None:
    async with a_pool() as hands:
        for number in (0, errno.EIO, 0):
            job = hands.pool.submit(load(), key="window")
            helper, _ = await hands.the_order()
            helper.answer(Reply(number))
            await job.wait()
            job.drop()
        assert (hands.stats.jobs, hands.stats.coalesced) == (3, 0)


async def test_jobs_without_a_key_are_not_shared() -> None:
    async with a_pool() as hands:
        jobs = [hands.pool.submit(load()) for _ in range(2)]
        for helper, _ in await hands.working():
            helper.answer()
        for job in jobs:
            await job.wait()
            job.drop()
        assert (hands.stats.jobs, hands.stats.coalesced) == (2, 0)


async def test_a_job_that_was_given_up_can_be_joined() -> None:
    """Before it was begun, and while it is under way."""
    async with a_pool(size=1) as hands:
        busy = hands.pool.submit(load(0), key=0)
        helper, _ = await hands.the_order()
        busy.drop()
        assert hands.pool.submit(load(0), key=0) is busy
        waiting = hands.pool.submit(load(1), key=1)
        waiting.drop()
        assert hands.pool.submit(load(1), key=1) is waiting
        for job in (busy, waiting):
            helper.answer()
            assert await taken(job) == Result(b"")
            job.drop()
            await hands.working()


# ---------------------------------------------------------------- sent at once


async def test_an_idle_helper_has_the_order_at_once() -> None:
    """Before anything else runs: nobody has to be woken up for it."""
    async with a_pool() as hands:
        job = hands.pool.submit(load(5))
        taken_by = [order for helper in hands.helpers if (order := helper.take())]
        assert taken_by == [load(5)]
        assert hands.stats.helpers_busy == 1
        job.drop()


async def test_helpers_take_turns() -> None:
    """Who has just answered may still be closing what it has handed over."""
    async with a_pool(size=2) as hands:
        turns = []
        for number in range(4):
            job = hands.pool.submit(load(number))
            helper, _ = await hands.the_order()
            turns.append(hands.helpers.index(helper))
            helper.answer()
            await taken(job)
            job.drop()
        assert turns in ([0, 1, 0, 1], [1, 0, 1, 0])


# ---------------------------------------------------------------- what follows an answer


async def test_a_helper_that_closes_slowly_has_no_job(root: Path) -> None:
    """On FUSE its close of what it has handed over can hang: its second reply says when."""
    (root / "file").touch()
    async with a_pool(size=1, queue=1) as hands:
        first = hands.pool.submit(Order(Operation.OPEN, b"file"))
        helper, _ = await hands.the_order()
        helper.hand_over(root / "file", Reply(0, b"facts", is_first=True))
        result = await taken(first)
        first.drop()
        result.descriptor.release()
        jobs = [hands.pool.submit(load(number)) for number in range(2)]  # one more than the queue
        with pytest.raises(BlockingIOError):
            hands.pool.submit(load(2))
        assert await hands.working() == []
        assert hands.stats.helpers_busy == 1
        helper.answer(DONE)
        assert await hands.the_order() == (helper, load(0))
        for job in jobs:
            job.drop()


async def test_a_helper_that_dies_while_it_closes(autojump_clock: MockClock, root: Path) -> None:
    (root / "file").touch()
    async with a_pool(size=1) as hands:
        job = hands.pool.submit(Order(Operation.OPEN, b"file"))
        helper, _ = await hands.the_order()
        helper.hand_over(root / "file", Reply(0, b"facts", is_first=True))
        (await taken(job)).descriptor.release()
        job.drop()
        helper.die()
        await trio.sleep(1)
        assert hands.stats.helpers_busy == 0
        assert await hands.working() == [], "nothing is done twice"
        assert (await answered(hands, load())).content == b""


async def answered(hands: Hands, order: Order, place: Place = 0) -> Result:
    """The result of an order that is answered by whoever has it."""
    job = hands.pool.submit(order, place=place)
    helper, _ = (await hands.working())[-1]
    helper.answer()
    return await hands.pool.result(job)


LOADING = load(7)


def then_load(result: Result) -> Sequel | None:
    return Sequel(LOADING, result.descriptor, "window") if result.descriptors else None


def opened_then_loaded(hands: Hands) -> Job:
    return hands.pool.submit(Order(Operation.OPEN, b"file"), what_follows=then_load)


async def opened_and_loading(hands: Hands, path: Path) -> tuple[Job, Hand]:
    """An order whose answer has been taken, while the helper still does the rest of it."""
    job = opened_then_loaded(hands)
    helper, _ = await hands.the_order()
    helper.hand_over(path, Reply(0, b"facts", is_first=True))
    (await taken(job)).descriptor.release()
    return job, helper


async def test_the_rest_of_an_order_is_a_job_that_others_join(root: Path) -> None:
    """Those who need no more than the answer go on before that."""
    (root / "file").touch()
    async with a_pool(size=1) as hands:
        job, helper = await opened_and_loading(hands, root / "file")
        rest = hands.pool.submit(load(7), key="window")
        assert rest is job.sequel
        assert not rest.is_done
        assert (hands.stats.jobs, hands.stats.coalesced) == (1, 1)
        job.drop()
        helper.answer(Reply(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            await taken(rest)
        rest.drop()
        await eventually_async(lambda: descriptors(root) == [])
        assert hands.stats.helpers_busy == 0


async def test_the_rest_of_an_order_that_nobody_joins(root: Path) -> None:
    (root / "file").touch()
    async with a_pool(size=1) as hands:
        job = opened_then_loaded(hands)
        helper, _ = await hands.the_order()
        job.drop()
        helper.hand_over(root / "file", Reply(0, b"facts", is_first=True))
        await wait_all_tasks_blocked()
        assert len(descriptors(root)) == 1, "it is being loaded"
        helper.answer()
        await wait_all_tasks_blocked()
        await eventually_async(lambda: descriptors(root) == [])
        assert not hands.pool._shared


async def test_the_rest_of_an_order_that_somebody_else_does(root: Path) -> None:
    """Who comes later joins the one that was begun first."""
    (root / "file").touch()
    async with a_pool(size=2) as hands:
        first = hands.pool.submit(load(7), key="window")
        loader, _ = await hands.the_order()
        job, helper = await opened_and_loading(hands, root / "file")
        job.drop()
        assert hands.pool.submit(load(7), key="window") is first
        helper.answer()
        await wait_all_tasks_blocked()
        assert not first.is_done
        loader.answer()
        for _ in range(2):
            await taken(first)
            first.drop()


async def test_a_helper_that_dies_over_the_rest(autojump_clock: MockClock, root: Path) -> None:
    """The answer stands; the rest is done by another one, if somebody waits for it."""
    (root / "file").touch()
    async with a_pool(size=1) as hands:
        for is_wanted in (True, False):
            job = opened_then_loaded(hands)
            helper, _ = (await hands.working())[-1]
            helper.hand_over(root / "file", Reply(0, b"facts", is_first=True))
            (await taken(job)).descriptor.release()
            job.drop()
            rest = hands.pool.submit(LOADING, key="window") if is_wanted else None
            helper.die()
            await trio.sleep(1)
            if rest:
                assert [order for _, order in await hands.working()] == [LOADING]
                hands.helpers[-1].answer()
                await taken(rest)
                rest.drop()
        assert await hands.working() == []
        await eventually_async(lambda: descriptors(root) == [])


async def test_a_second_answer_hands_nothing_over(autojump_clock: MockClock, root: Path) -> None:
    (root / "file").touch()
    async with a_pool(size=1) as hands:
        job, helper = await opened_and_loading(hands, root / "file")
        job.drop()
        rest = hands.pool.submit(LOADING, key="window")
        helper.hand_over(root / "file", DONE)
        await trio.sleep(1)
        other, order = await hands.the_order()
        assert (other is helper, order) == (False, LOADING)
        other.answer()
        await taken(rest)
        rest.drop()
        await eventually_async(lambda: descriptors(root) == [])


# ---------------------------------------------------------------- many who wait


async def test_each_has_a_descriptor_of_its_own(root: Path) -> None:
    """One descriptor, which is closed with the last one who has it."""
    (root / "file").touch()
    async with a_pool() as hands:
        jobs = [hands.pool.submit(Order(Operation.OPEN, b"file"), key="file") for _ in range(3)]
        helper, _ = await hands.the_order()
        helper.hand_over(root / "file", Reply(0, b"facts"))
        results = [await hands.pool.result(job) for job in jobs]
        assert len({result.descriptor.fd for result in results}) == 1
        for result in results:
            assert len(descriptors(root)) == 1
            result.descriptor.release()
        await eventually_async(lambda: descriptors(root) == [])


async def test_who_is_cancelled_cancels_nobody(root: Path) -> None:
    (root / "file").touch()
    async with a_pool() as hands:
        scopes = [trio.CancelScope() for _ in range(3)]
        results: list[Result] = []

        async def wait(scope: trio.CancelScope) -> None:
            job = hands.pool.submit(Order(Operation.OPEN, b"file"), key="file")
            with scope:
                results.append(await hands.pool.result(job))

        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(wait, scope)
            helper, _ = await hands.the_order()
            scopes[0].cancel()
            await wait_all_tasks_blocked()
            helper.hand_over(root / "file", Reply(0, b"facts"))
        assert [result.content for result in results] == [b"facts"] * 2
        for result in results:
            result.descriptor.release()
        await eventually_async(lambda: descriptors(root) == [])


async def test_each_has_its_own_deadline(autojump_clock: MockClock) -> None:
    """And the answer in that moment is for those whose time is not over."""
    async with a_pool(size=1, patience=10) as hands:
        said: list[tuple[float, str]] = []

        async def wait(delay: float) -> None:
            await trio.sleep(delay)
            job = hands.pool.submit(load(), key="window")
            try:
                await hands.pool.result(job)
                said.append((round(trio.current_time() - start, 3), "done"))
            except TimeoutError:
                said.append((round(trio.current_time() - start, 3), "late"))

        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for delay in (0, 0, 3, 6):
                nursery.start_soon(wait, delay)
            await trio.sleep(14)
            helper, _ = await hands.the_order()
            helper.answer()
        assert said == [(10, "late"), (10, "late"), (13, "late"), (14, "done")]


async def test_who_comes_after_the_end(root: Path) -> None:
    async with a_pool() as hands:
        hands.nursery.cancel_scope.cancel()
        hands.pool.close()
        with trio.CancelScope(shield=True):
            job = hands.pool.submit(load())
            with pytest.raises(OSError, match="canceled"):
                await hands.pool.result(job)


# ---------------------------------------------------------------- bounds


async def test_two_helpers_are_started_ahead_and_one_is_kept_idle() -> None:
    async with a_pool(size=4) as hands:
        assert (len(hands.helpers), hands.stats.helpers) == (2, 2)
        jobs = []
        for number in range(5):
            jobs.append(hands.pool.submit(load(number)))
            await wait_all_tasks_blocked()
            assert len(hands.helpers) == hands.stats.helpers
            assert hands.stats.helpers_busy == min(number + 1, 4)
            idle = hands.stats.helpers - hands.stats.helpers_busy
            assert idle == 1 or hands.stats.helpers == 4
        for _ in jobs:
            for helper, _order in await hands.working():
                helper.answer()
        for job in jobs:
            await job.wait()
            job.drop()
        assert hands.stats.helpers == 4


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 1), (2, 2), (3, 2)])
async def test_not_more_are_started_than_allowed(size: int, expected: int) -> None:
    async with a_pool(size=size) as hands:
        assert len(hands.helpers) == hands.stats.helpers == expected


async def test_a_burst_gets_all_helpers() -> None:
    """Many misses in one turn of the loop: no job waits while there is room for a helper."""
    async with a_pool(size=6) as hands:
        jobs = [hands.pool.submit(load(number)) for number in range(6)]
        begun = await hands.working()
        for helper, _ in begun:
            helper.answer()
        for job in jobs:
            job.drop()
        assert len(begun) == 6


async def test_the_queue_is_bounded() -> None:
    async with a_pool(size=1, queue=2) as hands:
        jobs = [hands.pool.submit(load(0), key=0)]
        await wait_all_tasks_blocked()
        jobs += [hands.pool.submit(load(1), key=1), hands.pool.submit(load(2), key=2)]
        with pytest.raises(BlockingIOError):
            hands.pool.submit(load(3), key=3)
        with pytest.raises(BlockingIOError):
            hands.pool.submit(load(3))
        jobs += [hands.pool.submit(load(2), key=2)]  # to join one takes no place
        assert (hands.stats.jobs, hands.stats.coalesced) == (3, 1)
        for number in range(3):
            helper, order = await hands.the_order()
            assert order == load(number), "first come, first served"
            helper.answer()
        for job in jobs:
            await job.wait()
            job.drop()
        hands.pool.submit(load(3), key=3).drop()


async def test_jobs_ahead_of_need_leave_room() -> None:
    async with a_pool(size=2, queue=8) as hands:
        jobs = [hands.pool.submit(load(number)) for number in range(2)]
        await wait_all_tasks_blocked()
        jobs += [hands.pool.submit(load(number), is_ahead=True) for number in (2, 3)]
        with pytest.raises(BlockingIOError):
            hands.pool.submit(load(4), is_ahead=True)
        jobs += [hands.pool.submit(load(number)) for number in range(4, 10)]
        with pytest.raises(BlockingIOError):
            hands.pool.submit(load(10))
        for job in jobs:
            job.drop()


async def test_jobs_ahead_of_need_leave_room_in_a_short_queue() -> None:
    async with a_pool(size=4, queue=2) as hands:
        jobs: list[Job] = []
        try:
            for number in range(4):
                jobs.append(hands.pool.submit(load(number)))
                await wait_all_tasks_blocked()
            with suppress(BlockingIOError):
                for number in range(4, 10):
                    jobs.append(hands.pool.submit(load(number), is_ahead=True))
            jobs.append(hands.pool.submit(load(10)))
        finally:
            for job in jobs:
                job.drop()


# ---------------------------------------------------------------- who has gone away


async def test_a_job_that_nobody_waits_for_is_not_begun(root: Path) -> None:
    async with a_pool(size=1) as hands:
        first = hands.pool.submit(load(0))
        helper, _ = await hands.the_order()
        with a_descriptor(root) as descriptor:
            dropped = hands.pool.submit(load(1), descriptor, key=1)
        wanted = hands.pool.submit(load(2))
        dropped.drop()
        assert descriptors(root), "it is still in the queue"
        helper.answer()
        await first.wait()
        first.drop()
        assert await hands.the_order() == (helper, load(2))
        assert descriptors(root) == []
        assert dropped.is_done
        again = hands.pool.submit(load(1), key=1)
        assert again is not dropped
        helper.answer()
        await wanted.wait()
        wanted.drop()
        await hands.the_order()
        helper.answer()
        await again.wait()
        again.drop()


async def test_a_cancelled_waiter_leaves_nothing_behind(root: Path) -> None:
    """Neither its descriptor, nor the one that comes back too late."""
    async with a_pool() as hands:
        with a_descriptor(root) as descriptor:
            job = hands.pool.submit(Order(Operation.OPEN, b"file"), descriptor)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(job.wait)
                helper, _ = await hands.the_order()
                scope.cancel()
        job.drop()
        helper.hand_over(root / "file", Reply(0, b"facts"))
        await wait_all_tasks_blocked()
        await hands.closer.finish()
        assert job.is_done
        assert descriptors(root) == []


async def test_cancelled_when_the_answer_is_there(root: Path) -> None:
    (root / "file").touch()
    async with a_pool() as hands:
        job = hands.pool.submit(Order(Operation.OPEN, b"file"))
        helper, _ = await hands.the_order()
        helper.hand_over(root / "file", Reply(0, b"facts"))
        await job.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            await job.wait()
        assert scope.cancelled_caught
        assert len(descriptors(root)) == 1
        job.drop()
        await eventually_async(lambda: descriptors(root) == [])


async def test_the_end_of_the_pool_ends_all_jobs(root: Path) -> None:
    with a_descriptor(root) as descriptor:
        async with a_pool(size=1) as hands:
            jobs = [hands.pool.submit(load(number), descriptor, key=number) for number in range(3)]
            await hands.the_order()
            jobs[0].drop()
        for job in jobs:
            assert job.is_done
            with pytest.raises(OSError, match="canceled"):
                await taken(job)
        assert len(descriptors(root)) == 1
    assert descriptors(root) == []


async def test_a_disk_that_does_not_answer(autojump_clock: MockClock, root: Path) -> None:
    """The waiter goes on; the job, which is under way, lets go of all when its answer comes."""
    async with a_pool(size=1, patience=30) as hands:
        with a_descriptor(root) as descriptor:
            job = hands.pool.submit(Order(Operation.OPEN, b"file"), descriptor)
        start = trio.current_time()
        with pytest.raises(TimeoutError, match="the disk does not answer") as caught:
            await hands.pool.result(job)
        assert caught.value.errno == errno.ETIMEDOUT
        assert trio.current_time() - start == pytest.approx(30)
        assert hands.stats.helpers_busy == 1
        helper, _ = await hands.the_order()
        helper.hand_over(root / "file", Reply(0, b"facts"))
        await eventually_async(lambda: descriptors(root) == [])
        assert hands.stats.helpers_busy == 0


# ---------------------------------------------------------------- helpers that start slowly

TIMEOUT = 0.2  # seconds for the disk
LIMIT = 10.0  # seconds for a helper to start


class Outcome:
    """What has become of a job, and when, from the moment at which somebody began to wait."""

    def __init__(self, hands: Hands, order: Order, key: Hashable = None) -> None:
        self._pool, self._job = hands.pool, hands.pool.submit(order, key=key)
        self.begin = trio.current_time()
        self.said = ""
        self.seconds = 0.0
        hands.nursery.start_soon(self._wait)

    async def _wait(self) -> None:
        try:
            result = await self._pool.result(self._job)
            self.said = result.content.decode()
        except TimeoutError as error:
            self.said = str(error.strerror)
        self.seconds = trio.current_time() - self.begin

    async def is_late_after(self, seconds: float, why: str = "the disk does not answer") -> None:
        """Wait for the deadline, and see that it was in time, and says why."""
        await trio.sleep(self.begin + seconds + 60 - trio.current_time())
        assert self.said == why
        assert self.seconds == pytest.approx(seconds)


async def test_the_start_of_a_helper_is_not_held_against_the_disk(
    autojump_clock: MockClock,
) -> None:
    async with a_pool(size=1, patience=TIMEOUT, starts_at_once=False) as hands:
        outcome = Outcome(hands, load())
        await trio.sleep(LIMIT - 0.1)
        assert outcome.said == ""
        hands.helpers[0].start()
        helper, _ = await hands.the_order()
        await trio.sleep(TIMEOUT - 0.1)
        helper.answer(Reply(0, b"content"))
        await wait_all_tasks_blocked()
        assert outcome.said == "content"


@pytest.mark.parametrize("start", [0.0, 0.1, 5.0])
async def test_the_disk_has_its_time_after_a_slow_start(
    start: float, autojump_clock: MockClock
) -> None:
    async with a_pool(size=1, patience=TIMEOUT, starts_at_once=False) as hands:
        outcome = Outcome(hands, load())
        await trio.sleep(start)
        hands.helpers[0].start()
        await outcome.is_late_after(start + TIMEOUT)


@pytest.mark.parametrize("size", [2, 4])
async def test_a_hung_disk_has_no_more_time_than_that(size: int, autojump_clock: MockClock) -> None:
    """Whether more helpers could be started or not, and also for a job that waits for one."""
    async with a_pool(size=size, patience=TIMEOUT) as hands:
        for outcome in [Outcome(hands, load(number)) for number in range(5)]:
            await outcome.is_late_after(TIMEOUT)
        await Outcome(hands, load(9)).is_late_after(TIMEOUT)


@pytest.mark.parametrize("stood", [0.5, 3600.0])
async def test_the_disk_has_its_time_although_the_process_stood_still(
    stood: float, mock_clock: MockClock
) -> None:
    """Stopped or suspended beyond the deadline: what the disk says meanwhile is heard later."""
    async with a_pool(size=1, patience=TIMEOUT) as hands:
        outcome = Outcome(hands, load())
        helper, _ = await hands.the_order()
        await wait_all_tasks_blocked()
        mock_clock.jump(TIMEOUT + stood)
        await wait_all_tasks_blocked()
        assert outcome.said == ""
        helper.answer(Reply(0, b"content"))
        await wait_all_tasks_blocked()
        assert outcome.said == "content"
        outcome = Outcome(hands, load())  # and the next one has no more than that
        await wait_all_tasks_blocked()
        mock_clock.jump(TIMEOUT)
        await wait_all_tasks_blocked()
        assert outcome.said == "the disk does not answer"


async def test_a_disk_that_hangs_afterwards_is_given_up_all_the_same(mock_clock: MockClock) -> None:
    async with a_pool(size=1, patience=TIMEOUT) as hands:
        outcome = Outcome(hands, load())
        await wait_all_tasks_blocked()
        for seconds in (TIMEOUT + 3600, TIMEOUT):
            assert outcome.said == ""
            mock_clock.jump(seconds)
            await wait_all_tasks_blocked()
        assert outcome.said == "the disk does not answer"


async def test_another_start_is_no_more_time_for_a_job_under_way(autojump_clock: MockClock) -> None:
    async with a_pool(size=3, patience=TIMEOUT) as hands:
        hands.starts_at_once = False  # those that come
        outcomes = [Outcome(hands, load(number)) for number in range(3)]
        await wait_all_tasks_blocked()
        assert [helper.take() is None for helper in hands.helpers] == [False, False, True]
        for outcome in outcomes[:2]:
            await outcome.is_late_after(TIMEOUT)


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_a_helper_that_never_starts(
    size: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is waited for so long and no longer, by all together, and then the error says so."""
    why = "no disk helper has started"
    async with a_pool(size=size, patience=TIMEOUT, starts_at_once=False) as hands:
        await Outcome(hands, load(0)).is_late_after(LIMIT + TIMEOUT, why)
        assert caplog.messages == [f"a disk helper has not started in {LIMIT:g} s"] * size
        await Outcome(hands, load(1)).is_late_after(TIMEOUT, why)
        outcome = Outcome(hands, load(2))
        hands.helpers[0].start()
        (await hands.the_order())[0].answer(Reply(0, b"at last"))
        await wait_all_tasks_blocked()
        assert outcome.said == "at last"


@pytest.mark.parametrize("flag", [True, False])  # the helper's end, and ours
async def test_a_socket_that_cannot_be_used(
    flag: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is made a little later; this one is closed."""
    real, failures = socket.socket.setblocking, [OSError(errno.ENOMEM, "no memory")]

    def setblocking(self: socket.socket, value: bool) -> None:
        if value is flag and self.family == socket.AF_UNIX and failures:
            raise failures.pop()
        real(self, value)

    monkeypatch.setattr(socket.socket, "setblocking", setblocking)
    async with a_pool(size=1) as hands:
        assert not hands.helpers
        job = hands.pool.submit(load())
        await trio.sleep(0.1)
        (await hands.the_order())[0].answer()
        assert await taken(job) == Result(b"")


async def test_the_beginning_waits_for_the_first_helper(autojump_clock: MockClock) -> None:
    """Clients that come before could take the descriptors that its start needs."""
    has_begun = trio.Event()

    async def begin(hands: Hands) -> None:
        await hands.pool.begun()
        has_begun.set()

    async with a_pool(starts_at_once=False) as hands:
        hands.nursery.start_soon(begin, hands)
        await wait_all_tasks_blocked()
        assert not has_begun.is_set()
        hands.helpers[1].start()
        await has_begun.wait()
        assert trio.current_time() == hands.began


@pytest.mark.parametrize(
    ("size", "dies", "seconds"), [(0, False, 0), (4, True, 0), (4, False, 1)]
)  # there is to be none; none can start; the start takes long
async def test_the_beginning_does_not_wait_in_vain(
    size: int, dies: bool, seconds: int, autojump_clock: MockClock
) -> None:
    async with a_pool(size=size, starts_at_once=False) as hands:
        if dies:
            hands.helpers[0].die()
        await hands.pool.begun()
        assert trio.current_time() == hands.began + seconds


async def test_a_helper_that_never_starts_is_no_excuse_for_the_others(
    autojump_clock: MockClock,
) -> None:
    async with a_pool(size=2, patience=TIMEOUT, starts_at_once=False) as hands:
        hands.helpers[0].start()
        await trio.sleep(LIMIT)
        outcomes = [Outcome(hands, load(number)) for number in range(2)]
        for outcome in outcomes:
            await outcome.is_late_after(TIMEOUT)


async def test_another_helper_is_started_in_the_place_of_a_slow_one(
    autojump_clock: MockClock,
) -> None:
    async with a_pool(size=3, patience=TIMEOUT, starts_at_once=False) as hands:
        assert len(hands.helpers) == 2
        outcome = Outcome(hands, load())
        await trio.sleep(0.9)
        assert len(hands.helpers) == 2
        await trio.sleep(0.2)
        hands.helpers[2].start()
        (await hands.the_order())[0].answer(Reply(0, b"content"))
        await wait_all_tasks_blocked()
        assert outcome.said == "content"


async def test_who_joins_a_job_is_not_given_the_time_before(autojump_clock: MockClock) -> None:
    async with a_pool(size=1, patience=TIMEOUT, starts_at_once=False) as hands:
        first = Outcome(hands, load(), key="same")
        await trio.sleep(2)
        second = Outcome(hands, load(), key="same")
        await trio.sleep(3)
        hands.helpers[0].start()
        await wait_all_tasks_blocked()
        third = Outcome(hands, load(), key="same")
        for outcome, seconds in ((first, 5), (second, 3), (third, 0)):
            await outcome.is_late_after(seconds + TIMEOUT)
        assert hands.stats.coalesced == 2


async def test_the_start_of_a_successor_is_not_held_against_the_disk(
    autojump_clock: MockClock,
) -> None:
    """The job had a helper, which died: it waits for one again."""
    async with a_pool(size=1, patience=TIMEOUT) as hands:
        outcome = Outcome(hands, load())
        helper, _ = await hands.the_order()
        hands.starts_at_once = False
        await trio.sleep(0.1)
        helper.die()
        await trio.sleep(5)
        assert outcome.said == ""
        hands.helpers[1].start()
        # 0.1 s for the first one, 0.05 s before the second one was started
        start = trio.current_time() - outcome.begin - 0.15
        await outcome.is_late_after(start + TIMEOUT)


async def test_the_pauses_between_starts_are_not_held_against_the_disk(
    autojump_clock: MockClock,
) -> None:
    async with a_pool(size=5, patience=TIMEOUT, start_pause=1) as hands:
        outcomes = [Outcome(hands, load(number)) for number in range(6)]
        for outcome, seconds in zip(outcomes, (0, 0, 0, 1, 2, 3), strict=True):  # the last has none
            await outcome.is_late_after(seconds + TIMEOUT)


async def test_helpers_that_die_at_once_do_not_put_off_a_deadline(
    autojump_clock: MockClock,
) -> None:
    async def carry(channel: socket.socket) -> None:
        channel.close()

    async with a_pool(size=2, patience=30) as hands:
        hands.pool._crew._carry = carry
        for helper in hands.helpers:
            helper.die()
        outcome = Outcome(hands, load())
        await outcome.is_late_after(30, "no disk helper has started")


# ---------------------------------------------------------------- the death of helpers


async def test_a_helper_that_dies_is_replaced_and_its_job_run_again(
    autojump_clock: MockClock, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_pool(size=1) as hands:
        with a_descriptor(root) as descriptor:
            job = hands.pool.submit(load(1), descriptor, key=1)
        for _ in range(2):
            helper, order = await hands.the_order()
            assert order == load(1)
            helper.die()
            await trio.sleep(1)
        helper, order = await hands.the_order()
        assert order == load(1)
        assert len(hands.helpers) == 3
        assert (hands.stats.helpers, hands.stats.helpers_busy, hands.stats.jobs) == (1, 1, 1)
        helper.answer(Reply(0, b"at last"))
        assert await taken(job) == Result(b"at last")
        job.drop()
        assert descriptors(root) == []
        assert "another one takes its place" in caplog.text


async def test_a_job_goes_to_a_helper_that_is_idle() -> None:
    """At once: it does not wait until the dead one is replaced."""
    async with a_pool(size=2) as hands:
        job = hands.pool.submit(load(1))
        first, _ = await hands.the_order()
        first.die()
        second, order = await hands.the_order()
        assert second is not first
        assert order == load(1)
        second.answer()
        await job.wait()
        job.drop()


async def test_a_job_that_has_killed_three_helpers_fails(
    autojump_clock: MockClock, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_pool(size=2) as hands:
        with a_descriptor(root) as descriptor:
            job = hands.pool.submit(load(1), descriptor, key=1)
        for _ in range(3):
            helper, _ = await hands.the_order()
            assert not job.is_done
            helper.die()
            await trio.sleep(1)
        with pytest.raises(OSError, match="Input/output error") as caught:
            await taken(job)
        assert caught.value.errno == errno.EIO
        job.drop()
        assert descriptors(root) == []
        assert "has ended 3 disk helpers" in caplog.text
        after = hands.pool.submit(load(1), key=1)
        helper, _ = await hands.the_order()
        helper.answer()
        await after.wait()
        after.drop()
        assert hands.stats.helpers == 2


async def test_a_helper_that_is_idle_and_dies_is_replaced(autojump_clock: MockClock) -> None:
    async with a_pool(size=1) as hands:
        hands.helpers[0].die()
        await trio.sleep(1)
        job = hands.pool.submit(load())
        helper, _ = await hands.the_order()
        assert helper is hands.helpers[1]
        helper.answer()
        await job.wait()
        job.drop()


async def test_no_wake_up_is_lost_with_a_helper() -> None:
    """It ends just after it was chosen for a job, before it could look: another idle one does."""
    async with a_pool(size=2) as hands:
        first = hands.pool.submit(load(1))
        survivor, _ = await hands.the_order()
        survivor.answer()
        await first.wait()
        await wait_all_tasks_blocked()  # so the other one has been idle for longer: it is chosen
        (chosen,) = {*hands.helpers} - {survivor}
        jobs = []
        chosen.last_deed = lambda: jobs.append(hands.pool.submit(load(2)))
        chosen.die()
        assert await hands.the_order() == (survivor, load(2))
        survivor.answer()
        await jobs[0].wait()
        for job in (first, *jobs):
            job.drop()


async def test_an_order_that_was_not_sent_is_not_held_against_the_job(
    autojump_clock: MockClock,
) -> None:
    """The helper was dead before it had the order; the job may try as often as it takes."""
    async with a_pool(size=1) as hands:
        job = hands.pool.submit(load(0))
        helper, _ = await hands.the_order()
        waiting = hands.pool.submit(load(1))
        for _ in range(5):
            # closed before the order is sent: the first answer frees it for the second job
            if not job.is_done:
                helper.answer()
            helper.channel.shutdown(socket.SHUT_RD)
            await wait_all_tasks_blocked()
            helper.die()
            await trio.sleep(10)
            helper = hands.helpers[-1]
            if (order := helper.take()) is not None:
                break
        assert order == load(1)
        helper.answer()
        await waiting.wait()
        for one in (job, waiting):
            one.drop()


async def test_an_order_that_cannot_be_sent_is_an_error_and_no_death() -> None:
    """EMSGSIZE: no helper would ever have it."""
    async with a_pool(size=1) as hands:
        job = hands.pool.submit(Order(Operation.OPEN, b"x" * 1_000_000))
        with pytest.raises(OSError, match="Message too long"):
            await hands.pool.result(job)
        assert len(hands.helpers) == 1


async def test_helpers_that_cannot_start_are_not_tried_in_a_loop(
    autojump_clock: MockClock,
) -> None:
    """The pause doubles, to a bound, and is short again after a success."""
    starts: list[float] = []

    async def carry(channel: socket.socket) -> None:
        starts.append(trio.current_time())
        channel.close()

    async with trio.open_nursery() as nursery:
        stats = Stats()
        HelperPool(carry, Closer(), nursery, stats, size=1, queue=1, timeout=1)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    pauses = [round(later - sooner, 3) for sooner, later in pairwise(starts)]
    assert pauses[:8] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert set(pauses[8:]) == {5.0}
    assert stats.helpers == 1


async def test_the_pause_is_short_again_after_a_success(autojump_clock: MockClock) -> None:
    async with a_pool(size=1) as hands:
        for _ in range(4):
            hands.helpers[-1].die()
            await trio.sleep(10)
        job = hands.pool.submit(load())
        helper, _ = await hands.the_order()
        helper.answer()
        await job.wait()
        job.drop()
        count = len(hands.helpers)
        helper.die()
        await trio.sleep(0.049)
        assert len(hands.helpers) == count
        await trio.sleep(0.002)
        assert len(hands.helpers) == count + 1


async def test_no_descriptors_for_a_new_helper(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """It is a reason to try later, and not to stop the server."""
    real = socket.socketpair
    async with a_pool(size=3) as hands:

        def socketpair(*arguments: int) -> tuple[socket.socket, socket.socket]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(socket, "socketpair", socketpair)
        jobs = [hands.pool.submit(load(number)) for number in range(3)]
        for helper, _ in await hands.working():
            helper.answer()
        monkeypatch.setattr(socket, "socketpair", real)
        await trio.sleep(10)
        for helper, _ in await hands.working():
            helper.answer()
        for job in jobs:
            await job.wait()
            job.drop()


async def test_no_place_for_a_descriptor_that_comes_back(root: Path) -> None:
    """The kernel drops it; the answer has none."""
    async with a_pool() as hands:
        job = hands.pool.submit(Order(Operation.OPEN, b"file"))
        helper, _ = await hands.the_order()
        helper.answer(Reply(0, b"facts"))
        result = await taken(job)
        assert result == Result(b"facts")
        with pytest.raises(OSError, match="Too many open files"):
            result.descriptor.release()
        job.drop()


Nonsense = Callable[[Hand, int], object]

NONSENSE: list[Nonsense] = [
    lambda helper, fd: socket.send_fds(helper.channel, [b"abc"], [fd]),
    lambda helper, fd: socket.send_fds(helper.channel, [FREE], [fd]),
    lambda helper, fd: socket.send_fds(helper.channel, [Reply(0, b"x").pack(0)], [fd]),
    lambda helper, fd: socket.send_fds(helper.channel, [Reply(0, b"x").pack(99)], []),
    lambda helper, fd: helper.answer(Reply(errno.EIO), fd),
    lambda helper, fd: helper.answer(Reply(errno.EIO, is_first=True)),
    lambda helper, fd: helper.answer(DONE, fd, fd),
]


@pytest.mark.parametrize(
    ("answer", "operation"),
    [
        *product(NONSENSE, (Operation.LOAD, Operation.OPEN)),
        (lambda helper, fd: helper.answer(DONE, fd), Operation.LOAD),  # nothing was asked for
        (lambda helper, fd: helper.answer(Reply(0, is_first=True)), Operation.LOAD),
    ],
)
async def test_a_helper_that_makes_no_sense_is_given_up(
    answer: Nonsense, operation: Operation, autojump_clock: MockClock, root: Path
) -> None:
    """What it says is nobody's answer, what it hands over is closed, and another does the job."""
    (root / "file").touch()
    async with a_pool(size=1) as hands:
        job = hands.pool.submit(Order(operation, b"file"))
        helper, order = await hands.the_order()
        with a_descriptor(root) as descriptor:
            answer(helper, descriptor.fd)
        await trio.sleep(1)
        other, again = await hands.the_order()
        assert other is not helper
        assert again == order
        other.answer(Reply(0, b"facts"))
        assert await taken(job) == Result(b"facts")
        job.drop()
    assert descriptors(root) == []


async def test_a_second_answer_is_not_that_to_the_next_order(
    autojump_clock: MockClock, root: Path
) -> None:
    async with a_pool(size=1) as hands:
        first = hands.pool.submit(load(1))
        helper, _ = await hands.the_order()
        helper.answer(Reply(0, b"first"))
        helper.answer(Reply(0, b"first"))
        assert await taken(first) == Result(b"first")
        first.drop()
        second = hands.pool.submit(load(2))
        await trio.sleep(1)
        *_, (other, order) = await hands.working()  # the old one has it as well, and nobody listens
        assert other is not helper
        assert order == load(2)
        other.answer(Reply(0, b"second"))
        assert await taken(second) == Result(b"second")
        second.drop()


# ---------------------------------------------------------------- places that hang

HUNG, GOOD, OTHER = 1, 2, 3  # devices


async def hold_up(hands: Hands, place: Place, count: int, first: int = 0) -> list[Job]:
    """Submit jobs for a place; nobody answers them."""
    jobs = [hands.pool.submit(load(first + n), key=first + n, place=place) for n in range(count)]
    await wait_all_tasks_blocked()
    return jobs


def drop_all(jobs: list[Job]) -> None:
    for job in jobs:
        job.drop()


@pytest.mark.parametrize("hung", [HUNG, Mount(GOOD, b"mount"), None])
@pytest.mark.parametrize(("size", "most"), [(2, 1), (3, 2), (4, 2), (16, 8)])
async def test_a_place_that_hangs_takes_half_of_the_helpers(
    hung: Place, size: int, most: int
) -> None:
    """Also while nothing else is asked for: those who come later find the others."""
    async with a_pool(size=size, queue=100, devices=[GOOD, OTHER]) as hands:
        jobs = await hold_up(hands, hung, 3 * size)
        assert len(await hands.working()) == hands.stats.helpers_busy == most
        for number in range(100, 110):
            good = hands.pool.submit(load(number), place=GOOD)
            helper, order = await hands.the_order()
            assert order == load(number)
            helper.answer()
            await good.wait()
            good.drop()
        assert not any(job.is_done for job in jobs)
        drop_all(jobs)


async def test_another_place_that_hangs_takes_half_of_the_rest() -> None:
    async with a_pool(size=16, queue=1000) as hands:
        jobs = []
        for place, busy in ((HUNG, 8), (OTHER, 12), (Mount(GOOD, b"x"), 14), (None, 15)):
            hands.pool._queue.note(GOOD)
            jobs += await hold_up(hands, place, 20, 100 * busy)
            assert hands.stats.helpers_busy == busy
        await hands.working()
        await answered(hands, load(7), place=GOOD)
        drop_all(jobs)


async def test_a_device_that_is_the_only_one_has_all_helpers() -> None:
    async with a_pool(size=4, queue=8, devices=[HUNG]) as hands:
        jobs = await hold_up(hands, HUNG, 4)
        assert hands.stats.helpers_busy == 4
        jobs += await hold_up(hands, HUNG, 8, 4)
        with pytest.raises(BlockingIOError):
            hands.pool.submit(load(99), place=HUNG)
        drop_all(jobs)


async def test_a_place_that_hangs_leaves_room_in_the_queue() -> None:
    async with a_pool(size=4, queue=8, devices=[HUNG, GOOD]) as hands:
        jobs = await hold_up(hands, HUNG, 2 + 4)  # two at helpers, and half of the queue
        with pytest.raises(BlockingIOError):
            hands.pool.submit(load(99), place=HUNG)
        jobs += await hold_up(hands, GOOD, 1 + 2, 200)
        ahead = hands.pool.submit(load(300), place=OTHER, is_ahead=True)
        assert not ahead.is_done
        drop_all([*jobs, ahead])


async def test_the_jobs_of_a_place_are_done_in_turn_when_it_answers_again() -> None:
    async with a_pool(size=2, queue=8, devices=[HUNG, GOOD]) as hands:
        jobs = await hold_up(hands, HUNG, 4)
        for number in range(4):
            helper, order = await hands.the_order()
            assert order == load(number)
            helper.answer()
            await jobs[number].wait()
        drop_all(jobs)


async def test_a_helper_that_still_closes_counts_for_its_place() -> None:
    async with a_pool(size=2, queue=8, devices=[HUNG, GOOD]) as hands:
        first = hands.pool.submit(Order(Operation.OPEN, b"a"), place=HUNG)
        helper, _ = await hands.the_order()
        helper.answer(Reply(0, is_first=True))
        await first.wait()
        second = hands.pool.submit(Order(Operation.OPEN, b"b"), place=HUNG)
        assert await hands.working() == []
        helper.answer()
        await hands.the_order()
        drop_all([first, second])


async def test_the_jobs_of_a_place_that_hangs_are_given_up_in_time(
    autojump_clock: MockClock,
) -> None:
    """Those that have no helper as well; what is good goes on meanwhile."""
    async with a_pool(size=2, queue=8, patience=5, devices=[HUNG, GOOD]) as hands:
        outcomes: list[str] = []

        async def wait(number: int) -> None:
            with pytest.raises(TimeoutError) as caught:
                await hands.pool.result(hands.pool.submit(load(number), place=HUNG))
            outcomes.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(wait, number)
            await hands.the_order()
            await answered(hands, load(7), place=GOOD)
            await trio.sleep(5.1)
            assert outcomes == ["[Errno 110] the disk does not answer"] * 3
        assert hands.pool._queue.take_unwanted()


# ---------------------------------------------------------------- clients that ask for much


async def ask_as(hands: Hands, client: str, numbers: Iterable[int], place: Place = 0) -> list[Job]:
    """Submit jobs on behalf of a client; nobody answers them."""
    with asking(Asker(client)):
        jobs = [hands.pool.submit(load(each), key=each, place=place) for each in numbers]
    await wait_all_tasks_blocked()
    return jobs


async def test_a_client_has_half_of_the_queue_at_most() -> None:
    """The next one has half of the rest; and what one has given up is room again."""
    async with a_pool(size=1, queue=8) as hands:
        jobs = await ask_as(hands, "greedy", range(5))  # one of them at the helper
        with pytest.raises(BlockingIOError):
            await ask_as(hands, "greedy", [5])
        shared = await ask_as(hands, "greedy", [4])
        jobs += await ask_as(hands, "other", [100, 101])
        with pytest.raises(BlockingIOError):
            await ask_as(hands, "other", [102])
        jobs += await ask_as(hands, "third", [200])
        jobs += await ask_as(hands, "", [300])
        with pytest.raises(BlockingIOError):
            await ask_as(hands, "fourth", [400])
        drop_all(jobs + shared)
        drop_all(await ask_as(hands, "greedy", range(10, 14)))


async def test_who_is_admitted_is_not_refused() -> None:
    """But for what is asked ahead of need."""
    async with a_pool(size=1, queue=2) as hands:
        jobs = await ask_as(hands, "", range(3))
        with pytest.raises(BlockingIOError):
            hands.pool.submit(load(3), key=3)
        admit()
        jobs.append(hands.pool.submit(load(3), key=3))
        with pytest.raises(BlockingIOError):
            hands.pool.submit(load(4), key=4, is_ahead=True)
        for number in range(4):
            helper, order = await hands.the_order()
            assert order == load(number)
            helper.answer()
        drop_all(jobs)


async def test_nobody_in_particular_may_fill_the_queue() -> None:
    async with a_pool(size=1, queue=8) as hands:
        jobs = await ask_as(hands, "", range(9))
        with pytest.raises(BlockingIOError):
            await ask_as(hands, "", [9])
        drop_all(jobs)


async def test_each_client_has_its_turn() -> None:
    """Who asks for one file does not wait for all that another one asks for."""
    async with a_pool(size=1, queue=100) as hands:
        jobs = await ask_as(hands, "greedy", range(5))
        jobs += await ask_as(hands, "other", [100, 101])
        jobs += await ask_as(hands, "third", [200])
        order = []
        for _ in jobs:
            helper, wanted = await hands.the_order()
            order.append(wanted.offset)
            helper.answer()
        assert order == [0, 1, 100, 200, 2, 101, 3, 4]
        drop_all(jobs)


async def test_who_comes_later_has_no_turn_before_those_who_came_first() -> None:
    async with a_pool(size=1, queue=100) as hands:
        jobs = await ask_as(hands, "one", range(4))
        for number in range(3):
            helper, wanted = await hands.the_order()
            assert wanted.offset == number
            helper.answer()
        await wait_all_tasks_blocked()
        jobs += await ask_as(hands, "other", [100])
        jobs += await ask_as(hands, "one", [4, 5])
        jobs += await ask_as(hands, "other", [101])
        order = []
        for _ in range(5):
            helper, wanted = await hands.the_order()
            order.append(wanted.offset)
            helper.answer()
        assert order == [3, 100, 4, 5, 101]
        drop_all(jobs)


# ---------------------------------------------------------------- any order of events


STEPS = st.lists(
    st.sampled_from(["submit", "submit_ahead", "answer", "fail", "die", "drop", "rest"]),
    max_size=30,
)


@given(STEPS, st.integers(1, 3), st.integers(1, 4), st.random_module())
def test_every_job_ends_and_nothing_is_left(
    steps: list[str], size: int, queue: int, seed: object
) -> None:
    """Whatever happens in whatever order: jobs end once, descriptors are released, counters too."""

    def give_back(fd: int) -> None:
        assert fd in open_ones
        open_ones.remove(fd)
        os.close(fd)

    open_ones: set[int] = set()

    async def main() -> None:
        jobs: list[Job] = []
        working: list[Hand] = []
        async with a_pool(size=size, queue=queue) as hands:
            for number, step in enumerate(steps):
                match step:
                    case "submit" | "submit_ahead":
                        fd = os.open("/dev/null", os.O_RDONLY)
                        open_ones.add(fd)
                        descriptor = Descriptor(fd, give_back)
                        with suppress(BlockingIOError):
                            jobs.append(
                                hands.pool.submit(
                                    load(number),
                                    descriptor,
                                    key=number % 3,
                                    is_ahead=step == "submit_ahead",
                                )
                            )
                        descriptor.release()
                    case "answer" | "fail" | "die":
                        working += [helper for helper, _ in await hands.working()]
                        if working:
                            helper = working.pop(0)
                            if step == "die":
                                helper.die()
                            else:
                                helper.answer(Reply(0 if step == "answer" else errno.EIO))
                    case "drop" if jobs:
                        jobs.pop(0).drop()
                    case "rest":
                        await trio.sleep(10)
                assert hands.stats.helpers <= size
                assert hands.stats.helpers_busy <= hands.stats.helpers
            for _ in range(200):  # from now on all goes well
                working += [helper for helper, _ in await hands.working()]
                if not working and not hands.pool._shared and not hands.pool._queue:
                    break
                while working:
                    working.pop().answer()
                await trio.sleep(10)
            assert all(job.is_done for job in jobs)
            for job in jobs:
                job.drop()
            assert not hands.pool._shared
            assert not hands.pool._queue
            assert hands.stats.helpers_busy == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert not open_ones


# ---------------------------------------------------------------- with a disk around it


async def test_helper_processes_start_ahead_and_end_with_the_disk(root: Path) -> None:
    before = children()
    async with serving(root, Stats(), helpers="process"):
        await eventually_async(lambda: len(children() - before) == 2)
    assert children() <= before


# ---------------------------------------------------------------- what surrounds it


async def test_a_program_that_drops_its_privileges_gets_new_helpers(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """A helper process would go on with those that it was started with."""
    async with a_pool(size=2) as hands:
        assert len(hands.helpers) == 2
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
        job = hands.pool.submit(load())
        await trio.sleep(10)  # of virtual time, for the pauses before new ones
        del hands.helpers[:2]  # the sockets of the old ones have ended
        helper, _ = await hands.the_order()
        helper.answer()
        await job.wait()
        assert job.deaths == 0
        job.drop()


async def test_threads_have_the_privileges_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads change theirs together (nptl(7)), so nothing is asked for each job."""
    async with a_pool(has_own_privileges=False) as hands:
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
        await answered(hands, load())
        assert len(hands.helpers) == 2


async def test_processes_are_started_one_after_the_other(autojump_clock: MockClock) -> None:
    """To start one takes the CPU that the loop needs."""
    async with a_pool(size=5, start_pause=1) as hands:
        jobs = [hands.pool.submit(load(number)) for number in range(5)]
        seen = []
        for _ in range(4):
            await wait_all_tasks_blocked()
            seen.append(len(hands.helpers))
            await trio.sleep(1)
        assert seen == [3, 4, 5, 5]
        for job in jobs:
            job.drop()


async def test_jobs_that_nobody_waits_for_make_room(autojump_clock: MockClock) -> None:
    async with a_pool(size=1, queue=2) as hands:
        busy = hands.pool.submit(load(0))
        helper, _ = await hands.the_order()
        unwanted = [hands.pool.submit(load(number)) for number in (1, 2)]
        with pytest.raises(BlockingIOError):
            hands.pool.submit(load(3))
        for job in unwanted:
            job.drop()
        wanted = hands.pool.submit(load(3))
        assert all(job.is_done for job in unwanted)
        helper.answer()
        helper, order = await hands.the_order()
        assert order == load(3)
        helper.answer()
        await wanted.wait()
        for job in (busy, wanted):
            job.drop()


async def test_whatever_the_program_says_of_sockets(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """socket.setdefaulttimeout would end each helper that has nothing to do for so long."""
    monkeypatch.setattr(socket, "socketpair", with_timeout(socket.socketpair))
    async with a_pool() as hands:
        assert [helper.channel.gettimeout() for helper in hands.helpers] == [None, None]


def with_timeout(make: Callable[..., tuple[socket.socket, socket.socket]]) -> object:
    def pair(*arguments: int) -> tuple[socket.socket, socket.socket]:
        ours, theirs = make(*arguments)
        for end in (ours, theirs):
            end.settimeout(2)
        return ours, theirs

    return pair
