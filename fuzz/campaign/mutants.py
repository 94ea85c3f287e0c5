"""Plants one defect after the other in a copy of the tree, and shows which target kills it."""

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final

import hypothesis

from fuzz.campaign.places import ROOT, shown
from fuzz.limits import CLOCK
from fuzz.mutants import Mutant
from fuzz.mutants.attack import KILLED

_COPIED: Final = ("trio_amped", "fuzz", "tests", "bench", "pyproject.toml")
_TICK: Final = 0.2  # seconds between two looks whether it is interrupted
_GRACE: Final = 60.0  # seconds of CPU time to start, to finish an example, and to end


class PatchFailed(Exception):
    """A patch that is not about this tree any more."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How mutants are attacked. Once it is interrupted, what goes on raises KeyboardInterrupt."""

    seconds: float  # of CPU time for each, at most
    seed: int = 0
    jobs: int = 1
    is_blind: bool = False  # all targets by turns, whichever the patch names
    interrupted: threading.Event = dataclasses.field(default_factory=threading.Event)

    def check(self) -> None:
        if self.interrupted.is_set():
            raise KeyboardInterrupt


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a mutant; `error`: it could not be attacked."""

    mutant: str
    killed_by: str | None
    seconds: float
    executions: int
    fault: str = ""
    error: str = ""

    @property
    def is_killed(self) -> bool:
        return self.killed_by is not None

    @property
    def line(self) -> str:
        outcome = f"ERROR: {self.error}" if self.error else self.killed_by or "SURVIVES"
        return f"{self.mutant:26} {self.seconds:7.1f} s {self.executions:8,}  {outcome}"


# ------------------------------------------------------------------ one mutant


@contextlib.contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of what the targets need, for as long as this lasts."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "crashes", "corpus")
                shutil.copytree(source, tree / name, ignore=ignored)
            elif source.exists():
                shutil.copy2(source, tree / name)
        yield tree


def plant(mutant: Mutant, tree: Path) -> None:
    """Apply the patch. Raises PatchFailed: the tree has changed, or there is no patch(1)."""
    command = ["patch", "-p1", "--force", "--fuzz=0", "-i", str(mutant.patch)]
    try:
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PatchFailed("patch(1) is missing: apt-get install patch") from None
    if done.returncode or "FAILED" in done.stdout:
        said = " ".join((done.stdout + done.stderr).split())
        raise PatchFailed(f"{mutant.patch.name} no longer applies, write it anew: {said}")


def attack(mutant: Mutant | None, plan: Plan) -> Verdict:
    """Plant the mutant (None: no defect at all) and let the targets look for it."""
    plan.check()
    name = mutant.name if mutant else "(no defect)"
    with copied_tree() as tree:
        if mutant:
            try:
                plant(mutant, tree)
            except PatchFailed as error:
                return Verdict(name, None, 0.0, 0, error=str(error))
        hint = [mutant.name] if mutant and not plan.is_blind else []
        return _attacked(name, tree, hint, plan)


def _attacked(name: str, tree: Path, hint: list[str], plan: Plan) -> Verdict:
    command = [sys.executable, "-m", "fuzz.mutants.attack", *hint]
    command += ["--seconds", str(plan.seconds), "--seed", str(plan.seed)]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    started = time.monotonic()
    with (tree / "log").open("w+") as log:
        process = subprocess.Popen(
            command,
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        output, has_hung = _output(process, plan)
        log.seek(0)
        said = log.read()[-500:]
    told = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
    return _verdict(name, told, process.returncode, has_hung, time.monotonic() - started, said)


def _output(process: subprocess.Popen[str], plan: Plan) -> tuple[str, bool]:
    """All that it says, and whether it had to be ended. Its children end with it."""
    latest = time.monotonic() + CLOCK * (plan.seconds + _GRACE)
    while time.monotonic() < latest and not plan.interrupted.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_TICK)[0], False
    os.killpg(process.pid, signal.SIGKILL)
    said = process.communicate()[0]
    plan.check()
    return said, True


def _verdict(
    name: str, told: list[dict[str, Any]], status: int, has_hung: bool, seconds: float, said: str
) -> Verdict:
    """What the lines of an attack come to."""
    facts: dict[str, Any] = {"executions": 0}
    for line in told:
        facts |= line
    executions = facts["executions"]
    if has_hung and "target" in facts:
        fault = "the whole process hung"
        return Verdict(name, facts["target"], seconds, executions, fault)
    if status in (0, KILLED):
        return Verdict(name, facts.get("killed_by"), seconds, executions, facts.get("fault", ""))
    error = facts.get("fault") or f"the attack ended with {status}: {' '.join(said.split())}"
    return Verdict(name, None, seconds, executions, error=error)


# ------------------------------------------------------------------ all of them


def _attack_all(mutants: Sequence[Mutant], plan: Plan) -> list[Verdict]:
    """The verdicts, each of which is told when it is there."""
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(plan.jobs) as pool:
        waiting = [pool.submit(attack, mutant, plan) for mutant in mutants]
        for done in as_completed(waiting):
            verdicts.append(done.result())
            print(verdicts[-1].line, flush=True)
    return verdicts


def summary(mutants: dict[str, Mutant], verdicts: Sequence[Verdict]) -> str:
    """The survivors, and what should have killed them."""
    killed = [each for each in verdicts if each.is_killed]
    lines = [f"{len(killed)} of {len(verdicts)} mutants are killed"]
    for verdict in verdicts:
        if not verdict.is_killed:
            mutant = mutants[verdict.mutant]
            lines.append(f"{'ERROR' if verdict.error else 'SURVIVES'}: {verdict.mutant}")
            lines.append(f"    {verdict.error or mutant.defect}")
            lines.append(f"    {mutant.promise}; of {', '.join(mutant.targets)}")
    return "\n".join(lines)


def _save(path: Path, mutants: dict[str, Mutant], verdicts: Sequence[Verdict], plan: Plan) -> None:
    rows = [
        dataclasses.asdict(verdict)
        | {"defect": mutants[verdict.mutant].defect, "origin": mutants[verdict.mutant].origin}
        for verdict in sorted(verdicts, key=lambda each: each.mutant)
    ]
    facts = {
        "minutes_for_each": plan.seconds / 60,
        "blind": plan.is_blind,
        "python": platform.python_version(),
        "hypothesis": hypothesis.__version__,
        "killed": sum(verdict.is_killed for verdict in verdicts),
        "mutants": rows,
    }
    path.write_text(json.dumps(facts, indent=2) + "\n")


def show(mutants: Sequence[Mutant]) -> int:
    for mutant in mutants:
        print(f"{mutant.name:26} {mutant.defect}\n{'':26} {mutant.origin}")
    return 0


def run(mutants: Sequence[Mutant], plan: Plan, reports: Path) -> int:
    """Returns 1 if one survives, or cannot be planted; 2 if the targets fail without any."""
    control = attack(None, dataclasses.replace(plan, seconds=min(60.0, plan.seconds)))
    if control.is_killed or control.error:
        print(
            f"{control.line}\n{control.fault}\nthe targets fail without a defect: mend that first"
        )
        return 2
    print(f"{control.line}, as it should", flush=True)
    verdicts = _attack_all(mutants, plan)
    path, by_name = reports / "mutants.json", {mutant.name: mutant for mutant in mutants}
    _save(path, by_name, verdicts, plan)
    print(f"\n{summary(by_name, verdicts)}\nsee {shown(path)}")
    return 0 if all(each.is_killed for each in verdicts) else 1
