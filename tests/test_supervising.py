"""What a supervisor does about its workers, and when: on virtual time, with workers of our own."""

import logging
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_amped import supervisor as module
from trio_amped.config import Config, Process
from trio_amped.reloading import Fresh
from trio_amped.settings.effective import packed
from trio_amped.stats import Stats
from trio_amped.supervisor import Supervisor
from trio_amped.worker_process import DRAIN, RETIRE, STOP

DRAINING: Final = 7.0
RETIRING: Final = 70.0
CONFIG: Final = Config(port=0, drain_timeout=DRAINING, retire_timeout=RETIRING)
FRESH: Final = Fresh(CONFIG, Process(), None)
LASTING: Final = 10.0


class Puppet:
    """A worker that lives as the test wants it to, and remembers what it was told and when."""

    all: list["Puppet"] = []  # noqa: RUF012  # since the test began
    starting = 1.0  # seconds that the next ones take to start
    serves = True  # whether the next ones do
    cannot_start: Exception | None = None  # why the next ones have no process

    def __init__(self) -> None:
        self.all.append(self)
        self.name = ""
        self.options: list[str] = []
        self.log: int | None = None
        self.is_serving = False
        self.is_settled = trio.Event()
        self.has_process = False
        self.unusable: OSError | None = None
        self.counters: Stats | None = None
        self.told: list[tuple[bytes, float, float]] = []  # order, seconds, when
        self.listeners: Sequence[Any] = ()
        self.started_at = self.served_at = self.ended_at = 0.0
        self._since = trio.current_time()
        self._end = trio.Event()
        self._how = ""
        self._starting, self._serves = self.starting, self.serves

    def has_lasted(self) -> bool:
        return trio.current_time() >= self._since + LASTING

    def tell(self, order: bytes, seconds: float) -> None:
        self.told.append((order, seconds, trio.current_time()))

    async def run(
        self, name: str, listeners: Sequence[Any], options: list[str], access_log: int | None
    ) -> str:
        self.name, self.listeners = name, listeners
        self.started_at = trio.current_time()
        self.options, self.log = options, access_log
        try:
            if self.cannot_start:
                self._end.set()
                raise self.cannot_start
            self.has_process = True
            with trio.move_on_after(self._starting):
                await self._end.wait()
            if self._serves and not self._end.is_set():
                self.is_serving = True
                self.is_settled.set()
                self.served_at = trio.current_time()
                await self._end.wait()
        finally:
            self.is_settled.set()
        self.ended_at = trio.current_time()
        return self._how or "ended"

    def end(self, how: str = "died", requests: int | None = None) -> None:
        """Be no more; `requests`: it has sent its counters."""
        self._how = how
        if requests is not None:
            self.counters = Stats(requests=requests)
        self._end.set()

    @property
    def is_alive(self) -> bool:
        return not self._end.is_set()


class Stage:
    """A supervisor at work."""

    def __init__(self, workers: int) -> None:
        self.fresh = FRESH  # what is read at the next reload
        self.supervisor = Supervisor(FRESH, workers, self.read_again)
        self.status: int | None = None

    async def read_again(self) -> Fresh:
        await trio.lowlevel.checkpoint()
        return self.fresh

    @property
    def alive(self) -> list[Puppet]:
        return [each for each in Puppet.all if each.name and each.is_alive]

    async def signal(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
        await wait_all_tasks_blocked()

    async def end(self) -> None:
        """As a service manager does it."""
        await self.signal(signal.SIGTERM)
        for puppet in self.alive:
            puppet.end(requests=0)


@pytest.fixture(autouse=True)
def _puppets(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "Worker", Puppet)
    monkeypatch.setattr(Puppet, "all", [])
    caplog.set_level(logging.INFO, logger="trio_amped")


@asynccontextmanager
async def supervised(workers: int, status: int = 0) -> AsyncIterator[Stage]:
    """All of them serve; at the end the test has seen to it that they end."""
    stage = Stage(workers)

    async def run() -> None:
        stage.status = await stage.supervisor.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(2.5)
        assert len(stage.alive) == workers
        yield stage
    assert stage.status == status
    assert stage.alive == []


def begun_workers() -> int:
    """How many processes there would have been."""
    return sum(bool(each.name) for each in Puppet.all)


def messages(caplog: pytest.LogCaptureFixture, *levels: int) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno in levels]


