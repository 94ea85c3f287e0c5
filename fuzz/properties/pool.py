"""The pool of helpers, which here do whatever a script says, also what no helper would do."""

import contextlib
import errno
import os
import socket
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final

import trio
from hypothesis import strategies as st

from fuzz.tally import note
from fuzz.target import Target
from fuzz.world.runs import SCHEDULES, run
from trio_amped.disk.descriptors import Closer, Descriptor
from trio_amped.disk.jobs import Result
from trio_amped.disk.messages import (
    ANCILLARY_SIZE,
    FREE,
    MAX_MESSAGE,
    Operation,
    Order,
    Reply,
    descriptors_in,
    rights,
)
from trio_amped.disk.pool import HelperPool
from trio_amped.stats import Stats

# What a helper does about one order. Any helper may do these:
SOUND: Final = (
    *("answers", "fails", "dies", "answers and dies", "answers late", "has no room"),
    "closes slowly",
)
# These would be a bug of ours, or memory that has gone bad:
MAD: Final = (
    *("says less", "says junk", "answers another", "answers twice", "says free first"),
    *("hands two over", "hands over unasked", "never ends", "hangs"),
)
_GOING_ON: Final = ("closes slowly", "never ends")
_LATE: Final = 1.0  # seconds
_TIMEOUT: Final = 60.0  # seconds: more than all deaths and delays of a script
_START_LIMIT: Final = 10.0  # seconds: helpers that start put off a deadline by no more
_PATIENT: Final = 1000.0
_STEP: Final = 1e-6  # seconds: what a sum of floats may be off by


@dataclass(frozen=True)
class Wish:
    """A job that somebody waits for: when it is submitted, and how long it is waited for."""

    operation: Operation
    number: int  # what its answer must be about; the same number may be the same job
    at: float
    patience: float
    is_ahead: bool = False

    @property
    def order(self) -> Order:
        return Order(self.operation, b"file %d" % self.number, self.number, 1)

    @property
    def key(self) -> Hashable:
        """A descriptor is for one alone."""
        return None if self.operation.hands_over else (self.operation, self.number)


class Helpers:
    """They meet each order with the next deed of the script, and then by honest answers."""

    def __init__(self, deeds: list[str], delays: list[float], junk: bytes) -> None:
        self.deeds = deeds[::-1]
        self._delays = delays[::-1]  # before they say that they have started
        self._junk = junk
        self.starting = 0.0  # seconds that they have taken to start
        self.alive = self.most_alive = self.given_up = 0
        self.met: Counter[tuple[str, int]] = Counter()  # deeds, and the numbers of their orders

    def count(self, deed: str) -> int:
        return sum(count for (name, _), count in self.met.items() if name == deed)

    async def carry(self, channel: socket.socket) -> None:
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        try:
            with trio.socket.from_stdlib_socket(channel) as ours:
                await self._start()
                await ours.send(FREE)
                while await self._meet_order(ours):
                    pass
        except (BrokenPipeError, ConnectionResetError):
            self.given_up += 1
        finally:
            self.alive -= 1

    async def _start(self) -> None:
        delay = self._delays.pop() if self._delays else 0.0
        self.starting += delay
        await trio.sleep(delay)

    async def _meet_order(self, channel: trio.socket.SocketType) -> bool:
        """Whether it lives on."""
        message, ancillary, _, _ = await channel.recvmsg(MAX_MESSAGE, ANCILLARY_SIZE)
        for file in descriptors_in(ancillary):
            os.close(file)
        if not message:
            raise BrokenPipeError
        number, order = Order.unpack(message)
        deed = self.deeds.pop() if self.deeds else "answers"
        self.met[deed, order.offset] += 1
        note("helper", deed)
        return await self._do(deed, number, order, channel)

    async def _do(
        self, deed: str, number: int, order: Order, channel: trio.socket.SocketType
    ) -> bool:
        if deed == "dies":
            return False
        if deed == "hangs":
            await trio.sleep_forever()
        if deed == "fails":
            await channel.send(Reply(errno.EIO).pack(number))
            return True
        if deed == "answers late":
            await trio.sleep(_LATE)
        for message in self._before(deed, number, order):
            await channel.send(message)
        goes_on = deed in _GOING_ON and order.operation.hands_over
        with _files(_count(deed, order), order.path) as files:
            beside = rights(*files) if files else ()
            reply = _honest(order)._replace(is_first=goes_on)
            await channel.sendmsg([reply.pack(number)], beside)
        if goes_on and deed != "never ends":
            await channel.send(Reply(0).pack(number))
        return deed != "answers and dies"

    def _before(self, deed: str, number: int, order: Order) -> list[bytes]:
        """What a mad one says before its answer."""
        honest = _honest(order).pack(number)
        said = {
            "says less": honest[: 1 + len(self._junk) % 12],
            "says junk": self._junk or b"\0",
            "answers another": Reply(0, b"about another").pack(number - 1),
            "answers twice": honest,
            "says free first": FREE,
        }
        return [said[deed]] if deed in said else []


def _honest(order: Order) -> Reply:
    return Reply(0, b"about %d" % order.offset)


def _count(deed: str, order: Order) -> int:
    """How many descriptors come with an answer."""
    counts = {"hands two over": 2, "hands over unasked": 1, "has no room": 0}
    return counts.get(deed, int(order.operation.hands_over))


@contextlib.contextmanager
def _files(count: int, content: bytes) -> Iterator[list[int]]:
    """Files in memory that say what they are."""
    files = [os.memfd_create("pool") for _ in range(count)]
    try:
        for file in files:
            os.pwrite(file, content, 0)
        yield files
    finally:
        for file in files:
            os.close(file)


