"""Plants one defect after the other in a copy of the tree, and shows which target kills it.

`python -m fuzz mutants [NAME ...] [--minutes 5] [--jobs 2] [--list]` says 1 if one survives.
"""

import argparse
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
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final

import hypothesis

from fuzz.mutants import Mutant, read_all
from fuzz.mutants.attack import KILLED

_REPOSITORY: Final = Path(__file__).parents[2]
_COPIED: Final = ("trio_amped", "fuzz", "tests", "bench", "pyproject.toml")
_SUMMARY: Final = Path("build/fuzz/mutants.json")
_GRACE: Final = 60.0  # seconds to start, to finish an example, and to end


class PatchFailed(Exception):
    """A patch that is not about this tree any more."""


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
            source = _REPOSITORY / name
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


def attack(mutant: Mutant | None, seconds: float, seed: int) -> Verdict:
    """Plant the mutant (None: no defect at all) and let the targets look for it."""
    name = mutant.name if mutant else "(no defect)"
    with copied_tree() as tree:
        if mutant:
            try:
                plant(mutant, tree)
            except PatchFailed as error:
                return Verdict(name, None, 0.0, 0, error=str(error))
        return _attacked(name, tree, [mutant.name] if mutant else [], seconds, seed)


def _attacked(name: str, tree: Path, which: list[str], seconds: float, seed: int) -> Verdict:
    command = [sys.executable, "-m", "fuzz.mutants.attack", *which]
    command += ["--seconds", str(seconds), "--seed", str(seed)]
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
        output, has_hung = _output(process, seconds + _GRACE)
        log.seek(0)
        said = log.read()[-500:]
    told = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
    return _verdict(name, told, process.returncode, has_hung, time.monotonic() - started, said)


def _output(process: subprocess.Popen[str], patience: float) -> tuple[str, bool]:
    """All that it says, and whether it had to be ended. Its children end with it."""
    try:
        return process.communicate(timeout=patience)[0], False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0], True
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


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


def _attack_all(mutants: Sequence[Mutant], seconds: float, jobs: int, seed: int) -> list[Verdict]:
    """The verdicts, each of which is told when it is there; ^C keeps those that are."""
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(attack, mutant, seconds, seed) for mutant in mutants]
        try:
            for done in as_completed(waiting):
                verdicts.append(done.result())
                print(verdicts[-1].line, flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            print("interrupted", flush=True)
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


def _save(mutants: dict[str, Mutant], verdicts: Sequence[Verdict], minutes: float) -> None:
    _SUMMARY.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        dataclasses.asdict(verdict)
        | {"defect": mutants[verdict.mutant].defect, "origin": mutants[verdict.mutant].origin}
        for verdict in sorted(verdicts, key=lambda each: each.mutant)
    ]
    facts = {
        "minutes_for_each": minutes,
        "python": platform.python_version(),
        "hypothesis": hypothesis.__version__,
        "killed": sum(verdict.is_killed for verdict in verdicts),
        "mutants": rows,
    }
    _SUMMARY.write_text(json.dumps(facts, indent=2) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if a mutant survives, or cannot be planted; 2 if the targets fail without one."""
    mutants = read_all()
    parser = argparse.ArgumentParser(prog="python -m fuzz mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each, at most (default: 5)")
    parser.add_argument("--jobs", type=int, default=2, help="so many at a time (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--list", action="store_true", help="show the mutants")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(mutants):
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}; see --list")
    chosen = [mutants[name] for name in options.names or mutants]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name:26} {mutant.defect}\n{'':26} {mutant.origin}")
        return 0
    control = attack(None, min(60.0, options.minutes * 60), options.seed)
    if control.is_killed or control.error:
        print(
            f"{control.line}\n{control.fault}\nthe targets fail without a defect: mend that first"
        )
        return 2
    print(f"{control.line}, as it should", flush=True)
    verdicts = _attack_all(chosen, options.minutes * 60, options.jobs, options.seed)
    _save(mutants, verdicts, options.minutes)
    print(f"\n{summary(mutants, verdicts)}\nsee {_SUMMARY}")
    return 0 if len(verdicts) == len(chosen) and all(each.is_killed for each in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