# ---------------------------------------------------------------- the start and the end


async def test_the_first_one_starts_alone_and_says_how(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(3) as stage:
        first, *others = Puppet.all
        assert [each.name for each in Puppet.all] == ["1,announce,0", "2,quiet,0", "3,quiet,0"]
        assert first.started_at == 0
        assert [each.started_at for each in others] == [first.served_at] * 2 == [1, 1]
        assert len({id(each.listeners) for each in Puppet.all}) == 3
        await stage.end()
    assert messages(caplog, logging.INFO)[0] == "3 workers serve"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_all_and_another_one_stops_them(
    number: signal.Signals, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(2) as stage:
        listeners = [each for puppet in Puppet.all for each in puppet.listeners]
        await stage.signal(number)
        drained_at = trio.current_time()
        assert [each.told for each in Puppet.all] == [[(DRAIN, DRAINING, drained_at)]] * 2
        assert all(listener.fileno() < 0 for listener in listeners)
        await trio.sleep(1)
        await stage.signal(signal.SIGHUP)
        assert all(len(each.told) == 1 for each in Puppet.all)
        await stage.signal(number)
        assert [each.told[1:] for each in Puppet.all] == [[(STOP, 0, drained_at + 1)]] * 2
        for requests, puppet in enumerate(Puppet.all, 3):
            puppet.end(requests=requests)
    assert len(Puppet.all) == 2
    assert stage.supervisor.stats.requests == 3 + 4
    assert stage.supervisor.uncounted == 0
    assert messages(caplog, logging.INFO)[1:] == [
        f"{number.name}: finishing what is being sent, at most 7 s; once more stops at once"
    ]
    assert messages(caplog, logging.WARNING, logging.ERROR) == []


async def test_those_that_end_without_a_word_are_told_of(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(2) as stage:
        await stage.signal(signal.SIGTERM)
        Puppet.all[0].end(requests=5)
        Puppet.all[1].end("had to be killed")
    assert (stage.supervisor.stats.requests, stage.supervisor.uncounted) == (5, 1)
    assert messages(caplog, logging.ERROR) == ["worker 2: had to be killed"]


@pytest.mark.parametrize("at", [0.5, 1.5], ids=["before the first serves", "before the others do"])
async def test_a_signal_while_they_start(at: float, autojump_clock: MockClock) -> None:
    stage = Stage(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.supervisor.run)
        await trio.sleep(at)
        begun = len(Puppet.all)
        await stage.signal(signal.SIGTERM)
        assert [each.told[0][0] for each in Puppet.all if each.name] == [DRAIN] * begun
        for puppet in stage.alive:
            puppet.end(requests=0)
    assert begun == (1 if at < 1 else 3)
    assert [each for each in Puppet.all if each.name][begun:] == []


async def test_a_root_that_cannot_be_served_ends_all(autojump_clock: MockClock) -> None:
    async def fail() -> None:
        await trio.sleep(0.5)
        [only] = Puppet.all
        only.unusable = OSError(2, "No such file or directory", "/missing")
        only.end(requests=0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        with pytest.raises(FileNotFoundError):
            await Stage(3).supervisor.run()
    assert [each.name for each in Puppet.all if each.name] == ["1,announce,0"]


# ---------------------------------------------------------------- a rolling restart


async def test_each_old_one_retires_when_its_successor_serves(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One after the other. It retires, and does not drain: others have still to ask it."""
    async with supervised(3) as stage:
        old = list(Puppet.all)
        await stage.signal(signal.SIGHUP)
        hung_up_at = trio.current_time()
        await trio.sleep(3.5)
        new = Puppet.all[3:]
        assert [each.name for each in new] == ["1,announce,0", "2,quiet,0", "3,quiet,0"]
        assert [each.started_at - hung_up_at for each in new] == [0, 1, 2]
        assert [each.told for each in old] == [[(RETIRE, RETIRING, each.served_at)] for each in new]
        assert [each.listeners for each in new] == [each.listeners for each in old]
        for puppet in old:
            puppet.end(requests=2)
        await trio.sleep(100)
        assert stage.alive == new
        await stage.end()
    assert stage.supervisor.stats.requests == 6
    said = messages(caplog, logging.INFO)
    assert said[1:3] == [
        "SIGHUP: starting the workers anew, one by one",
        "all workers are new",
    ]
    assert messages(caplog, logging.WARNING, logging.ERROR) == []


async def test_several_at_once_are_one_more(autojump_clock: MockClock) -> None:
    """It may be about what has changed since the one under way began."""
    async with supervised(2) as stage:
        await stage.signal(signal.SIGHUP)
        await trio.sleep(0.5)
        await stage.signal(*[signal.SIGHUP] * 5)
        await trio.sleep(0.2)
        await stage.signal(signal.SIGHUP)
        await trio.sleep(20)
        assert len(Puppet.all) == 2 + 2 + 2
        await stage.end()


async def test_a_successor_that_does_not_serve_ends_the_restart(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(3) as stage:
        old = list(Puppet.all)
        await stage.signal(signal.SIGHUP)
        await trio.sleep(1.5)  # the first one is new, the second one starts
        Puppet.all[4].end("broke")
        await trio.sleep(100)
        assert len(Puppet.all) == 5
        assert [bool(each.told) for each in old] == [True, False, False]
        await stage.end()
    assert messages(caplog, logging.ERROR) == [
        "worker 2: broke",
        "worker 2 is not renewed: its successor does not serve",
    ]
    assert "all workers are new" not in messages(caplog, logging.INFO)


async def test_four_generations_retire_and_the_oldest_of_five_is_ended(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients that stay for long must not let processes pile up."""
    async with supervised(2) as stage:
        for _ in range(4):
            await stage.signal(signal.SIGHUP)
            await trio.sleep(2.5)
        assert all(len(each.told) == 1 for each in Puppet.all[:8])
        Puppet.all[4].end(requests=0)  # the second one of the first seat is gone already
        await stage.signal(signal.SIGHUP)
        await trio.sleep(2.5)
        told = [[(order, seconds) for order, seconds, _ in each.told] for each in Puppet.all[:10]]
        retired = [(RETIRE, RETIRING)]
        assert told == [retired, [*retired, (DRAIN, DRAINING)], *[retired] * 8]
        await stage.end()
    assert messages(caplog, logging.WARNING, logging.ERROR) == [
        "worker 2: more than 4 generations retire: the oldest finishes what it sends, at most 7 s"
    ]


async def test_a_signal_during_a_restart_ends_the_new_ones_too(autojump_clock: MockClock) -> None:
    async with supervised(2) as stage:
        await stage.signal(signal.SIGHUP)
        await trio.sleep(1.5)
        assert len(Puppet.all) == 4
        await stage.signal(signal.SIGTERM)
        ordered = [[order for order, _, _ in each.told] for each in Puppet.all]
        assert ordered == [[RETIRE, DRAIN], [DRAIN], [DRAIN], [DRAIN]]
        for puppet in stage.alive:
            puppet.end(requests=0)


async def test_one_that_dies_during_its_renewal_has_one_successor(
    autojump_clock: MockClock,
) -> None:
    async with supervised(2) as stage:
        await stage.signal(signal.SIGHUP)
        await trio.sleep(0.5)
        Puppet.all[0].end()
        await trio.sleep(2)
        Puppet.all[1].end()  # it has retired
        await trio.sleep(20)
        assert stage.alive == Puppet.all[2:]
        assert len(stage.alive) == 2
        await stage.end()


async def test_one_that_dies_while_its_successor_hangs_is_replaced(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor, if it ever serves, takes that one's place."""
    async with supervised(2) as stage:
        first, second = Puppet.all
        monkeypatch.setattr(Puppet, "starting", 50.0)
        await stage.signal(signal.SIGHUP)
        monkeypatch.setattr(Puppet, "starting", 1.0)
        await trio.sleep(0.5)
        first.end()
        died_at = trio.current_time()
        await trio.sleep(40)
        _, _, successor, another = Puppet.all
        assert stage.alive == [second, successor, another]
        assert another.started_at == pytest.approx(died_at + 5.1)
        assert another.is_serving
        await trio.sleep(20)
        assert another.told == [(RETIRE, RETIRING, successor.served_at)]
        assert successor.told == []
        await stage.end()


async def test_a_restart_is_faster_than_the_time_until_the_next_one(
    autojump_clock: MockClock,
) -> None:
    async with supervised(2) as stage:
        await trio.sleep(LASTING)
        Puppet.all[0].end()
        for _ in range(6):  # so that the time is five seconds
            await trio.sleep(5)
            Puppet.all[-1].end()
        died = len(Puppet.all)
        await stage.signal(signal.SIGHUP)
        await trio.sleep(20)
        assert len(Puppet.all) == died + 2
        assert [each.is_alive for each in Puppet.all[-2:]] == [True, True]
        await stage.end()


# ---------------------------------------------------------------- new settings


def fresh(**settings: Any) -> Fresh:
    return Fresh(Config(port=0, **settings), Process(), None)


async def test_new_settings_are_for_all_that_start_from_then_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What an old one is told is by its own."""
    async with supervised(2) as stage:
        stage.fresh = fresh(drain_timeout=1, retire_timeout=2)
        await stage.signal(signal.SIGHUP)
        await trio.sleep(2.5)
        old, new = Puppet.all[:2], Puppet.all[2:]
        assert [each.told[0][:2] for each in old] == [(RETIRE, RETIRING)] * 2
        assert all(each.options == [packed(*stage.fresh[:2])] for each in new)
        new[0].end()
        await trio.sleep(10)
        assert Puppet.all[4].options == new[0].options
        await stage.signal(signal.SIGTERM)
        drained = [each.told[-1][:2] for each in stage.alive]
        assert drained == [(DRAIN, DRAINING)] * 2 + [(DRAIN, 1)] * 2
        for puppet in stage.alive:
            puppet.end(requests=0)
    assert "SIGTERM: finishing what is being sent, at most 1 s; once more stops at once" in (
        messages(caplog, logging.INFO)
    )


async def test_who_is_replaced_has_the_certificates_of_the_last_look(
    autojump_clock: MockClock,
) -> None:
    """A supervisor looks for renewals every ten seconds, as workers do for themselves."""

    class Renewed:
        looks = 0

        async def keep_up(self) -> None:
            await trio.lowlevel.checkpoint()
            self.looks += 1

        def packed(self) -> str:
            return f"{self.looks} looks"

    certificates: Any = Renewed()
    async with supervised(1) as stage:
        stage.fresh = FRESH._replace(certificates=certificates)
        await stage.signal(signal.SIGHUP)
        await trio.sleep(35.5)
        Puppet.all[1].end()
        await trio.sleep(2)
        assert Puppet.all[1].options[1:] == ["\n", "0 looks"]
        assert Puppet.all[2].options[1:] == ["\n", "3 looks"]
        await stage.end()


async def test_until_the_first_successor_serves_the_old_settings_hold(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For those that take the place of one that dies meanwhile; and after that, if it does not."""
    async with supervised(2) as stage:
        before = Puppet.all[0].options
        monkeypatch.setattr(Puppet, "starting", 30.0)
        stage.fresh = fresh(drain_timeout=1)
        await stage.signal(signal.SIGHUP)
        monkeypatch.setattr(Puppet, "starting", 1.0)
        assert Puppet.all[2].options != before
        Puppet.all[1].end()
        await trio.sleep(10)
        assert Puppet.all[3].options == before
        Puppet.all[2].unusable = OSError(2, "No such file or directory", "/missing")
        Puppet.all[2].end(requests=0)
        await trio.sleep(10)
        assert all(each.told == [] for each in Puppet.all)
        Puppet.all[0].end()
        await trio.sleep(10)
        assert Puppet.all[4].options == before
        await stage.end()


async def test_settings_that_cannot_be_read_start_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(2) as stage:
        before = list(Puppet.all)

        async def refuse() -> Fresh:
            await trio.lowlevel.checkpoint()
            raise ValueError("a.toml, line 1: no")

        stage.supervisor._read_again = refuse
        await stage.signal(signal.SIGHUP)
        stage.supervisor._read_again = trio.sleep_forever
        await stage.signal(signal.SIGHUP)
        await trio.sleep(61)
        assert Puppet.all == before
        await stage.signal(signal.SIGHUP)  # nobody waits for this one
        await stage.end()
    assert messages(caplog, logging.ERROR) == [
        "SIGHUP: a.toml, line 1: no; the old settings stay",
        "SIGHUP: the new settings could not be used within 60 s; the old settings stay",
    ]


# ---------------------------------------------------------------- workers that die


async def test_each_early_death_in_a_row_doubles_the_time_to_the_next_one(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Up to five seconds; and one that has lasted begins anew. The others go on."""
    async with supervised(2) as stage:
        other = Puppet.all[1]
        await trio.sleep(LASTING)
        lives = [Puppet.all[0]]
        for _ in range(9):
            lives[-1].end()
            await trio.sleep(6.5)  # the longest time, and that of its start
            lives.append(Puppet.all[-1])
        assert [
            round(after.started_at - before.ended_at, 6) for before, after in pairwise(lives)
        ] == [*(0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5)]
        await trio.sleep(LASTING)
        lives[-1].end()
        await trio.sleep(1)
        assert Puppet.all[-1].started_at - lives[-1].ended_at == pytest.approx(0.1)
        assert {each.name for each in Puppet.all[2:]} == {"1,quiet,0"}
        assert other.told == []
        await stage.end()
    said = messages(caplog, logging.ERROR)
    assert said[:2] == [
        "worker 1: died; the next one in 0.1 s",
        "worker 1: died; the next one in 0.2 s",
    ]
    assert said[6:9] == ["worker 1: died; the next one in 5 s"] * 3
    assert said[9:] == ["worker 1: died; the next one in 0.1 s"]


@pytest.mark.parametrize("workers", [2, 3])
async def test_it_gives_up_when_all_of_them_die_early(
    workers: int,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After five deaths for each."""
    monkeypatch.setattr(Puppet, "starting", 0.0)
    async with supervised(workers, status=1) as stage:
        for deaths in range(1, 5 * workers + 1):
            victim = next(each for each in stage.alive if each.is_serving)
            victim.end()
            await trio.sleep(0.8 * (deaths % workers == 0))  # until the others are replaced
            await wait_all_tasks_blocked()
    *replaced, last, given_up = messages(caplog, logging.ERROR)
    assert len(replaced) == 5 * workers - 1
    assert all("; the next one in " in line for line in replaced)
    assert last.endswith(": died")
    assert given_up == f"{5 * workers} workers in a row ended at once: given up"


async def test_it_does_not_give_up_while_one_of_them_lasts(autojump_clock: MockClock) -> None:
    async with supervised(2) as stage:
        await trio.sleep(LASTING)
        for _ in range(30):
            Puppet.all[-1].end()
            await trio.sleep(6.5)
        assert len(stage.alive) == 2
        await stage.end()


async def test_nobody_is_replaced_once_it_ends(autojump_clock: MockClock) -> None:
    """Nor one that was to be, a moment later."""
    async with supervised(2) as stage:
        await trio.sleep(LASTING)
        for _ in range(6):
            Puppet.all[-1].end()
            await trio.sleep(6.5)
        begun = begun_workers()
        Puppet.all[-1].end()
        await trio.sleep(1)
        await stage.end()
        ended_at = trio.current_time()
    assert begun_workers() == begun
    assert trio.current_time() == ended_at


@pytest.mark.parametrize("error", [OSError(11, "no more processes"), MemoryError()])
async def test_it_tries_for_as_long_as_no_process_can_be_started(
    error: Exception,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once it has served: what the system has no room for now it may have later."""
    async with supervised(2) as stage:
        monkeypatch.setattr(Puppet, "cannot_start", error)
        for puppet in Puppet.all[:2]:
            puppet.end()
        await trio.sleep(600)
        assert stage.alive == []
        monkeypatch.setattr(Puppet, "cannot_start", None)
        await trio.sleep(6.5)
        assert len(stage.alive) == 2
        await stage.signal(signal.SIGHUP)
        await trio.sleep(2.5)
        assert len(stage.alive) == 4
        await stage.end()
    said = messages(caplog, logging.ERROR)
    assert all("; the next one in " in line for line in said)
    assert len(said) > 200


async def test_it_gives_up_where_no_process_could_ever_be_started(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Puppet, "cannot_start", OSError(11, "no more processes"))
    assert await Stage(2).supervisor.run() == 1