class PromptCloser(Closer):
    """Closes at once what a thread would close: nothing is left to chance."""

    def close_in_thread(self, fd: int) -> None:
        os.close(fd)


class Clients:
    """Those who wish for jobs, and what they may be told."""

    def __init__(self, pool: HelperPool, helpers: Helpers, queue: int, bound_ahead: int) -> None:
        self._pool = pool
        self._helpers = helpers
        self._bounds = {False: queue, True: bound_ahead}
        self._waiting = 0

    async def grant(self, wish: Wish) -> int:
        """Have it done, and look at what comes of it: an errno, or 0."""
        await trio.sleep(wish.at)
        start = trio.current_time()
        error = -1  # it was given up
        self._waiting += 1
        try:
            with trio.move_on_after(wish.patience):
                error = await self._submit(wish)
        finally:
            self._waiting -= 1
        most = min(wish.patience, _TIMEOUT + min(self._helpers.starting, _START_LIMIT))
        assert trio.current_time() - start <= most + _STEP, f"late: {wish}"
        return error

    async def _submit(self, wish: Wish) -> int:
        with _files(1, b"") as (file,):
            directory = Descriptor(os.dup(file))
        try:
            job = self._pool.submit(wish.order, directory, key=wish.key, is_ahead=wish.is_ahead)
        except BlockingIOError:
            assert self._waiting > self._bounds[wish.is_ahead], f"there is room for {wish}"
            return errno.EAGAIN
        finally:
            directory.release()
        try:
            result = await self._pool.result(job)
        except OSError as error:
            number = error.errno or -1
        else:
            number = 0
            self._check_answer(wish, result)
        assert number in (0, *self._possible_errors(wish)), f"{os.strerror(number)} for {wish}"
        return number

    def _possible_errors(self, wish: Wish) -> Iterator[int]:
        met, count = self._helpers.met, self._helpers.count
        if count("hangs") or count("never ends"):
            yield errno.ETIMEDOUT
        # One that has answered and died may have taken an order more, which it never read.
        deaths = met["dies", wish.number] + count("answers and dies") + sum(map(count, MAD))
        if met["fails", wish.number] or deaths >= 3:
            yield errno.EIO

    def _check_answer(self, wish: Wish, result: Result) -> None:
        if result.descriptors:
            said = os.pread(result.descriptor.fd, 100, 0)
            result.descriptor.release()
        else:
            said = wish.order.path
            met = self._helpers.met
            has_none = met["has no room", wish.number] or met["answers twice", wish.number]
            assert has_none or not wish.operation.hands_over, f"no descriptor came for {wish}"
        assert (result.content, said) == (_honest(wish.order).content, wish.order.path), wish


def check_pool(
    size: int, queue: int, wishes: list[Wish], helpers: tuple[list[str], list[float], bytes],
    schedule: int,
) -> None:  # fmt: skip
    """A job's result is about that job, or an error in time; nothing leaks; the pool goes on."""
    run(_ask, size, queue, wishes, Helpers(*helpers), schedule=schedule)


async def _ask(size: int, queue: int, wishes: list[Wish], helpers: Helpers) -> None:
    is_sound = set(helpers.deeds) <= set(SOUND)
    async with trio.open_nursery() as nursery:
        pool = HelperPool(
            helpers.carry,
            PromptCloser(),
            nursery,
            Stats(),
            size=size,
            queue=queue,
            timeout=_TIMEOUT,
        )
        clients = Clients(pool, helpers, queue, min(size, queue // 2))
        async with trio.open_nursery() as waiting:
            for wish in wishes:
                waiting.start_soon(clients.grant, wish)
        await _check_goes_on(clients, helpers, size)
        if is_sound:  # one that is mad is given up, and may go on for a while
            assert helpers.most_alive <= size, "too many helpers"
            assert not helpers.given_up, "a helper that was sound was given up"
        nursery.cancel_scope.cancel()
        pool.close()
    assert helpers.alive == 0


async def _check_goes_on(clients: Clients, helpers: Helpers, size: int) -> None:
    """When all is said that was mad, the next job is done, by whoever does not hang."""
    helpers.deeds.clear()
    if helpers.count("hangs") + helpers.count("never ends") < size:
        last = Wish(Operation.READ, 99, 0, _PATIENT)
        # What was said too much may have been taken for the end of those who said it.
        assert 0 in (await clients.grant(last), await clients.grant(last))


_WISHES: Final = st.builds(
    Wish,
    st.sampled_from([Operation.OPEN, Operation.OPEN, Operation.LOAD, Operation.READ]),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.0, 0.5, 2.0]),
    st.sampled_from([_PATIENT, _PATIENT, 0.0, 0.5, 1.5]),
    st.booleans(),
)
_SCRIPTS: Final = st.lists(st.sampled_from(SOUND), max_size=8) | st.lists(
    st.sampled_from(SOUND + MAD), max_size=6
)
_DELAYS: Final = st.lists(st.sampled_from([0.0, 0.0, 0.5, 3.0]), max_size=4)

TARGETS: Final = (
    Target(
        "pool",
        check_pool,
        {
            "size": st.integers(1, 3),
            "queue": st.integers(1, 6) | st.just(64),
            "wishes": st.lists(_WISHES, min_size=1, max_size=8),
            # What is too short for a reply: a long one could be right by chance.
            "helpers": st.tuples(_SCRIPTS, _DELAYS, st.binary(max_size=11)),
            "schedule": SCHEDULES,
        },
    ),
)
