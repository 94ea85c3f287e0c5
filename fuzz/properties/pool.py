"""The pool of helpers, which do here whatever a script says, down to what no helper would do."""

import contextlib
import dataclasses
import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Final

import trio
from hypothesis import strategies as st
from trio.testing import MockClock

from fuzz.properties.wire import REPLIES
from fuzz.target import Target
from fuzz.world.descriptors import files_in_memory, nothing_left_open
from trio_amped.disk.descriptors import Closer, Descriptor
from trio_amped.disk.messages import (
    ANCILLARY_SIZE,
    FREE,
    MAX_MESSAGE,
    Operation,
    Order,
    Reply,
    descriptors_in,
)
from trio_amped.disk.pool import HelperPool
from trio_amped.stats import Stats

# What a helper does about one order. Sound ones do these:
_SOUND: Final = ("answers", "fails", "dies", "answers and dies", "answers late", "has no room")
# What holds whatever one does, as a bug of ours or memory that has gone bad would have it:
_MAD: Final = (
    *("answers with less", "answers with junk", "answers twice", "answers for another"),
    *("says free first", "never says free", "hands two over", "hands over unasked", "hangs"),
)
_LATE: Final = 1.0  # seconds
_TIMEOUT: Final = 60.0  # seconds: more than all deaths and delays of a script


@dataclasses.dataclass(frozen=True)
class Wish:
    """A job that somebody waits for: when it is submitted, and how long it is waited for."""

    operation: Operation
    number: int  # what its answer must be about; the same number is the same job
    at: float
    patience: float

    @property
    def order(self) -> Order:
        return Order(self.operation, _name(self.number), self.number, 1)


WISHES: Final = st.builds(
    Wish,
    st.sampled_from([Operation.OPEN, Operation.LOAD, Operation.READ]),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.0, 0.5, 2.0]),
    st.sampled_from([1000.0, 1000.0, 0.0, 0.5, 1.5]),
)


def _name(number: int) -> bytes:
    return b"file %d" % number


class ScriptedHelpers:
    """Helpers of a pool, as `carry`: each order is met with the next deed of the script, and when
    that is over by an honest answer."""

    def __init__(self, deeds: list[str], junk: bytes) -> None:
        self._deeds = deeds
        self._junk = junk
        self.alive = self.most_alive = 0
        self.met: Counter[str] = Counter()
        self.dropped: set[int] = set()  # the numbers whose descriptor there was no room for
        self.failed: Counter[int] = Counter()
        self._last: dict[trio.socket.SocketType, Reply] = {}  # that each helper has given

    async def carry(self, channel: socket.socket) -> None:
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        try:
            with trio.socket.from_stdlib_socket(channel) as ours:
                await ours.send(FREE)
                while await self._meet_order(ours):
                    pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.alive -= 1

    async def _meet_order(self, channel: trio.socket.SocketType) -> bool:
        """Whether it lives on."""
        try:
            message, ancillary, _, _ = await channel.recvmsg(MAX_MESSAGE, ANCILLARY_SIZE)
        except ConnectionResetError:
            return False
        for number in descriptors_in(ancillary):
            os.close(number)
        if not message:
            return False
        deed = self._deeds.pop() if self._deeds else "answers"
        self.met[deed] += 1
        return await self._do(deed, Order.unpack(message), channel)

    async def _do(self, deed: str, order: Order, channel: trio.socket.SocketType) -> bool:
        honest = _honest_reply(order)
        if deed == "hangs":
            await trio.sleep_forever()
        if deed == "dies":
            self.failed[order.offset] += 1
            return False
        if deed == "fails":
            self.failed[order.offset] += 1
            await channel.send(Reply(errno.EIO, number=order.number).pack())
            return True
        if deed == "answers late":
            await trio.sleep(_LATE)
        last = self._last.get(channel, Reply(0, b"nobody's"))
        for message in self._before(deed, honest, last):
            await channel.send(message)
        await self._answer(deed, order, honest, channel)
        self._last[channel] = honest
        return deed != "answers and dies"

    def _before(self, deed: str, honest: Reply, last: Reply) -> list[bytes]:
        """What a mad one says before its answer."""
        said = {
            "answers with less": honest.pack()[: len(self._junk) % 4] or b"\0",
            "answers with junk": self._junk or b"\0",
            "answers twice": honest.pack(),
            "answers for another": last.pack(),
            "says free first": FREE,
        }
        return [said[deed]] if deed in said else []

    async def _answer(
        self, deed: str, order: Order, honest: Reply, channel: trio.socket.SocketType
    ) -> None:
        hands_over = order.operation.hands_over
        count = 2 if deed == "hands two over" else int(hands_over or deed == "hands over unasked")
        if deed == "has no room":
            self.dropped.add(order.offset)
            count = 0
        with files_in_memory(count, order.path) as numbers:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _packed(numbers))] if numbers else []
            await channel.sendmsg([honest.pack()], rights)
        if hands_over and deed != "never says free":
            await channel.send(FREE)


