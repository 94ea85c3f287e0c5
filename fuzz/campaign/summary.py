"""What a campaign has done and found, as numbers, as text and as JSON."""

import dataclasses
import json
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fuzz.campaign import chart
from fuzz.campaign.covering import Reached
from fuzz.campaign.failures import Failure, kind_of, repro_command, versions

_POINTS: Final = 600  # of the timeline that are kept: enough for a chart, whatever its length

# What the kinds of a tally are in the plural; those of anybody else's targets are as they are.
_PLURALS: Final = {
    "beneath": "paths beneath a root",
    "cancellation point": "cancellation points",
    "combination": "combinations",
    "common head": "common heads",
    "fault": "faults",
    "folder": "what was said of names in folders",
    "helper": "what helpers did",
    "mincore": "what mincore said",
    "nginx difference": "differences from nginx",
    "schedule": "runs, each with a schedule",
}
_SHOWN: Final = 40  # of the details of a kind, the most frequent first; the JSON has all


@dataclass(frozen=True)
class Point:
    """The state of a campaign at some time."""

    seconds: float
    executions: int
    branches: int
    failures: int


@dataclass
class Summary:
    engine: str
    seed: int
    jobs: int
    targets: tuple[str, ...]
    reached: Reached
    started: float = field(default_factory=time.monotonic)
    began: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S %Z"))
    seconds: float = 0.0
    executions: Counter[str] = field(default_factory=Counter)  # by target
    busy: Counter[str] = field(default_factory=Counter)  # milliseconds by target
    tally: Counter[tuple[str, ...]] = field(default_factory=Counter)
    failures: dict[str, Failure] = field(default_factory=dict)
    timeline: list[Point] = field(default_factory=list)
    kept: int = 0  # new examples in the corpus
    is_interrupted: bool = False

    def add_failure(self, failure: Failure) -> tuple[Failure, bool]:
        """The failure as it is known now, and whether it is new."""
        known = self.failures.get(failure.id)
        self.failures[failure.id] = known.smaller(failure) if known else failure
        return self.failures[failure.id], known is None

    def count_again(self, counts: Mapping[str, int]) -> None:
        """One of which there are enough of its kind counts as the first of these."""
        for name, count in counts.items():
            alike = (each for each in self.failures if kind_of(each) == kind_of(name))
            known = name if name in self.failures else next(alike, None)
            if known:
                failure = self.failures[known]
                self.failures[known] = dataclasses.replace(failure, count=failure.count + count)

    def tick(self) -> Point:
        self.seconds = time.monotonic() - self.started
        now = Point(
            round(self.seconds, 1),
            self.executions.total(),
            self.reached.branches,
            len(self.failures),
        )
        self.timeline.append(now)
        if len(self.timeline) > 2 * _POINTS:
            del self.timeline[1:-1:2]
        return now

    def as_json(self) -> dict[str, Any]:
        return {
            "began": self.began,
            "seconds": round(self.seconds, 1),
            "interrupted": self.is_interrupted,
            "engine": self.engine,
            "seed": self.seed,
            "jobs": self.jobs,
            "versions": versions(),
            "executions": self.executions.total(),
            "targets": {
                name: {
                    "executions": self.executions[name],
                    "seconds": self.busy[name] / 1000,
                    "failures": sorted(f.id for f in self.failures.values() if f.target == name),
                }
                for name in self.targets
            },
            "branches": {
                "reached": self.reached.branches,
                "possible": self.reached.possible,
                "percent": round(self.reached.percent, 1),
            },
            "kept": self.kept,
            "tally": _nested(self.tally),
            "failures": [
                {
                    "id": failure.id,
                    "target": failure.target,
                    "error": failure.error,
                    "where": failure.where,
                    "seed": failure.seed,
                    "batch": failure.batch,
                    "count": failure.count,
                    "repro": repro_command(failure),
                }
                for failure in self.failures.values()
            ],
            "timeline": [dataclasses.astuple(point) for point in self.timeline],
        }


