"""One rendering for all who ask for the same, for as long as it holds, and nothing is left."""

import contextlib
import errno
import json
import math
import os
import signal
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final
from unittest import mock

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.disk.conftest import temporary_folder_on
from tests.disk.support import (
    children,
    descriptors,
    eventually_async,
    serving,
)
from tests.disk.test_leaks import cancelled_at_every_checkpoint
from tests.disk.test_pool import Hand, Hands, a_pool
from trio_amped.disk import directories, listings
from trio_amped.disk.descriptors import Descriptor
from trio_amped.disk.jobs import Job, Result
from trio_amped.disk.listings import Listings, Rendered
from trio_amped.disk.local import LocalDisk
from trio_amped.disk.messages import Operation, Order, Reply
from trio_amped.disk.opening import Opened, Status, Volume, pack_facts
from trio_amped.semantics.listing import NOTHING, View
from trio_amped.stats import Stats

VIEW: Final = View("json")
AGE: Final = 10.0  # seconds


def directory_at(path: bytes) -> Status:
    """Each has an inode of its own."""
    return Status(0o040755, 0, 1, zlib.crc32(path), 4096, 3, 4, 5)


DIRECTORY: Final = directory_at(b"path")
DIGEST: Final = b"a digest"


@pytest.fixture
def folder(place: Path) -> Iterator[Path]:
    with temporary_folder_on(place) as path:
        yield path


def in_memory() -> list[str]:
    """The listings that this process has open."""
    return descriptors(Path("/memfd:listing"))


# ---------------------------------------------------------------- with helpers in our own hands


class Desk:
    """Listings, and the helpers that make them: the test itself does what they are told."""

    def __init__(self, listings: Listings, hands: Hands, root: Descriptor, stats: Stats) -> None:
        self.listings = listings
        self.hands = hands
        self.root = root
        self.stats = stats
        self.answers: list[Rendered | OSError] = []

    async def ask(
        self, path: bytes = b"path", directory: Status | None = None, view: View = VIEW
    ) -> None:
        """Ask, and keep what comes of it in `answers`."""
        directory = directory or directory_at(path)
        try:
            self.answers.append(await self.listings.get(self.root, path, directory, view))
        except OSError as error:
            self.answers.append(error)

    async def get(
        self, path: bytes = b"path", directory: Status | None = None, size: int = 5
    ) -> Rendered:
        """Ask, and answer where a helper is asked."""
        before = self.stats.listings
        self.hands.nursery.start_soon(self.ask, path, directory)
        await wait_all_tasks_blocked()
        if self.stats.listings > before:
            hand, order = await self.hands.the_order()
            assert order == Order(Operation.LIST, VIEW.pack() + b"\0" + path)
            give(hand, size)
            await wait_all_tasks_blocked()
        answer = self.answers.pop()
        assert isinstance(answer, Rendered)
        return answer

    async def get_and_release(self, path: bytes = b"path", size: int = 5) -> None:
        (await self.get(path, size=size)).descriptor.release()


def give(hand: Hand, size: int = 5) -> None:
    """A helper hands over a listing of so many bytes."""
    memory = os.memfd_create("listing")
    os.truncate(memory, size)
    facts = Opened(memory, Status.of(memory), Volume(0, 0), noatime=True)
    hand.answer(Reply(0, pack_facts(facts) + DIGEST), memory)
    os.close(memory)


@asynccontextmanager
async def a_desk(
    place: Path,
    age: float = AGE,
    queue: int = 8,
    patience: float = math.inf,
    size: int = 2,
    starts_at_once: bool = True,
    devices: Sequence[int] = (),
) -> AsyncIterator[Desk]:
    """Nothing of it stays open."""
    root = Descriptor(os.open(place, os.O_PATH))
    try:
        async with a_pool(
            size=size, queue=queue, starts_at_once=starts_at_once, devices=devices
        ) as hands:
            stats = Stats()
            made = Listings(
                hands.pool,
                hands.closer,
                hands.nursery,
                stats,
                max_age=age,
                timeout=patience,
                queue=queue,
            )
            desk = Desk(made, hands, root, stats)
            try:
                yield desk
            finally:
                made.close()
                for answer in desk.answers:
                    if isinstance(answer, Rendered):
                        answer.descriptor.release()
            assert made._bytes == 0
    finally:
        root.release()
    await nothing_stays_open(place)


