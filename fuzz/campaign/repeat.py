"""One failure once more, and smaller: `repro` and `minimise`."""

import tempfile
from dataclasses import replace
from pathlib import Path

from fuzz.campaign import failures
from fuzz.campaign.campaign import Campaign, Plan
from fuzz.campaign.desk import find_targets
from fuzz.campaign.failures import Failure
from fuzz.campaign.interrupts import noting_interrupts
from fuzz.campaign.places import Places, shown
from fuzz.campaign.watch import Watch, replay, shrink
from fuzz.target import Target


def repro(failure: Failure) -> int:
    """Run exactly this example. Returns 1 if it still fails, 2 if it means nothing any more."""
    if failure.is_death or not failure.choices:
        return _repeat_in_worker(failure)
    watch = Watch(_target(failure))
    if not replay(watch, failure.choices):
        print(
            f"{failure.id} cannot be run: the strategies of {failure.target}, or Hypothesis, have "
            f"changed since. Its example is in example.txt; its batch was --seed {failure.seed}"
        )
        return 2
    if not watch.best:
        print(f"{failure.id} does not fail any more")
        return 0
    again = watch.failures(failure.engine, failure.seed, failure.module)[0]
    print(again.traceback.rstrip(), again.example, sep="\n\n")
    other = "" if again.id == failure.id else f", differently: as {again.id}"
    print(f"\n{failure.id} still fails{other}: {again.error}")
    return 1


def _repeat_in_worker(failure: Failure) -> int:
    """Its example; or its whole batch, if it needs that to fail, or if there was no example."""
    plan = Plan(
        (failure.target,),
        failure.seed,
        module=failure.module,
        jobs=1,
        turns=1,
        batch=failure.batch or None,
        minutes=10,
    )
    found: dict[str, Failure] = {}
    if failure.choices:
        found = _run(replace(plan, engine="repeat", choices=failure.choices))
    found = found or _run(plan)
    for again in found.values():
        print(again.traceback.rstrip(), again.example, sep="\n\n")
        print(f"\n{failure.id} still fails: {again.error}")
    if not found:
        print(f"{failure.id} does not fail any more")
    return 1 if found else 0


def _run(plan: Plan) -> dict[str, Failure]:
    with tempfile.TemporaryDirectory() as directory:
        campaign = Campaign(plan, Places.below(Path(directory)))
        with noting_interrupts(campaign.interrupt):
            done = campaign.run()
    if done.is_interrupted:
        raise KeyboardInterrupt  # and not "does not fail any more"
    return done.failures


def minimise(failure: Failure, crashes: Path) -> int:
    """Shrink it further, from its smallest example and from the first. Returns 1 if it fails."""
    if failure.is_death or not failure.choices:
        why = "each example costs a worker" if failure.choices else "there is no example"
        print(f"{failure.id} cannot be made smaller: {why}")
        return 2
    watch = Watch(_target(failure))
    watch.only = failure.id
    for choices in dict.fromkeys((failure.choices, failure.first_choices)):
        shrink(watch, choices)
    if not watch.best:
        print(f"{failure.id} does not fail any more")
        return 0
    [found] = watch.failures(failure.engine, failure.seed, failure.module)
    if found.size < failure.size:
        kept = replace(
            found,
            first_choices=failure.first_choices,
            first_example=failure.first_example,
            count=failure.count,
            raw=failure.raw | found.raw,
        )
        failures.write(crashes, kept)
    print(min(found, failure, key=lambda each: each.size).example)
    print(f"\n{failure.size} choices before, {min(found.size, failure.size)} now")
    print(f"kept in {shown(crashes / failure.id)}")
    return 1


def _target(failure: Failure) -> Target:
    return find_targets(failure.module)[failure.target]