def _nested(tally: Mapping[tuple[str, ...], int]) -> dict[str, Any]:
    """Kind -> its total, how many different ones there are, and each with its count."""
    by_kind: dict[str, dict[str, int]] = defaultdict(dict)
    for (kind, *details), count in sorted(tally.items()):
        by_kind[kind][" ".join(details)] = count
    return {
        kind: {"total": sum(found.values()), "different": len(found), "counts": found}
        for kind, found in by_kind.items()
    }


# ------------------------------------------------------------------ as text


def text(summary: Mapping[str, Any]) -> str:
    """For people; from the JSON, so that `report` says the same later."""
    return "\n".join(
        [
            _title(summary),
            "",
            *_targets(summary),
            "",
            _branches(summary),
            *_tally(summary["tally"]),
            *_failures(summary["failures"]),
        ]
    )


def _title(summary: Mapping[str, Any]) -> str:
    seconds = summary["seconds"]
    ended = ", interrupted" if summary["interrupted"] else ""
    return (
        f"{clock(seconds)} of {summary['engine']} from --seed {summary['seed']}, "
        f"{counted(summary['jobs'], 'job')}{ended}: {many(summary['executions'])} executions, "
        f"{summary['executions'] / max(seconds, 0.001):.0f} a second"
    )


def _targets(summary: Mapping[str, Any]) -> Iterable[str]:
    width = max(map(len, summary["targets"]))
    for name, target in summary["targets"].items():
        rate = target["executions"] / target["seconds"] if target["seconds"] else 0
        failed = f"  {len(target['failures'])} FAILED" if target["failures"] else ""
        yield f"  {name:{width}} {many(target['executions']):>12} executions {rate:8.0f}/s{failed}"


def _branches(summary: Mapping[str, Any]) -> str:
    branches = summary["branches"]
    return (
        f"branches of trio_amped: {branches['reached']} of {branches['possible']} "
        f"({branches['percent']} %), {summary['kept']} examples new in the corpus"
    )


def _tally(tally: Mapping[str, Any]) -> Iterable[str]:
    for kind, found in tally.items():
        name = _PLURALS.get(kind, kind)
        if list(found["counts"]) == [""]:
            yield f"{name}: {many(found['total'])}"
            continue
        yield f"{name}: {many(found['total'])}, {found['different']} different"
        yield from _grid(found["counts"]) if kind == "fault" else _most(found["counts"])


def _most(counts: Mapping[str, int]) -> Iterable[str]:
    most = sorted(counts.items(), key=lambda item: -item[1])[:_SHOWN]
    listed = ", ".join(f"{details} {count}" for details, count in most)
    return _wrapped(listed)


def _grid(counts: Mapping[str, int]) -> Iterable[str]:
    """Faults: a line for each call, with its errnos."""
    by_call: dict[str, list[str]] = defaultdict(list)
    for details, count in counts.items():
        call, _, errno = details.partition(" ")
        by_call[call].append(f"{errno} {count}")
    for call, errnos in by_call.items():
        yield from _wrapped(f"{call:14} {', '.join(errnos)}", 15)


def _wrapped(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="  " + " " * indent)


def _failures(failures: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    failures = list(failures)
    yield counted(len(failures), "failure") if failures else "no failures"
    for failure in failures:
        yield f"  {failure['id']}, {counted(failure['count'], 'time')}: {failure['error']}"
        yield f"    at {failure['where']}, --seed {failure['seed']}; {failure['repro']}"


def many(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def counted(number: int, what: str) -> str:
    return f"{many(number)} {what}{'' if number == 1 else 's'}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


# ------------------------------------------------------------------ the files


def write(reports: Path, summary: Summary) -> str:
    """The text, the JSON, the chart, and what `cover` reads. Returns the text."""
    reports.mkdir(parents=True, exist_ok=True)
    found = summary.as_json()
    told = text(found)
    (reports / "summary.txt").write_text(told + "\n")
    (reports / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    (reports / "reached.json").write_text(json.dumps(summary.reached.as_json()) + "\n")
    (reports / "coverage.svg").write_text(
        chart.svg(_title(found), found["timeline"], found["branches"]["possible"])
    )
    return told