async def nothing_stays_open(place: Path) -> None:
    """A thread may still be busy with it."""
    await eventually_async(lambda: in_memory() == descriptors(place) == [])


async def test_what_comes_back(place: Path) -> None:
    async with a_desk(place) as desk:
        found = await desk.get(size=1234)
        assert found.digest == DIGEST
        assert found.status == Status.of(found.descriptor.fd)
        assert found.status.size == 1234
        found.descriptor.release()


async def test_one_rendering_is_for_all_who_ask_at_the_same_time(place: Path) -> None:
    async with a_desk(place) as desk:
        for _ in range(5):
            desk.hands.nursery.start_soon(desk.ask)
        hand, _ = await desk.hands.the_order()
        desk.hands.nursery.start_soon(desk.ask)
        await wait_all_tasks_blocked()
        assert desk.answers == []
        give(hand)
        await wait_all_tasks_blocked()
        assert len(desk.answers) == 6
        assert len(set(desk.answers)) == 1
        assert desk.stats.listings == 1
        assert len(in_memory()) == 1


@pytest.mark.parametrize(
    ("path", "directory", "view"),
    [
        (b"other", DIRECTORY, VIEW),
        (b"path", DIRECTORY, View("html")),
        (b"path", DIRECTORY, View("json", "size")),
        (b"path", DIRECTORY, View("json", "name", "desc")),
        (b"path", DIRECTORY._replace(mtime_ns=99), VIEW),  # a new name: seen at once
        (b"path", DIRECTORY._replace(ctime_ns=99), VIEW),
        (b"path", DIRECTORY._replace(inode=99), VIEW),  # another directory, by a rename
        (b"path", DIRECTORY._replace(device=99), VIEW),
    ],
    ids=["path", "kind", "sort", "order", "mtime", "ctime", "inode", "device"],
)
async def test_what_differs_is_rendered_for_itself(
    path: bytes, directory: Status, view: View, place: Path
) -> None:
    async with a_desk(place) as desk:
        await desk.get_and_release()
        desk.hands.nursery.start_soon(desk.ask, path, directory, view)
        hand, order = await desk.hands.the_order()
        assert order == Order(Operation.LIST, view.pack() + b"\0" + path)
        give(hand)
        await wait_all_tasks_blocked()


async def test_it_is_asked_of_the_root(place: Path) -> None:
    """Which the order holds: it may be let go before a helper is free."""
    async with a_desk(place) as desk:
        desk.hands.nursery.start_soon(desk.ask)
        hand, _ = await desk.hands.the_order()
        (received,) = hand.received
        assert os.readlink(f"/proc/self/fd/{received}") == str(place)
        give(hand)
        await wait_all_tasks_blocked()
        assert descriptors(place) == [str(place)]


async def test_it_holds_for_a_while(place: Path, autojump_clock: MockClock) -> None:
    """From when it was finished on; and what is being sent then is sent to its end."""
    async with a_desk(place) as desk:
        desk.hands.nursery.start_soon(desk.ask)
        hand, _ = await desk.hands.the_order()
        await trio.sleep(3 * AGE)
        give(hand)
        await wait_all_tasks_blocked()
        first = desk.answers.pop()
        assert isinstance(first, Rendered)
        await trio.sleep(AGE - 0.001)
        assert await desk.get() == first
        first.descriptor.release()
        assert desk.stats.listings == 1
        await trio.sleep(0.001)
        second = await desk.get()
        assert desk.stats.listings == 2
        assert second != first
        assert len(in_memory()) == 2, "the first one is still being sent"
        first.descriptor.release()
        await eventually_async(lambda: len(in_memory()) == 1)
        second.descriptor.release()


