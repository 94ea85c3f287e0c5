"""The parent of a campaign: gives workers what to do, and keeps what comes back from them.

It alone writes new examples and crashes. A worker that dies or hangs is a failure with
the seed of its batch, and a new worker goes on with the next seed.
"""

import itertools
import selectors
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from fuzz.campaign import failures
from fuzz.campaign.corpus import Corpus
from fuzz.campaign.covering import Reached
from fuzz.campaign.desk import Assignment, Flight, find_targets
from fuzz.campaign.display import Display
from fuzz.campaign.failures import Failure
from fuzz.campaign.job import Job, top_of_stack
from fuzz.campaign.places import Places, shown
from fuzz.campaign.summary import Summary
from fuzz.campaign.watch import as_blob, example_of, raw
from fuzz.campaign.watch import shown as example_shown

_TICK: Final = 0.5  # seconds between two points of the timeline
# Seconds of a worker's CPU time; if it waits, ten times as many on the clock (fuzz/limits.py):
_GRACE: Final = 15.0  # to end its last example
_START: Final = 60.0  # until it has begun, at most
_SLICE: Final = (5.0, 60.0)  # of atheris on one target, at least and at most
_DEATHS: Final = 3  # so many, and a target is left out: starting workers is all that goes on


@dataclass(frozen=True)
class Plan:
    targets: tuple[str, ...]
    seed: int
    engine: str = "hypothesis"
    module: str = "fuzz.targets"
    minutes: float = 60.0
    jobs: int = 2
    turns: int | None = None  # for each job, then it ends
    batch: int | None = None  # examples with one seed; None: as many as fit in a few seconds
    patience: float = 60.0  # seconds of CPU time without a word, and a worker hangs
    is_ended_by_failure: bool = False
    choices: str = ""  # for the engine repeat, which runs this example once


class Unable(Exception):
    """No worker could start: nothing of this campaign can be done."""


