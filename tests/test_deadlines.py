"""Deadlines that are fair where the process has stood still, by a clock that jumps."""

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_amped.deadlines import _of_this_run, until, within


class Block:
    """A block that waits for ever, within 10 seconds."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.ended_at = math.inf
        nursery.start_soon(self._wait)

    async def _wait(self) -> None:
        with within(10.0) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        self.ended_at = trio.current_time()


async def jump(clock: MockClock, seconds: float) -> None:
    await wait_all_tasks_blocked()
    clock.jump(seconds)
    await wait_all_tasks_blocked()


async def test_it_is_exact(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        block = Block(nursery)
    assert block.ended_at == 10.0


async def test_a_block_that_ends_by_itself(autojump_clock: MockClock) -> None:
    with within(10.0) as scope:
        await trio.sleep(9.0)
    assert not scope.cancelled_caught
    with pytest.raises(ValueError, match="of its own"), within(10.0):
        raise ValueError("of its own")
    with until(math.inf, 10.0):
        await trio.sleep(9.0)


@pytest.mark.parametrize(("stood", "more"), [(0.5, 0.5), (3600.0, 10.0)])
async def test_it_is_put_off_once(stood: float, more: float, mock_clock: MockClock) -> None:
    """By as much as it was found late, and for as long as it was at most."""
    async with trio.open_nursery() as nursery:
        block = Block(nursery)
        await jump(mock_clock, 10.0 + stood)
        await jump(mock_clock, more * 0.99)
        assert block.ended_at == math.inf
        await jump(mock_clock, 7200.0)
        assert block.ended_at < math.inf


async def test_who_is_not_late_has_no_more_time(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        block = Block(nursery)
        await jump(mock_clock, 9.0)
        await jump(mock_clock, 1.0)
        assert block.ended_at == 10.0


async def test_a_deadline_that_has_passed_before(autojump_clock: MockClock) -> None:
    autojump_clock.jump(100.0)
    for deadline, more in ((99.0, 1.0), (50.0, 10.0), (100.0, 0.0)):
        begun = trio.current_time()
        with until(begun - 100.0 + deadline, 10.0):
            await trio.sleep_forever()
        assert trio.current_time() == begun + more


async def test_the_first_deadline_of_all_tells_how_late_it_is(mock_clock: MockClock) -> None:
    """Also where it is nobody's of ours: the loop was to wake then."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 5.0)
        block = Block(nursery)
        await jump(mock_clock, 11.0)
        await jump(mock_clock, 5.9)
        assert block.ended_at == math.inf
        await jump(mock_clock, 0.2)
        assert block.ended_at < math.inf


async def test_it_leaves_nothing(mock_clock: MockClock) -> None:
    with within(10.0):
        await trio.lowlevel.checkpoint()
    lookout = _of_this_run.get()
    assert lookout.is_there
    assert lookout.blocks == {}
    await jump(mock_clock, 1.0)
    assert not lookout.is_there
    with within(10.0):
        assert lookout.is_there