async def test_without_an_age_only_those_share_who_ask_before_it_is_there(place: Path) -> None:
    async with a_desk(place, age=0) as desk:
        desk.hands.nursery.start_soon(desk.ask)
        hand, _ = await desk.hands.the_order()
        desk.hands.nursery.start_soon(desk.ask)
        await wait_all_tasks_blocked()
        give(hand)
        await wait_all_tasks_blocked()
        await desk.get_and_release()
        assert len(desk.answers) == desk.stats.listings == 2


async def test_one_directory_leaves_a_helper_to_the_others(place: Path) -> None:
    """However many of its views are asked for."""
    async with a_desk(place) as desk:
        for view in (View(kind, sort) for kind in ("html", "json") for sort in ("name", "size")):
            desk.hands.nursery.start_soon(desk.ask, b"large", None, view)
        await wait_all_tasks_blocked()
        desk.hands.nursery.start_soon(desk.ask, b"small")
        asked = []
        while working := await desk.hands.working():
            asked.append(sorted(order.path.partition(b"\0")[2] for _, order in working))
            for hand, _ in working:
                give(hand)
        assert asked == [[b"large", b"small"], [b"large"], [b"large"], [b"large"]]
        assert len(desk.answers) == 5
        assert desk.listings._directories == {}


async def test_an_error_reaches_all_and_is_forgotten(
    place: Path, autojump_clock: MockClock
) -> None:
    async with a_desk(place) as desk:
        for _ in range(3):
            desk.hands.nursery.start_soon(desk.ask)
        hand, _ = await desk.hands.the_order()
        hand.answer(Reply(errno.EACCES))
        await wait_all_tasks_blocked()
        assert [str(each) for each in desk.answers] == ["[Errno 13] Permission denied"] * 3
        assert [type(each) for each in desk.answers] == [PermissionError] * 3
        await desk.get_and_release()


async def test_no_place_for_the_descriptor_that_comes_back(place: Path) -> None:
    async with a_desk(place) as desk:
        desk.hands.nursery.start_soon(desk.ask)
        hand, _ = await desk.hands.the_order()
        hand.answer(Reply(0, b"facts"))
        await wait_all_tasks_blocked()
        (answer,) = desk.answers
        assert isinstance(answer, OSError)
        assert answer.errno == errno.EMFILE


async def test_too_many_that_wait(place: Path) -> None:
    """The queue of the pool is bounded."""
    async with a_desk(place, queue=1) as desk:
        for number in range(4):
            desk.hands.nursery.start_soon(desk.ask, b"%d" % number)
            await wait_all_tasks_blocked()
        assert [type(each) for each in desk.answers] == [BlockingIOError]
        for _ in range(2):
            for hand, _ in await desk.hands.working():
                give(hand)
        await wait_all_tasks_blocked()
        assert len(desk.answers) == 4