class Campaign:
    """Runs a plan to its end, or until it is interrupted."""

    def __init__(self, plan: Plan, places: Places, display: Display | None = None) -> None:
        self.plan = plan
        self.places = places
        self.summary = Summary(plan.engine, plan.seed, plan.jobs, plan.targets, Reached())
        self._display = display
        self._selector = selectors.DefaultSelector()
        self._deaths: Counter[str] = Counter()
        self._is_stopping = False
        self._corpus = Corpus(places)
        self._measured: dict[str, float] = {}  # when what atheris keeps of a target was, last
        self._next_tick = 0.0

    def run(self) -> Summary:
        """Raises Unable if its workers cannot start."""
        self.places.reports.mkdir(parents=True, exist_ok=True)
        try:
            for number in range(self.plan.jobs):
                job = Job(number, self.places.reports)
                self._go_on(job, self._assignments(job))
            self._listen()
        finally:
            self._kill_all()
            self.summary.tick()
            self._keep_counts()
        return self.summary

    def interrupt(self) -> None:
        """Soon it ends; from a handler of a signal."""
        self.summary.is_interrupted = True

    def _keep_counts(self) -> None:
        """What was seen again was only counted."""
        for failure in self.summary.failures.values():
            failures.write(self.places.crashes, failure)

    # -------------------------------------------------------------- the loop

    def _listen(self) -> None:
        while self._selector.get_map():
            for ready, _ in self._selector.select(_TICK / 2):
                self._read(*ready.data)
            if self._is_done() and not self._is_stopping:
                self._is_stopping = True
                self._tell_all_to_end()
            if self._is_stopping and all(job.silence.seconds > _GRACE for job in self._jobs()):
                self._say_who_is_late()
                return
            self._look_for_the_hung()
            self._tick()

    def _is_done(self) -> bool:
        is_late = time.monotonic() - self.summary.started > self.plan.minutes * 60
        is_enough = self.plan.is_ended_by_failure and bool(self.summary.failures)
        return is_late or is_enough or self.summary.is_interrupted

    def _tick(self) -> None:
        if time.monotonic() < self._next_tick:
            return
        self._next_tick = time.monotonic() + _TICK
        now = self.summary.tick()
        if self._display is not None:
            at_work = ", ".join(f"{job.target} {job.seed}" for job in self._jobs())
            self._display.update(self.summary, now, at_work)

    def _jobs(self) -> list[Job]:
        return [entry.data[0] for entry in self._selector.get_map().values()]

    def _look_for_the_hung(self) -> None:
        for job in self._jobs():
            patience = self.plan.patience if job.has_begun else max(_START, self.plan.patience)
            if job.silence.seconds > patience and not job.is_hung:
                job.is_hung = True
                job.stop(signal.SIGABRT)  # faulthandler writes to its log where it hangs
                job.silence.start()
            elif job.is_hung and job.silence.seconds > _GRACE:
                job.stop(signal.SIGKILL)

    def _tell_all_to_end(self) -> None:
        for job in self._jobs():
            job.stop(signal.SIGTERM)
            job.silence.start()

    def _say_who_is_late(self) -> None:
        for job in self._jobs():
            if self._display is not None:
                self._display.say(f"killed at the end: {job.target}, --seed {job.seed}")

    def _kill_all(self) -> None:
        for job in self._jobs():
            job.stop(signal.SIGKILL)
            job.process.wait()
            self._selector.unregister(job.pipe)
            job.pipe.close()
        self._selector.close()

    # -------------------------------------------------------------- workers come and go

    def _go_on(self, job: Job, assignments: Iterator[Assignment]) -> None:
        """The next worker of this job, if there is anything left to do."""
        work = None if self.summary.is_interrupted else next(assignments, None)
        # What atheris has kept is still measured at the end: it is all that is seen of it.
        if work is not None and (work.engine == "measure" or not self._is_stopping):
            job.start(work)
            self._selector.register(job.pipe, selectors.EVENT_READ, (job, assignments))

    def _read(self, job: Job, assignments: Iterator[Assignment]) -> None:
        messages = job.messages()
        for message in messages or ():
            self._take(job, message)
        if messages is None:
            self._selector.unregister(job.pipe)
            job.pipe.close()
            how = job.death()
            if not job.is_over:
                self._bury(job, how)
            self._go_on(job, assignments)

    def _bury(self, job: Job, how: str) -> None:
        if not job.has_begun and self._is_stopping:
            return  # it was told to end before it could listen
        log = job.last_words()
        if not job.has_begun:
            raise Unable(f"{how} before it began; {shown(job.log)} ends with:\n{log[-2000:]}")
        self._deaths[job.target] += 1
        where = top_of_stack(log)
        failure = Failure(
            id=failures.make_id(job.target, how, where),
            target=job.target,
            module=self.plan.module,
            engine=self.plan.engine,
            seed=job.seed,
            batch=job.batch,
            error=how,
            where=where,
            traceback=log,
            is_death=True,
        )
        self._fail(self._with_example(failure, Flight.left_in(job.flight)))

    def _with_example(self, failure: Failure, drawn: bytes) -> Failure:
        """The example in which the worker died; what is drawn here is not checked."""
        if not drawn:
            return failure
        target, choices = find_targets(self.plan.module)[failure.target], as_blob(drawn)
        example = example_of(target, choices)
        text = example_shown(target, example)
        return replace(
            failure,
            choices=choices,
            size=len(drawn),
            example=text,
            first_choices=choices,
            first_example=text,
            raw=raw(example),
        )

    def _left(self) -> tuple[str, ...]:
        return tuple(name for name in self.plan.targets if self._deaths[name] < _DEATHS)

    def _left_after(self, name: str) -> tuple[str, ...]:
        """Who kills a worker has the last turn in the next one, or the others had none."""
        left, targets = self._left(), self.plan.targets
        at = targets.index(name) + 1 if name in targets else 0
        return tuple(one for one in targets[at:] + targets[:at] if one in left)

    def _assignments(self, job: Job) -> Iterator[Assignment]:
        engines = {
            "hypothesis": self._by_hypothesis,
            "atheris": self._by_atheris,
            "repeat": self._by_repeating,
        }
        return engines[self.plan.engine](job)

    def _by_repeating(self, job: Job) -> Iterator[Assignment]:
        yield self._assignment(
            "repeat", self.plan.targets, self.plan.seed, choices=self.plan.choices
        )

    def _by_hypothesis(self, job: Job) -> Iterator[Assignment]:
        """One worker for all of the time; after its death another one, from the next seed.

        The corpus is shared out, and each job begins somewhere else: all targets are seen early.
        """
        plan, step, turns, seed = self.plan, self.plan.jobs, self.plan.turns, self.plan.seed
        corpus = plan.targets[job.number :: step]
        seed += job.number
        job.target = plan.targets[job.number * len(plan.targets) // step - 1]
        while self._left() and turns != 0:
            more = {"step": step, "turns": turns, "batch": plan.batch, "corpus": corpus}
            yield self._assignment("hypothesis", self._left_after(job.target), seed, **more)
            corpus = ()
            if job.is_over:
                return
            if turns is not None:
                turns -= (job.seed - seed) // step + 1
            seed = job.seed + step

    def _by_atheris(self, job: Job) -> Iterator[Assignment]:
        """Targets by turns, each in a process of its own; then what it has kept is measured."""
        targets, jobs, turns = self.plan.targets, self.plan.jobs, self.plan.turns
        seconds = self.plan.minutes * 60 * jobs / len(targets) / 2
        seconds = min(max(seconds, _SLICE[0]), _SLICE[1])
        for number in itertools.count(job.number, jobs):
            if not self._left() or (turns is not None and number >= turns * len(targets)):
                return
            name, seed = targets[number % len(targets)], self.plan.seed + number
            if name in self._left():
                left = self.summary.started + self.plan.minutes * 60 - time.monotonic()
                began = time.time()
                yield self._assignment("atheris", (name,), seed, seconds=min(seconds, left))
                since = self._measured.get(name, 0.0)
                yield self._assignment("measure", (name,), seed, since=since, seconds=seconds)
                self._measured[name] = began

    def _assignment(
        self, engine: str, targets: tuple[str, ...], seed: int, **more: Any
    ) -> Assignment:
        places = self.places
        kept = (str(places.corpus), str(places.crashes), str(places.reports))
        return Assignment(engine, self.plan.module, targets, seed, places=kept, **more)

    # -------------------------------------------------------------- what workers say

    def _take(self, job: Job, message: dict[str, Any]) -> None:
        kind, target = message["is"], message["target"]
        if kind == "begun":
            job.target, job.seed, job.batch = target, message["seed"], message["batch"]
            job.has_begun = True
        elif kind == "progress":
            self.summary.executions[target] += message["executions"]
            self.summary.busy[target] += round(1000 * message["seconds"])
            for name, count in message["tally"]:
                self.summary.tally[tuple(name)] += count
        elif kind == "reached":
            if self.summary.reached.add(message["arcs"]):
                self.summary.kept += self._corpus.keep(target, message["choices"], message["data"])
        elif kind == "failure":
            self._fail(Failure(**message["failure"]))
        elif kind == "again":
            self.summary.count_again(message["counts"])
        elif kind == "over":
            job.is_over = True

    def _fail(self, failure: Failure) -> None:
        failure, is_new = self.summary.add_failure(failure)
        if is_new:
            failure = failures.joined(self.places.crashes, failure)
            self.summary.failures[failure.id] = failure
        directory = failures.write(self.places.crashes, failure)
        if is_new and self._display is not None:
            self._display.failure(failure, shown(directory))
