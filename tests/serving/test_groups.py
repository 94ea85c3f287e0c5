"""Clients of the lane that wait for the same: one question, no tasks, and the others go first."""

import errno
import itertools
import math
import os
import socket
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.serving.cases import FILES, LARGE, get
from tests.serving.client import Answer, parse
from tests.serving.peers import Client, Laned, Rounds, fileno, has_received, on_the_lane
from tests.simulated import NOW, failure
from trio_amped.config import Answered, Config
from trio_amped.disk.interface import OpenFile
from trio_amped.semantics.recogniser import Match
from trio_amped.serving import crowd as crowd_module
from trio_amped.serving import lane as lane_module
from trio_amped.serving.replies import Reply
from trio_amped.testing import SimDisk, SimFile

MANY = 200
A = b"0123456789"  # of a.txt


async def ask_together(laned: Laned, request: bytes) -> list[Client]:
    """Many clients whose requests are there when the lane looks."""
    clients = crowd(laned, [request] * MANY)
    await wait_all_tasks_blocked()
    return clients


async def answers_to(clients: list[Client]) -> list[Answer]:
    """Their answers, each of which is the last on its connection."""
    return [answer for client in clients for answer in parse(await client.receive_all(), [b"GET"])]


def last(path: str, *fields: str) -> bytes:
    return get(path, "Connection: close", *fields)


@pytest.mark.parametrize("latency", ["open_latency", "load_latency"])
async def test_one_question_and_no_task_for_all(latency: str, autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES, **{latency: 2.0})  # type: ignore[arg-type]
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = await ask_together(laned, last("/a.txt"))
        assert (laned.tasks, laned.stats.requests) == (0, 0)
        assert [each.body for each in await answers_to(clients)] == [A] * MANY
        assert trio.current_time() == 2.0
        assert disk.opens + disk.loads == 1
        assert (laned.stats.requests, laned.stats.by_lane) == (MANY, MANY)
        assert not laned.lane._groups


@pytest.mark.parametrize(
    ("number", "status"), [(errno.EIO, 500), (errno.ETIMEDOUT, 503), (errno.ENOENT, 404)]
)
async def test_one_error_is_for_all(number: int, status: int, autojump_clock: MockClock) -> None:
    """None of them asks a disk that has failed once more."""
    disk = SimDisk({**FILES, b"a.txt": failure(number)}, open_latency=2.0)
    async with on_the_lane(disk) as laned:
        clients = await ask_together(laned, last("/a.txt"))
        assert [each.status for each in await answers_to(clients)] == [status] * MANY
        assert (disk.opens, trio.current_time()) == (1, 2.0)


class FailingDisk(SimDisk):
    """One that opens files, takes a second for each part of them, and cannot read it."""

    def ready_at_once(self, file: OpenFile, offset: int, end: int) -> int:
        return 0

    async def ready(self, file: OpenFile, offset: int, end: int) -> int:
        self.loads += 1
        await trio.sleep(1.0)
        raise failure(errno.EIO)

    async def read(self, file: OpenFile, offset: int, end: int) -> bytes:
        return b"%d" % await self.ready(file, offset, end)


@pytest.mark.parametrize("path", ["/a.txt", "/large.bin"])
async def test_one_load_that_fails_is_for_all(path: str, autojump_clock: MockClock) -> None:
    disk = FailingDisk(FILES)
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = await ask_together(laned, last(path))
        assert [each.status for each in await answers_to(clients)] == [500] * MANY
        assert (disk.loads, trio.current_time()) == (1, 1.0)


async def test_what_came_first_is_at_hand_when_more_is_missed(autojump_clock: MockClock) -> None:
    """The disk says once what it says of the file, though that cannot be kept, and once what the
    error page is."""
    disk = SimDisk({**FILES, b"a.txt": failure(errno.EIO)}, open_latency=0.5)
    async with on_the_lane(
        disk, Config(error_pages=("500=/empty.txt",), precompressed=())
    ) as laned:
        clients = await ask_together(laned, last("/a.txt"))
        assert {(each.status, each.body) for each in await answers_to(clients)} == {(500, b"")}
        assert disk.opens == 2
        assert laned.tasks == 0


