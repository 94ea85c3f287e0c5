"""What a run has found: samples, ratios of the same round, and how ours compare to the floors."""

import statistics
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from typing import Any

from bench.hot.idle import FLOOR, Memory
from bench.hot.measure import Sample
from bench.hot.peers import BASE, OURS, PLAIN, PLAIN_BASE, PLAIN_FLOOR
from bench.hot.workloads import WORKERS, WORKLOADS


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and the least and the most of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Verdict:
    """A number of ours, and what it should be."""

    row: str
    value: float
    floor: float  # 0: there is none
    goal: float
    at_most: bool = False  # the floor is then a ceiling

    @property
    def holds(self) -> bool:
        return self.value <= self.floor if self.at_most else self.value >= self.floor

    @property
    def is_goal(self) -> bool:
        return self.value <= self.goal if self.at_most else self.value >= self.goal


@dataclass
class Results:
    """`samples[workload][server][round]`; what failed, and what is to be said besides."""

    samples: dict[str, dict[str, dict[int, Sample]]] = field(default_factory=dict)
    idle: dict[str, Memory] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: set[tuple[str, str]] = field(default_factory=set)  # workload, server

    def add(self, workload: str, server: str, number: int, sample: Sample) -> None:
        self.samples.setdefault(workload, {}).setdefault(server, {})[number] = sample

    def fail(self, workload: str, server: str, number: int, reason: object) -> None:
        self.failed.add((workload, server))
        self.failures.append(f"{server}, {workload}, round {number + 1}: {reason}")

    def ratio(self, workload: str, server: str, base: str = BASE) -> Spread | None:
        """Requests a second, in those of the base in the same round. None: never, or it failed."""
        rows = self.samples.get(workload, {})
        ours, theirs = rows.get(server, {}), rows.get(base, {})
        both = sorted(ours.keys() & theirs.keys())
        if not both or (workload, server) in self.failed:
            return None
        return Spread.of([ours[number].rate / theirs[number].rate for number in both])

    def middle(self, workload: str, server: str) -> Sample | None:
        """The median of each number by itself."""
        samples = list(self.samples.get(workload, {}).get(server, {}).values())
        if not samples or (workload, server) in self.failed:
            return None
        middles = (statistics.median(column) for column in zip(*map(astuple, samples), strict=True))
        return Sample(*middles)

    def verdicts(self) -> Iterator[Verdict]:
        """Our server and the floors, where both have been measured."""
        for workload in WORKLOADS.values():
            ratio = self.ratio(workload.name, OURS)
            if ratio and workload.floor is not None:
                goal = max(1.0, workload.floor)
                yield Verdict(workload.name, ratio.median, workload.floor, goal)
        if workers := self.ratio(WORKERS, OURS):
            yield Verdict(WORKERS, workers.median, 0.0, 1.0)
        if plain := self.ratio("1k", PLAIN, PLAIN_BASE):
            row = "1k, lane off, to nginx default"
            yield Verdict(row, plain.median, PLAIN_FLOOR, PLAIN_FLOOR)
        if memory := self.idle.get(OURS):
            yield Verdict("idle, bytes", memory.pss, FLOOR, FLOOR, at_most=True)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "samples": {
                workload: {
                    server: [{"round": number, **vars(sample)} for number, sample in rounds.items()]
                    for server, rounds in servers.items()
                }
                for workload, servers in self.samples.items()
            },
            "idle": {server: vars(memory) for server, memory in self.idle.items()},
            "failures": self.failures,
            "notes": self.notes,
        }