async def test_the_pool_takes_no_job(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_desk(place) as desk:
        full = BlockingIOError(errno.EAGAIN, "full")
        with monkeypatch.context() as patched:
            patched.setattr(desk.hands.pool, "submit", mock.Mock(side_effect=full))
            await desk.ask()
        assert [type(each) for each in desk.answers] == [BlockingIOError]
        assert desk.listings._directories == {}
        await desk.get_and_release()


async def test_a_helper_that_dies_is_replaced_and_it_is_rendered_again(
    place: Path, autojump_clock: MockClock
) -> None:
    async with a_desk(place) as desk:
        desk.hands.nursery.start_soon(desk.ask)
        for _ in range(2):
            hand, order = await desk.hands.the_order()
            hand.die()
            await trio.sleep(1)
        hand, again = await desk.hands.the_order()
        assert again == order
        give(hand)
        await wait_all_tasks_blocked()
        assert isinstance(desk.answers[0], Rendered)
        assert desk.stats.listings == 1


# ---------------------------------------------------------------- turns, and directories that hang

ALL_VIEWS: Final = [
    View(kind, sort, order)
    for kind, sort, order in product(("html", "json"), ("size", "time", "name"), ("desc", "asc"))
]


def shown(order: Order) -> tuple[bytes, View]:
    """Which directory a helper is asked for, and which view."""
    view, _, path = order.path.partition(b"\0")
    return path, View.unpack(view)


async def test_whoever_asks_waits_for_one_timeout(place: Path, autojump_clock: MockClock) -> None:
    """And what nobody waits for any more is never begun: a directory that hangs has one helper."""
    async with a_desk(place, queue=20, patience=3) as desk:
        begin, times = trio.current_time(), []

        async def ask(view: View) -> None:
            await desk.ask(b"hung", view=view)
            times.append(trio.current_time() - begin)

        async with trio.open_nursery() as nursery:
            for view in ALL_VIEWS:
                nursery.start_soon(ask, view)
        assert times == [pytest.approx(3)] * 12
        assert [type(each) for each in desk.answers] == [TimeoutError] * 12
        assert "was not read in time" in str(desk.answers[0])
        hand, _ = await desk.hands.the_order()
        give(hand)
        assert await desk.hands.working() == []
        assert desk.listings._directories == {}


@pytest.mark.parametrize("stood", [0.5, 3600.0])
async def test_the_directory_has_its_time_although_the_process_stood_still(
    stood: float, place: Path, mock_clock: MockClock
) -> None:
    """Stopped beyond the deadline: what the helper says meanwhile is heard later."""
    async with a_desk(place, patience=3) as desk:
        for comes in (True, False):
            desk.hands.nursery.start_soon(desk.ask, b"%d" % comes)
            hand, _ = await desk.hands.the_order()
            await wait_all_tasks_blocked()
            mock_clock.jump(3 + stood)
            await wait_all_tasks_blocked()
            assert desk.answers == []
            if comes:
                give(hand)
            else:
                mock_clock.jump(4)
            await wait_all_tasks_blocked()
            answer = desk.answers.pop()
            assert isinstance(answer, Rendered if comes else TimeoutError)
            if isinstance(answer, Rendered):
                answer.descriptor.release()


async def test_what_was_waited_for_before_is_part_of_the_time(
    place: Path, autojump_clock: MockClock
) -> None:
    async with a_desk(place, patience=3) as desk:
        with pytest.raises(TimeoutError):
            await desk.listings.get(desk.root, b"path", DIRECTORY, VIEW, spent=2.0)
        assert trio.current_time() == 1.0


async def test_opening_a_directory_is_part_of_the_time_for_its_listing(
    root: Path, mock_clock: MockClock
) -> None:
    async with serving(root) as disk:
        really_open = disk._paths.open
        starts = disk._pool.starts
        await eventually_async(lambda: starts._under_way == 0)  # its time is not the disk's

        async def open_slowly(path: bytes) -> tuple[Opened, Descriptor]:
            mock_clock.jump(2.0)
            return await really_open(path)

        with (
            mock.patch.object(disk._paths, "open", open_slowly),
            mock.patch.object(disk._listings, "get", side_effect=TimeoutError) as get,
            pytest.raises(TimeoutError),
        ):
            await disk.list(b"", VIEW)
    assert get.await_args is not None
    assert get.await_args.kwargs == {"spent": 2.0}


async def test_who_comes_later_has_a_timeout_of_its_own(
    place: Path, autojump_clock: MockClock
) -> None:
    async with a_desk(place, patience=3) as desk:
        desk.hands.nursery.start_soon(desk.ask)
        hand, _ = await desk.hands.the_order()
        await trio.sleep(2)
        desk.hands.nursery.start_soon(desk.ask)
        await trio.sleep(2)
        assert [type(each) for each in desk.answers] == [TimeoutError]
        give(hand)
        await wait_all_tasks_blocked()
        assert [type(each) for each in desk.answers] == [TimeoutError, Rendered]


async def test_the_start_of_a_helper_is_not_held_against_the_directory(
    place: Path, autojump_clock: MockClock
) -> None:
    async with a_desk(place, patience=3, starts_at_once=False) as desk:
        desk.hands.nursery.start_soon(desk.ask)
        await trio.sleep(5)
        desk.hands.helpers[0].start()
        hand, _ = await desk.hands.the_order()
        await trio.sleep(2)
        give(hand)
        await wait_all_tasks_blocked()
        assert [type(each) for each in desk.answers] == [Rendered]


async def test_directories_that_hang_leave_helpers_to_others(
    place: Path, autojump_clock: MockClock
) -> None:
    """Also to the one that is asked for last, before the time of its client is over."""
    async with a_desk(place, patience=8, size=listings.HELPERS) as desk:
        begun = []
        for number in range(listings.HELPERS - 2):
            desk.hands.nursery.start_soon(desk.ask, b"hung %d" % number)
            await wait_all_tasks_blocked()
        desk.hands.nursery.start_soon(desk.ask, b"well")
        while not desk.answers:
            for hand, order in await desk.hands.working():
                path, _ = shown(order)
                begun.append(path)
                if path == b"well":
                    give(hand)
            await trio.sleep(0.5)
        assert sorted(begun[:-1]) == [b"hung %d" % number for number in range(6)]
        assert begun[-1] == b"well"
        assert [type(each) for each in desk.answers] == [Rendered]
        desk.hands.nursery.start_soon(desk.ask, b"another one")
        hand, order = await desk.hands.the_order()
        assert shown(order) == (b"another one", VIEW), "at once"
        give(hand)


async def test_a_mount_that_hangs_has_half_of_the_helpers(
    place: Path, autojump_clock: MockClock
) -> None:
    """However many of its directories are asked for; they keep no slot from others either."""
    async with a_desk(
        place, queue=20, patience=8, size=listings.HELPERS, devices=(DIRECTORY.device, 2)
    ) as desk:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                path = b"hung %d" % number
                nursery.start_soon(desk.ask, path, directory_at(path)._replace(device=2))
        assert [type(each) for each in desk.answers] == [TimeoutError] * 10
        assert len(await desk.hands.working()) == listings.HELPERS // 2
        for number in range(10):
            path = b"more %d" % number
            desk.hands.nursery.start_soon(desk.ask, path, directory_at(path)._replace(device=2))
        await wait_all_tasks_blocked()
        desk.hands.nursery.start_soon(desk.ask, b"well")
        hand, order = await desk.hands.the_order()
        assert shown(order) == (b"well", VIEW)
        give(hand)


async def test_two_are_rendered_at_a_time(place: Path) -> None:
    """However many helpers there are: they take CPU."""
    async with a_desk(place, size=listings.HELPERS) as desk:
        for number in range(5):
            desk.hands.nursery.start_soon(desk.ask, b"%d" % number)
        counts = []
        while working := await desk.hands.working():
            counts.append(len(working))
            for hand, _ in working:
                give(hand)
        assert counts == [2, 2, 1]


async def test_a_plain_view_does_not_wait_for_all_others(place: Path) -> None:
    """Of two that wait, one in another order and a plain one, the plain one is the next; but not
    twice, or nobody would get the other one."""
    async with a_desk(place, queue=20) as desk:
        others = [view for view in ALL_VIEWS if not view.is_plain][:3]
        for view in (*others, View(), View("json")):
            desk.hands.nursery.start_soon(desk.ask, b"path", None, view)
            await wait_all_tasks_blocked()
        begun = []
        while working := await desk.hands.working():
            ((hand, order),) = working
            begun.append(shown(order)[1])
            give(hand)
        assert begun == [others[0], View(), others[1], View("json"), others[2]]


async def test_directories_take_turns(place: Path) -> None:
    """Those of which all views are asked for do not keep others waiting."""
    async with a_desk(place, queue=40) as desk:
        for path in (b"a", b"b"):
            for view in ALL_VIEWS:
                desk.hands.nursery.start_soon(desk.ask, path, None, view)
        await wait_all_tasks_blocked()
        for path in (b"c", b"d", b"e"):
            desk.hands.nursery.start_soon(desk.ask, path)
        begun = []
        while working := await desk.hands.working():
            begun.append({shown(order)[0] for _, order in working})
            for hand, _ in working:
                give(hand)
        assert begun[0] == {b"a", b"b"}
        assert set().union(*begun[:4]) == {b"a", b"b", b"c", b"d", b"e"}


async def test_head_is_one_for_all_views_and_renders_nothing(place: Path) -> None:
    async with a_desk(place) as desk:
        for _ in ALL_VIEWS:
            desk.hands.nursery.start_soon(desk.ask, b"path", None, NOTHING)
        hand, order = await desk.hands.the_order()
        assert shown(order) == (b"path", NOTHING)
        give(hand, 0)
        await wait_all_tasks_blocked()
        assert [type(each) for each in desk.answers] == [Rendered] * 12
        assert desk.stats.listings == 0


# ---------------------------------------------------------------- memory


async def test_what_is_kept_is_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest ones go first, with the next that is asked for."""
    monkeypatch.setattr(listings, "_KEPT", 100)
    async with a_desk(place) as desk:
        for path in (b"a", b"b"):
            await desk.get_and_release(path, size=50)
        await desk.get_and_release(b"a")
        await desk.get_and_release(b"b")
        assert desk.stats.listings == 2, "both are kept"
        await desk.get_and_release(b"c", size=1)
        await desk.get_and_release(b"b")
        await desk.get_and_release(b"c")
        assert desk.stats.listings == 3, "a alone is forgotten"
        await eventually_async(lambda: len(in_memory()) == 2)
        assert desk.listings._bytes == 51
        await desk.get_and_release(b"a", size=101)
        await desk.get_and_release(b"c", size=1)
        assert desk.stats.listings == 5, "the newest is too large, and nothing is kept"
        assert desk.listings._bytes == 1


async def test_the_count_of_what_is_kept_is_bounded(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a descriptor, and anybody may ask for as many as there are words to filter by."""
    monkeypatch.setattr(listings, "_KEPT_VIEWS", 3)
    async with a_desk(place) as desk:
        for number in range(10):
            await desk.get_and_release(b"%d" % number, size=1)
            assert len(desk.listings._shared) <= 4
        await eventually_async(lambda: len(in_memory()) == 4)
        for number in (7, 8, 9):
            await desk.get_and_release(b"%d" % number, size=1)
        assert desk.stats.listings == 10, "the newest are kept"


async def test_what_is_being_sent_is_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "_KEPT", 100)
    monkeypatch.setattr(listings, "_MOST", 200)
    async with a_desk(place) as desk:
        first = await desk.get(b"a", size=200)
        second = await desk.get(b"b", size=1)
        desk.hands.nursery.start_soon(desk.ask, b"c")
        await wait_all_tasks_blocked()
        assert isinstance(desk.answers[0], BlockingIOError)
        assert "too many listings are being sent" in str(desk.answers.pop())
        assert await desk.get(b"b") == second, "what is there is sent all the same"
        assert desk.stats.listings == 2
        second.descriptor.release()
        second.descriptor.release()
        first.descriptor.release()
        await desk.get_and_release(b"c")