def _honest_reply(order: Order) -> Reply:
    return Reply(0, b"about %d" % order.offset, order.number)


def _packed(numbers: list[int]) -> bytes:
    return struct.pack(f"{len(numbers)}i", *numbers)


def check_pool(size: int, wishes: list[Wish], deeds: list[str], junk: bytes) -> None:
    """Every job gets its own answer, or an error in time; nothing stays open; the pool goes on."""
    with nothing_left_open():
        trio.run(_ask, size, wishes, deeds, junk, clock=MockClock(autojump_threshold=0))


async def _ask(size: int, wishes: list[Wish], deeds: list[str], junk: bytes) -> None:
    helpers, closer, stats = ScriptedHelpers(deeds[:], junk), Closer(), Stats()
    async with trio.open_nursery() as nursery:
        pool = HelperPool(
            helpers.carry, closer, nursery, stats, size=size, queue=64, timeout=_TIMEOUT
        )
        asking = _Asking(pool, helpers, deeds)
        async with trio.open_nursery() as clients:
            for wish in wishes:
                clients.start_soon(asking.grant, wish)
        if helpers.met["hangs"] + helpers.met["never says free"] < size:
            await asking.grant(Wish(Operation.READ, 99, 0, 1000))  # the pool goes on
        # (A mad one that is given up may live on, and hang.)
        assert asking.is_mad or helpers.most_alive <= size
        nursery.cancel_scope.cancel()
    pool.close()
    while not closer._idle.is_set():  # no deadline: virtual time would pass before a thread's
        await closer._idle.wait()
    assert helpers.alive == 0


class _Asking:
    """Those who submit jobs, and what they may be told."""

    def __init__(self, pool: HelperPool, helpers: ScriptedHelpers, deeds: list[str]) -> None:
        self._pool = pool
        self._helpers = helpers
        self.is_mad = not set(deeds) <= set(_SOUND)
        self._has_deaths = not {"dies", "fails"}.isdisjoint(deeds)

    async def grant(self, wish: Wish) -> None:
        """Submit it, and look at what comes of it."""
        await trio.sleep(wish.at)
        with trio.move_on_after(wish.patience), _directory() as descriptor:
            job = self._pool.submit(wish.order, descriptor, key=self._key(wish))
            try:
                content, received = await self._pool.result(job)
            except OSError as error:
                self._check_error(error, wish)
            else:
                self._check_answer(content, received, wish)

    def _key(self, wish: Wish) -> object:
        """Descriptors are not shared."""
        return None if wish.operation.hands_over else (wish.operation, wish.number)

    def _check_error(self, error: OSError, wish: Wish) -> None:
        if error.errno == errno.EIO:
            assert self.is_mad or self._helpers.failed[wish.number], f"no helper failed at {wish}"
        else:
            assert error.errno == errno.ETIMEDOUT
            assert self.is_mad, f"nobody has answered {wish}"

    def _check_answer(self, content: bytes, received: int, wish: Wish) -> None:
        assert content == _honest_reply(wish.order).content, f"not the answer to {wish}"
        if received >= 0:
            said = os.pread(received, 100, 0)
            os.close(received)
            assert wish.operation.hands_over
            assert said == wish.order.path, f"not the file of {wish}"
        elif wish.operation.hands_over:
            assert self.is_mad or wish.number in self._helpers.dropped


@contextlib.contextmanager
def _directory() -> Iterator[Descriptor]:
    """What an order is about: it travels beside it."""
    descriptor = Descriptor(os.memfd_create("fuzz"))
    try:
        yield descriptor
    finally:
        descriptor.release()


# No reply, or that to an order which no helper has ever had.
_JUNK: Final = st.binary(max_size=len(Reply(0).pack()) - 1) | REPLIES.map(
    lambda reply: reply._replace(number=2**63 | reply.number).pack()
)

TARGETS: Final = (
    Target(
        "pool",
        check_pool,
        {
            "size": st.integers(1, 3),
            "wishes": st.lists(WISHES, min_size=1, max_size=8),
            "deeds": st.lists(st.sampled_from(_SOUND), max_size=8)
            | st.lists(st.sampled_from(_SOUND + _MAD), max_size=6),
            "junk": _JUNK,
        },
    ),
)
