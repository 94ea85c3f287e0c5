"""What a run has found: samples, ratios of the same round, and how ours compare to the floors."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.hot import floors
from bench.hot.idle import Memory
from bench.hot.measure import Hot, Sample
from bench.hot.peers import DEFAULT, EARLIER, OURS, PEERS, TASKS, TUNED
from bench.hot.rows import CLIENTS, HERD, IDLE, PAPER, ROWS, TLS_IDLE
from bench.spread import Spread

Measure = Callable[[Sample], float]


def rate(sample: Sample) -> float:
    return sample.rate


def cpu(sample: Sample) -> float:
    return sample.cpu


def hot(sample: Sample) -> float:
    return sample.hot.p99 if sample.hot else float("nan")


@dataclass(frozen=True)
class Verdict:
    """A number of ours, and what it should be, if anything is asked."""

    row: str
    measure: str
    value: float
    floor: float | None
    goal: float | None

    def __str__(self) -> str:
        sign = "<=" if self.measure in floors.AT_MOST else ">="
        return f"{self.row}: {self.measure} {self.value:.2f}, the floor is {sign} {self.floor:g}"

    @property
    def holds(self) -> bool:
        return self._reaches(self.floor)

    @property
    def is_goal(self) -> bool:
        return self._reaches(self.goal)

    def _reaches(self, bound: float | None) -> bool:
        if bound is None:
            return True
        at_most = self.measure in floors.AT_MOST
        return self.value <= bound if at_most else self.value >= bound


def _median(things: Sequence[object], name: str) -> float:
    return float(statistics.median(getattr(thing, name) for thing in things))


def _sample(plain: Mapping[str, Any]) -> Sample:
    found = {name: value for name, value in plain.items() if name not in ("round", "hot")}
    return Sample(**found, hot=Hot(**plain["hot"]) if plain["hot"] else None)


@dataclass
class Results:
    """`samples[row][server][round]`; what failed, and what is to be said besides."""

    samples: dict[str, dict[str, dict[int, Sample]]] = field(default_factory=dict)
    idle: dict[str, Memory] = field(default_factory=dict)
    tls_idle: dict[str, Memory] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: set[tuple[str, str]] = field(default_factory=set)  # row, server

    def add(self, row: str, server: str, number: int, sample: Sample) -> None:
        self.samples.setdefault(row, {}).setdefault(server, {})[number] = sample

    def fail(self, row: str, server: str, number: int, reason: object) -> None:
        self.failed.add((row, server))
        self.failures.append(f"{server}, {row}, round {number + 1}: {reason}")

    def join(self, plain: Mapping[str, Any]) -> None:
        """Take the rows that were not measured from an earlier run, as `plain` has written it."""
        missing = plain["samples"].keys() - self.samples.keys()
        for row, servers in plain["samples"].items():
            if row not in missing:
                continue
            for server, rounds in servers.items():
                for each in rounds:
                    self.add(row, server, each["round"], _sample(each))
        if not self.idle:
            self.idle = {server: Memory(**found) for server, found in plain["idle"].items()}
        if not self.tls_idle:
            found_by = plain.get("tls_idle", {})
            self.tls_idle = {server: Memory(**found) for server, found in found_by.items()}
        self.failed |= {(row, server) for row, server in plain["failed"] if row in missing}
        self.failures += [each for each in plain["failures"] if each.split(", ")[1] in missing]
        self.notes += [each for each in plain["notes"] if each not in self.notes]

    def ratio(
        self, row: str, server: str, base: str = TUNED, of: Measure = rate, base_row: str = ""
    ) -> Spread | None:
        """A measure, in that of the base in the same round. None: never measured, or it failed."""
        ours, theirs = self._rounds(row, server), self._rounds(base_row or row, base)
        both = sorted(ours.keys() & theirs.keys())
        return Spread.of([of(ours[at]) / of(theirs[at]) for at in both]) if both else None

    def middle(self, row: str, server: str) -> Sample | None:
        """The median of each number by itself."""
        samples = list(self._rounds(row, server).values())
        if not samples:
            return None
        hots = [sample.hot for sample in samples if sample.hot]
        rate, cpu, idle, others = (
            _median(samples, name) for name in ("rate", "cpu", "idle", "others")
        )
        hot = Hot(*(_median(hots, name) for name in ("p50", "p99", "most"))) if hots else None
        return Sample(rate, cpu, idle, others, hot)

    def verdicts(self) -> Iterator[Verdict]:
        """Each number of ours, with the floors, where both have been measured."""
        for row in ROWS:
            least, goals = floors.FLOORS.get(row, {}), floors.GOALS.get(row, {})
            for measure, value in self._measures(row):
                yield Verdict(row, measure, value, least.get(measure), goals.get(measure))
        if memory := self.idle.get(OURS):
            bound = floors.FLOORS[IDLE][floors.BYTES]
            yield Verdict(IDLE, floors.BYTES, memory.pss, bound, bound)
        if (ours := self.tls_idle.get(OURS)) and (theirs := self.tls_idle.get(TUNED)):
            bound = floors.FLOORS[TLS_IDLE][floors.BYTES_OF_TUNED]
            ratio = ours.pss / theirs.pss
            yield Verdict(TLS_IDLE, floors.BYTES_OF_TUNED, ratio, bound, bound)

    def _measures(self, row: str) -> Iterator[tuple[str, float]]:
        """All that floors may be for."""
        yield from self._ratios(row)
        middle = self.middle(row, OURS)
        if middle and middle.hot:
            yield floors.HOT, middle.hot.p99
        if middle and row in HERD:
            yield floors.SECONDS, CLIENTS / middle.rate

    def _ratios(self, row: str) -> Iterator[tuple[str, float]]:
        spreads = {
            floors.TUNED: [self.ratio(row, OURS)],
            floors.DEFAULT: [self.ratio(row, OURS, DEFAULT)],
            floors.EARLIER: [self.ratio(row, OURS, EARLIER)],
            floors.BETTER: [self.ratio(row, OURS, each) for each in (TUNED, DEFAULT)],
            floors.CPU_TUNED: [self.ratio(row, OURS, TUNED, cpu)],
            floors.CPU_DEFAULT: [self.ratio(row, OURS, DEFAULT, cpu)],
            floors.CPU_EARLIER: [self.ratio(row, OURS, EARLIER, cpu)],
            floors.PLAIN_GETS: [self.ratio(row, OURS, OURS, cpu, "plain")],
        }
        if row == "plain":
            spreads[floors.TASKS_OF_DEFAULT] = [self.ratio(row, TASKS, DEFAULT)]
        if row in PAPER:
            others = [peer.name for peer in PEERS.values() if peer.kind == "nginx"]
            spreads[floors.BEST] = [self.ratio(row, OURS, each) for each in others]
            spreads[floors.HOT_OF_BEST] = [self.ratio(row, OURS, each, hot) for each in others]
        for measure, found in spreads.items():
            worst = max if measure in floors.AT_MOST else min
            if medians := [spread.median for spread in found if spread]:
                yield measure, worst(medians)

    def _rounds(self, row: str, server: str) -> dict[int, Sample]:
        """What was measured in each round; nothing of a server that has failed in one."""
        return {} if (row, server) in self.failed else self.samples.get(row, {}).get(server, {})

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "samples": {
                row: {
                    server: [
                        {"round": number, **asdict(sample)} for number, sample in rounds.items()
                    ]
                    for server, rounds in servers.items()
                }
                for row, servers in self.samples.items()
            },
            "idle": {server: vars(memory) for server, memory in self.idle.items()},
            "tls_idle": {server: vars(memory) for server, memory in self.tls_idle.items()},
            "failed": sorted(self.failed),
            "failures": self.failures,
            "notes": self.notes,
        }