async def test_what_is_being_rendered_counts_as_well(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for many at once gets no more memory than who asks for one after the other."""
    monkeypatch.setattr(listings, "_MOST", 200)
    async with a_desk(place) as desk:
        try:
            for number in range(6):
                desk.hands.nursery.start_soon(desk.ask, b"%d" % number)
            for _ in range(3):
                for hand, _ in await desk.hands.working():
                    give(hand, 100)
            await wait_all_tasks_blocked()
            assert desk.listings._bytes <= 300
        finally:
            for _ in range(3):
                for hand, _ in await desk.hands.working():
                    give(hand, 100)


# ---------------------------------------------------------------- those who leave


async def test_one_who_leaves_takes_nothing_from_the_others(place: Path) -> None:
    async with a_desk(place) as desk:
        desk.hands.nursery.start_soon(desk.ask)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(desk.ask)
            hand, _ = await desk.hands.the_order()
            nursery.cancel_scope.cancel()
        assert desk.answers == []
        give(hand)
        await wait_all_tasks_blocked()
        assert len(desk.answers) == 1


async def test_when_all_have_left_it_is_there_for_the_next(
    place: Path, autojump_clock: MockClock
) -> None:
    """And goes when it is too old."""
    async with a_desk(place) as desk:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.ask)
            hand, _ = await desk.hands.the_order()
            nursery.cancel_scope.cancel()
        give(hand)
        await wait_all_tasks_blocked()
        await desk.get_and_release()
        assert desk.stats.listings == 1
        assert len(in_memory()) == 1
        await trio.sleep(AGE)
        await desk.get_and_release(b"other")
        await eventually_async(lambda: len(in_memory()) == 1)


class Moment:
    """In the place of the event that one waits for: something happens just before it is set."""

    def __init__(self, happening: Callable[[], None]) -> None:
        self._happening = happening

    def is_set(self) -> bool:
        return True

    async def wait(self) -> None:
        self._happening()
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("leaves", [False, True])
async def test_it_is_forgotten_as_one_is_about_to_take_it(leaves: bool, place: Path) -> None:
    async with a_desk(place) as desk:
        await desk.get_and_release()
        (shared,) = desk.listings._shared.values()
        with trio.CancelScope() as scope:

            def happening() -> None:
                desk.listings.close()
                if leaves:
                    scope.cancel()

            shared.is_done = Moment(happening)  # type: ignore[assignment]
            await desk.ask()
        assert scope.cancelled_caught == leaves
        if not leaves:
            (answer,) = desk.answers
            assert isinstance(answer, Rendered)
            assert os.fstat(answer.descriptor.fd).st_size == 5
        assert desk.listings._bytes == (0 if leaves else 5)


async def test_it_comes_back_as_all_ends(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listings end at that moment at which the answer is there, and nobody waits for it."""
    try:
        async with a_desk(place) as desk:
            result = desk.hands.pool.result

            async def too_late(job: Job) -> Result:
                await job.wait()
                desk.listings.close()
                return await result(job)

            monkeypatch.setattr(desk.hands.pool, "result", too_late)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(desk.ask)
                hand, _ = await desk.hands.the_order()
                nursery.cancel_scope.cancel()
            give(hand)
            await wait_all_tasks_blocked()
    finally:
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/self/fd/{number}").startswith("/memfd:listing"):
                    os.close(int(number))


# ---------------------------------------------------------------- the whole disk


async def names(disk: LocalDisk, path: bytes = b"") -> list[str]:
    listing = await disk.list(path, VIEW)
    try:
        entries = json.loads(os.pread(listing.file.fd, listing.file.status.size, 0))
        return [entry["name"] for entry in entries]
    finally:
        disk.close(listing.file)


async def test_new_names_are_seen_at_once(folder: Path, kind: str) -> None:
    """And sizes when the listing is too old: here never."""
    stats = Stats()
    (folder / "a").touch()
    async with serving(folder, stats, helpers=kind, listing=True, revalidate=1e6) as disk:
        assert await names(disk) == await names(disk) == ["a"]
        assert stats.listings == 1
        for name in ("b", "c"):
            (folder / name).touch()
            os.utime(folder, ns=(0, ord(name)))  # the clock of a file system may be slow
            assert (await names(disk))[-1] == name
        (folder / "a").unlink()
        assert await names(disk) == ["b", "c"]
        assert stats.listings == 4
        assert stats.files_open == 0
        assert len(in_memory()) == 4
    await nothing_stays_open(folder)


async def test_what_it_counts(folder: Path) -> None:
    stats = Stats()
    (folder / "sub").mkdir()
    async with serving(folder, stats, listing=True) as disk:
        listing = await disk.list(b"sub", View())
        assert (stats.files_open, stats.listings, stats.gates["memory"]) == (1, 1, 1)
        assert len(listing.digest) == 15
        assert await disk.ready(listing.file, 0, listing.file.status.size) > 0
        assert stats.misses == 0
        disk.close(listing.file)
        assert stats.files_open == 0


async def test_a_directory_of_which_nothing_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For HEAD: that there is one, and that it can be opened."""
    stats = Stats()
    (folder / "a").touch()
    async with serving(folder, stats, listing=True) as disk:
        listing = await disk.list(b"", NOTHING)
        assert (listing.file.status.size, stats.listings) == (0, 0)
        disk.close(listing.file)
    monkeypatch.setattr(directories, "_read", None)
    root = os.open(folder, os.O_PATH)
    try:
        memory, _ = directories.render(root, b"", NOTHING)
        os.close(memory)
        with pytest.raises(FileNotFoundError):
            directories.render(root, b"missing", NOTHING)
    finally:
        os.close(root)


@pytest.mark.parametrize(
    ("path", "error"),
    [(b"missing", FileNotFoundError), (b"file", NotADirectoryError), (b"out", OSError)],
)
async def test_what_is_no_directory(path: bytes, error: type[OSError], folder: Path) -> None:
    stats = Stats()
    (folder / "file").touch()
    (folder / "out").symlink_to("..")
    async with serving(folder, stats, listing=True) as disk:
        with pytest.raises(error):
            await disk.list(path, VIEW)
        assert (stats.listings, stats.files_open) == (0, 0)
        await eventually_async(lambda: descriptors(folder) == [str(folder)])


async def test_a_helper_that_is_killed_while_it_renders(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a").touch()
    before = children()
    async with serving(folder, listing=True) as disk:
        await names(disk)
        await eventually_async(lambda: len(children() - before) == 2)
        helpers = children() - before
        for pid in helpers:
            os.kill(pid, signal.SIGSTOP)
        os.utime(folder, ns=(0, 1))
        async with trio.open_nursery() as nursery:
            found: list[list[str]] = []

            async def ask() -> None:
                found.append(await names(disk))

            nursery.start_soon(ask)
            await eventually_async(lambda: disk._listings._pool._busy == 1)
            for pid in helpers:
                os.kill(pid, signal.SIGKILL)
        assert found == [["a"]]
        assert "a disk helper ended: another one takes its place" in caplog.text
        assert not children() & helpers
    await eventually_async(lambda: children() == before)


async def test_every_cancellation_of_a_listing(folder: Path, kind: str) -> None:
    stats = Stats()
    (folder / "a").touch()
    async with serving(folder, stats, helpers=kind, listing=True, revalidate=0) as disk:
        await names(disk)
        await wait_all_tasks_blocked()
        assert await cancelled_at_every_checkpoint(partial(names, disk)) >= 1
        assert stats.files_open == 0
        assert await names(disk) == ["a"]
        await eventually_async(lambda: len(in_memory()) <= 1)
        assert disk._listings._bytes == sum(
            shared.rendered.status.size
            for shared in disk._listings._shared.values()
            if shared.rendered
        )
    await nothing_stays_open(folder)


async def test_without_the_option_there_are_no_processes_for_it(folder: Path) -> None:
    before = children()
    async with serving(folder):
        await wait_all_tasks_blocked()
        assert children() == before