async def test_different_misses_are_waited_for_at_once(autojump_clock: MockClock) -> None:
    disk = SimDisk({f"{number}": b"%d" % number for number in range(MANY)}, open_latency=2.0)
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = [laned.connect() for _ in range(MANY)]
        for number, client in enumerate(clients):
            await client.send(last(f"/{number}"))
        assert [each.body for each in await answers_to(clients)] == [
            b"%d" % number for number in range(MANY)
        ]
        assert trio.current_time() == 2.0


async def test_groups_for_which_the_disk_has_come_at_once_take_turns(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each round of the loop others can come before the next of them."""
    monkeypatch.setattr(lane_module, "_TURN", 0.0)
    files = {b"%d" % number: SimFile(A) for number in range(10)}
    async with on_the_lane(SimDisk(files, open_latency=2.0), Config(precompressed=())) as laned:
        clients = crowd(laned, [last(f"/{number}") for number in range(10)])
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(rounds := Rounds(laned.stats))
        assert [each.body for each in await answers_to(clients)] == [A] * 10
        trio.lowlevel.remove_instrument(rounds)
        assert trio.current_time() == 2.0
        assert max(rounds.answered) == 1


async def test_pages_that_are_missed_after_the_file_are_loaded_at_once(
    autojump_clock: MockClock,
) -> None:
    """Parts of one file, which was not open: its facts are waited for together, its pages each."""
    size, parts = 64 * 1024, 20
    content = bytes(number for number in range(parts) for _ in range(size))
    disk = SimDisk({"a.bin": content}, window=size, open_latency=1.0, load_latency=1.0)
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = [laned.connect() for _ in range(parts)]
        for number, client in enumerate(clients):
            start = number * size
            await client.send(last("/a.bin", f"Range: bytes={start}-{start + 9}"))
        answers = await answers_to(clients)
        assert [each.body for each in answers] == [bytes([number] * 10) for number in range(parts)]
        assert disk.opens == 1
        assert trio.current_time() == 2.0


async def test_a_hot_client_goes_first(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes when many are to be answered at once is not behind all of them."""
    monkeypatch.setattr(lane_module, "_TURN", math.inf)  # else some join the others out of turn
    monkeypatch.setattr(lane_module, "_LATER", math.inf)
    disk = SimDisk(FILES, open_latency=2.0)
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        hot = laned.connect()
        await hot.send(get("/empty.txt"))
        clients = await ask_together(laned, get("/a.txt"))
        before = laned.stats.requests
        monkeypatch.setattr(lane_module, "_TURN", -1.0)  # each of them takes a turn of its own
        await clients[0].receive(1)
        await hot.send(last("/empty.txt"))
        await hot.receive_all()
        assert laned.stats.requests < before + MANY // 2
        assert not has_received(clients[-1])


async def test_a_file_that_is_written_is_opened_once_in_a_moment(
    autojump_clock: MockClock,
) -> None:
    """It cannot be kept, but all who asked before the lane looked get one version of it."""
    disk = SimDisk({"new": SimFile(b"new", mtime_ns=NOW * 10**9)})
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = await ask_together(laned, last("/new"))
        assert [each.body for each in await answers_to(clients)] == [b"new"] * MANY
        assert disk.open_files == 0


async def test_pages_of_a_file_that_is_written_are_waited_for(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody keeps it open but those who wait."""
    disk = SimDisk({"new": SimFile(b"new", mtime_ns=NOW * 10**9)}, load_latency=1.0)
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = await ask_together(laned, last("/new"))
        assert [each.body for each in await answers_to(clients)] == [b"new"] * MANY
    assert "a bug" not in caplog.text


async def test_pages_of_a_file_that_is_evicted_meanwhile(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It was kept when they came, and was let go of before it was asked for its pages."""
    disk = SimDisk(FILES, load_latency=1.0)
    async with on_the_lane(disk, Config(precompressed=(), max_open_files=1)) as laned:
        await laned.connect().send(get("/large.bin", method="HEAD"))
        await wait_all_tasks_blocked()
        clients = crowd(laned, [last("/large.bin")] * 20 + [last("/a.txt")] * 20)
        answers = await answers_to(clients)
        assert [each.body for each in answers] == [LARGE] * 20 + [A] * 20
    assert "a bug" not in caplog.text


async def test_a_client_that_leaves_does_not_keep_the_lane_busy(autojump_clock: MockClock) -> None:
    """Its connection is closed when what it has waited for has come; the others get theirs."""
    disk = SimDisk(FILES, open_latency=math.inf)
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = await ask_together(laned, last("/a.txt"))
        for client in clients[::2]:
            await client.stream.aclose()
        await wait_all_tasks_blocked()  # it is not, if the lane spins
        assert laned.stats.connections_open == MANY


async def test_they_wait_longer_than_a_connection_may_be_idle(autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES, open_latency=100.0)
    async with on_the_lane(disk, Config(keep_alive_timeout=5, head_timeout=5)) as laned:
        clients = await ask_together(laned, last("/a.txt"))
        assert [each.body for each in await answers_to(clients)] == [A] * MANY


async def test_a_drain_waits_for_them(autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES, open_latency=2.0)
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = await ask_together(laned, get("/a.txt"))
        laned.server.drain(60.0)
        answers = await answers_to(clients)
        assert [(each.body, each.closes) for each in answers] == [(A, True)] * MANY


async def test_the_end_of_the_server_leaves_nothing(autojump_clock: MockClock) -> None:
    async with on_the_lane(SimDisk(FILES, open_latency=math.inf)) as laned:
        await ask_together(laned, get("/a.txt"))


@pytest.mark.parametrize("pipelined", [1, 3])
async def test_the_hook_is_told_how_long_they_waited(
    pipelined: int, autojump_clock: MockClock
) -> None:
    calls: list[Answered] = []
    disk = SimDisk(FILES, open_latency=2.0)
    config = Config(on_request=calls.append, precompressed=())
    async with on_the_lane(disk, config) as laned:
        await ask_together(laned, get("/a.txt") * (pipelined - 1) + last("/a.txt"))
        await trio.sleep(3.0)
    expected = [2.0] + [0.0] * (pipelined - 1)
    assert [each.seconds for each in calls] == expected * MANY


async def test_a_bug_in_a_question_is_a_bug_for_each(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each gets a task, which asks again."""
    disk = SimDisk(FILES)
    disk.at_open[0] = ZeroDivisionError("planted")
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = await ask_together(laned, last("/a.txt"))
        assert [each.body for each in await answers_to(clients)] == [A] * MANY
    assert "a bug in the fast lane" in caplog.text


def send_now(client: Client, request: bytes) -> None:
    """Without a checkpoint: the lane sees it together with what others send now."""
    assert os.write(fileno(client), request) == len(request)


def crowd(laned: Laned, requests: list[bytes]) -> list[Client]:
    """As many clients, whose requests are all there when the lane looks."""
    clients = [laned.connect() for _ in requests]
    for client, request in zip(clients, requests, strict=True):
        send_now(client, request)
    return clients


async def test_of_a_crowd_those_who_ask_for_something_else_go_first(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though all of them ask for what is kept, and they came last."""
    monkeypatch.setattr(lane_module, "_TURN", 3600.0)
    calls: list[Answered] = []
    config = Config(on_request=calls.append, precompressed=())
    async with on_the_lane(SimDisk(FILES), config) as laned:
        for path in ("/a.txt", "/empty.txt"):
            await laned.connect().send(get(path))
            await wait_all_tasks_blocked()
        calls.clear()
        crowd(laned, [get("/a.txt")] * MANY + [get("/empty.txt")] * 3)
        await wait_all_tasks_blocked()
    targets = [each.target for each in calls]
    assert len(targets) == MANY + 3
    assert "/empty.txt" not in targets[-MANY + 2 * crowd_module._ALIKE :]


async def order_of(requests: list[bytes], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the targets of requests that came together, in the order of their answers."""
    monkeypatch.setattr(lane_module, "_TURN", 3600.0)
    monkeypatch.setattr(lane_module, "_LARGE", 40_000)
    calls: list[Answered] = []
    config = Config(on_request=calls.append, precompressed=())
    async with on_the_lane(SimDisk(FILES), config) as laned:
        for request in set(requests):
            await laned.connect().send(request)
            await wait_all_tasks_blocked()
        calls.clear()
        clients = crowd(laned, requests)
        await wait_all_tasks_blocked()
        assert all(map(has_received, clients))
    return [each.target for each in calls]


@pytest.mark.parametrize("field", ["", "Range: bytes=1-"])
async def test_large_answers_are_behind_others(
    field: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few are enough: to send one of them takes as long as dozens of others."""
    large = get("/large.bin", *[field] * bool(field))
    targets = await order_of([large] * 4 + [get("/a.txt")] * 2, monkeypatch)
    assert targets == ["/a.txt"] * 2 + ["/large.bin"] * 4


async def test_of_large_answers_to_one_client_each_has_a_turn(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = get("/large.bin", "Range: bytes=0-49999")
    targets = await order_of([large * 3, large, get("/a.txt")], monkeypatch)
    assert targets == ["/a.txt"] + ["/large.bin"] * 4


async def test_large_answers_that_were_waited_for_need_no_more_events(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk has brought is answered outside of the turns in which some are put off."""
    monkeypatch.setattr(lane_module, "_LARGE", 1)
    disk = SimDisk(FILES, load_latency=1.0)
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        part = "Range: bytes=0-49999"
        clients = crowd(laned, [get("/large.bin", part) * 2 + last("/large.bin", part)] * 4)
        for client in clients:
            assert (await client.receive_all()).count(b"206 Partial") == 3


@pytest.mark.parametrize("path", ["/a.txt", "/empty.txt", "/nope", "/large.bin"])
async def test_a_crowd_that_asks_again_and_again(path: str, autojump_clock: MockClock) -> None:
    """Whoever was put off is watched again."""
    async with on_the_lane(SimDisk(FILES), Config(precompressed=())) as laned:
        clients = crowd(laned, [get(path, method="HEAD")] * MANY)
        for _ in range(2):
            await wait_all_tasks_blocked()
            assert all(map(has_received, clients))
            for client in clients:
                os.read(fileno(client), 65536)
                send_now(client, get(path, method="HEAD"))
        await wait_all_tasks_blocked()
        assert laned.stats.requests == 3 * MANY


def one_in_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd is read at once, and of those who are put off each has a turn of its own."""
    monkeypatch.setattr(lane_module, "_TURN", math.inf)
    monkeypatch.setattr(lane_module, "_LATER", 1.5)
    monkeypatch.setattr(lane_module, "time", SimpleNamespace(monotonic=itertools.count().__next__))


async def test_a_file_that_is_still_written_is_opened_once_for_a_crowd(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them have asked before, though each has its answer in another turn. Not so others."""
    one_in_each_turn(monkeypatch)
    disk = SimDisk(FILES)
    opened, open_at_once = [], disk.open_at_once

    def noted(path: bytes) -> OpenFile:
        opened.append(path)
        return open_at_once(path)

    monkeypatch.setattr(disk, "open_at_once", noted)
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = crowd(laned, [last("/new.txt")] * MANY)
        assert [each.body for each in await answers_to(clients)] == [b"just written"] * MANY
        assert opened == [b"new.txt"]
        clients = crowd(laned, [last("/new.txt")] * MANY)
        assert [each.body for each in await answers_to(clients)] == [b"just written"] * MANY
        assert opened == [b"new.txt"] * 2
        assert laned.tasks == 0


async def test_a_crowd_that_asks_for_the_same_is_not_looked_into(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others come to their turn sooner: of those who send the same head one tells for all."""
    monkeypatch.setattr(lane_module, "_TURN", math.inf)  # a crowd is read at once
    async with on_the_lane(SimDisk(FILES), Config(precompressed=())) as laned:
        looks, at_hand = [], laned.entrance.replies.at_hand

        def noted(match: Match) -> Reply | None:
            looks.append(match)
            return at_hand(match)

        monkeypatch.setattr(laned.entrance.replies, "at_hand", noted)
        clients = crowd(laned, [last("/new.txt")] * MANY)
        assert [each.body for each in await answers_to(clients)] == [b"just written"] * MANY
        assert len(looks) == MANY + 1


async def test_what_a_crowd_holds_is_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them ask for files that cannot be kept, each for another one."""
    one_in_each_turn(monkeypatch)
    disk = SimDisk({f"{number}": SimFile(A, mtime_ns=NOW * 10**9) for number in range(MANY)})
    held, close = [], disk.close

    def noted(file: OpenFile) -> None:
        held.append(len(disk._open))
        close(file)

    monkeypatch.setattr(disk, "close", noted)
    async with on_the_lane(disk, Config(precompressed=())) as laned:
        clients = crowd(laned, [last(f"/{number}") for number in range(MANY)])
        assert [each.body for each in await answers_to(clients)] == [A] * MANY
    assert len(held) == MANY
    assert max(held) <= crowd_module._HELD + 1


@pytest.mark.parametrize("path", ["/a.txt", "/nope"])
@pytest.mark.parametrize("has_asked", [True, False])
async def test_a_crowd_that_ends_its_side(
    has_asked: bool, path: str, autojump_clock: MockClock
) -> None:
    """With a request or without one: it has its answer, and is closed."""
    async with on_the_lane(SimDisk(FILES), Config(precompressed=())) as laned:
        clients = crowd(laned, [get("/empty.txt")] * MANY)
        await wait_all_tasks_blocked()
        before = laned.stats.requests
        for client in clients:
            assert isinstance(client.stream, trio.SocketStream)
            if has_asked:
                send_now(client, get(path))
            client.stream.socket.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert laned.stats.requests == before + MANY * has_asked
        assert laned.stats.connections_open == 0
        assert trio.current_time() == 0


class ForgetfulDisk(SimDisk):
    """One whose pages are evicted as soon as they are loaded."""

    def ready_at_once(self, file: OpenFile, offset: int, end: int) -> int:
        return 0


async def test_what_is_evicted_again_is_sent_by_tasks(autojump_clock: MockClock) -> None:
    async with on_the_lane(ForgetfulDisk(FILES), Config(precompressed=())) as laned:
        clients = await ask_together(laned, last("/a.txt"))
        assert [each.body for each in await answers_to(clients)] == [A] * MANY


# ---------------------------------------------------------------- a disk that takes too long


@pytest.mark.parametrize("path", ["/a.txt", "/large.bin"])
@pytest.mark.parametrize("kind", ["open_latency", "load_latency"])
async def test_each_of_a_group_has_its_own_deadline(
    kind: str, path: str, autojump_clock: MockClock
) -> None:
    """Who joins others late does not wait for less time than they did, nor for twice as long."""
    disk = SimDisk(FILES, **{kind: math.inf})  # type: ignore[arg-type]
    disk.disk_timeout = 30.0
    ended: list[tuple[float, int]] = []

    async def ask(laned: Laned, delay: float) -> None:
        await trio.sleep(delay)
        client = laned.connect()
        await client.send(last(path))
        (answer,) = parse(await client.receive_all(), [b"GET"])
        ended.append((trio.current_time(), answer.status))

    async with on_the_lane(disk, Config(precompressed=(), disk_timeout=30.0)) as laned:
        async with trio.open_nursery() as nursery:
            for delay in (0.0, 0.0, 10.0, 25.0, 29.5):
                nursery.start_soon(ask, laned, delay)
        assert laned.tasks == 0
    assert [status for _, status in ended] == [503] * 5
    assert [when for when, _ in ended] == pytest.approx([30, 30, 40, 55, 60], abs=1)


async def test_who_has_time_left_is_served_by_a_disk_that_comes_back(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(FILES, open_latency=math.inf)
    disk.disk_timeout = 30.0
    async with on_the_lane(disk, Config(precompressed=(), disk_timeout=30.0)) as laned:
        first = laned.connect()
        await first.send(last("/a.txt"))
        await trio.sleep(25)
        second = laned.connect()
        await second.send(last("/a.txt"))
        await trio.sleep(1)
        disk.open_latency = 0.0
        assert [each.status for each in await answers_to([first, second])] == [503, 200]
        assert trio.current_time() == pytest.approx(30)
