"""Every planted defect is about this tree, and compiles; the runner tells what became of it."""

import ast
import difflib
import itertools
import json
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import strategies as st

from fuzz.campaign import mutants as campaign
from fuzz.campaign.commands import main
from fuzz.campaign.mutants import PatchFailed, Plan, Verdict, copied_tree, plant
from fuzz.mutants import Mutant, read_all
from fuzz.mutants.attack import BATCH, Attack
from fuzz.target import Target
from fuzz.targets import ALL
from tests.rig import REPOSITORY, needs

pytestmark = needs("patch", "git")

MUTANTS = read_all()
NAMED_BY_THE_ISSUE = {
    "range_last_byte",
    "abort_without_close",
    "unread_body_is_next",
    "descriptor_kept_on_cancel",
    "stale_after_rename",
    "head_cap_by_split",
    "wrong_window",
    "mincore_as_stranger",
}


def test_there_are_enough_of_them() -> None:
    assert set(MUTANTS) >= NAMED_BY_THE_ISSUE
    assert len(MUTANTS) >= 20
    assert sum("CVE-" in mutant.origin for mutant in MUTANTS.values()) >= 10


def test_the_documentation_has_each_and_no_other() -> None:
    """With a target that kills it, and the number of all of them."""
    _, _, text = (REPOSITORY / "docs/fuzzing.md").read_text().partition("\n## Mutants\n")
    prose, _, table = text.partition("\n| mutant |")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert [name for name, *_ in rows] == sorted(MUTANTS)
    for name, seconds, executions, killer in rows:
        assert killer in ALL, name
        assert float(seconds) > 0, name
        assert int(executions.replace(",", "")) > 0, name
    assert f"all {len(MUTANTS)} are killed" in " ".join(prose.split())


def test_each_target_has_one_to_kill() -> None:
    """As the documentation says: what kills nothing may well check nothing."""
    named = {target for mutant in MUTANTS.values() for target in mutant.targets}
    assert named == set(ALL)


def test_all_apply_and_compile() -> None:
    with copied_tree() as tree:
        sources = {path: path.read_text() for path in tree.glob("trio_amped/**/*.py")}
        for mutant in MUTANTS.values():
            plant(mutant, tree)
            changed = [path for path, text in sources.items() if path.read_text() != text]
            assert changed, f"{mutant.name} changes nothing"
            for path in changed:
                ast.parse(path.read_text())
                path.write_text(sources[path])


def test_a_patch_that_no_longer_applies_says_so() -> None:
    mutant = MUTANTS["range_last_byte"]
    with copied_tree() as tree:
        plant(mutant, tree)
        with pytest.raises(PatchFailed, match=r"range_last_byte\.patch no longer applies"):
            plant(mutant, tree)


def test_a_header_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.patch").write_text("Defect: x\n\n--- a/a\n+++ b/a\n")
    with pytest.raises(ValueError, match="must have Defect, Origin, Property, Targets"):
        Mutant.read(tmp_path / "odd.patch")


def test_git_agrees() -> None:
    patches = [str(mutant.patch) for mutant in MUTANTS.values()]
    for patch in patches:
        subprocess.run(["git", "apply", "--check", patch], cwd=REPOSITORY, check=True)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["nul_in_name", "out_of_root", "stacked_is_believed", "late_descriptor_leaks"]
)
def test_a_mutant_is_killed(name: str) -> None:
    mutant = MUTANTS[name]
    verdict = campaign.attack(mutant, Plan(seconds=30))
    assert verdict.killed_by in mutant.targets, verdict
    assert verdict.executions > 0


@pytest.mark.long
def test_what_does_not_even_answer_is_an_error(tmp_path: Path) -> None:
    name = "trio_amped/semantics/dates.py"
    before = (REPOSITORY / name).read_text()
    after = before.replace("return formatdate(", "return None and formatdate(")
    lines = (before.splitlines(True), after.splitlines(True))
    patch = tmp_path / "blunt.patch"
    patch.write_text("".join(difflib.unified_diff(*lines, f"a/{name}", f"b/{name}")))
    with copied_tree() as tree:
        subprocess.run(["patch", "-p1", "-i", patch], cwd=tree, check=True, capture_output=True)
        verdict = campaign._attacked("blunt", tree, [], Plan(seconds=5))
    assert verdict.error == "a simple request is not answered"


def test_one_that_hangs_is_killed_by_the_target_under_way() -> None:
    told = [{"target": "streams", "seed": 1, "executions": 7}]
    verdict = campaign._verdict("x", told, -9, True, 99.0, "")
    assert (verdict.killed_by, verdict.executions) == ("streams", 7)


def test_a_survivor_is_told_with_what_should_have_killed_it() -> None:
    name = "stale_after_rename"
    text = campaign.summary(MUTANTS, [Verdict(name, None, 300.0, 10_000)])
    assert text.startswith("0 of 1 mutants are killed")
    assert MUTANTS[name].defect in text
    assert "SURVIVES" in Verdict(name, None, 300.0, 10_000).line


def test_the_list_names_each_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mutants", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in MUTANTS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_attack_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """No process, no tree; and mutants.json is that of a run that has come to its end."""
    attacks: list[subprocess.Popen[str]] = []
    started = campaign._output

    def interrupted(attack: subprocess.Popen[str], plan: Plan) -> tuple[str, bool]:
        attacks.append(attack)
        os.kill(os.getpid(), number)
        return started(attack, plan)

    trees = tmp_path / "trees"
    trees.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(trees))
    monkeypatch.setattr(campaign, "_output", interrupted)
    assert main(["mutants", "--keep-in", str(tmp_path)]) == 130
    assert [attack.returncode for attack in attacks] == [-signal.SIGKILL]
    assert list(trees.iterdir()) == []
    assert list((tmp_path / "build").iterdir()) == []


def test_all_attacks_are_interrupted() -> None:
    """Those that have not begun, too."""
    plan = Plan(seconds=60, jobs=2)
    plan.interrupted.set()
    with pytest.raises(KeyboardInterrupt):
        campaign._attack_all(list(MUTANTS.values()), plan)


def test_an_attack_that_is_blind_has_no_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    hints: list[list[str]] = []

    def attacked(name: str, tree: Path, hint: list[str], plan: Plan) -> Verdict:
        hints.append(hint)
        return Verdict(name, "streams", 1.0, 1)

    monkeypatch.setattr(campaign, "_attacked", attacked)
    for is_blind in (False, True):
        campaign.attack(MUTANTS["nul_in_name"], Plan(seconds=1, is_blind=is_blind))
    assert hints == [["nul_in_name"], []]
    every = [target for target in ALL.values() if not target.is_live]
    turns = itertools.islice(Attack([], 1, 0)._turns(), 2 * len(every))
    assert [target for target, _ in turns] == 2 * every


def test_without_a_hint_no_target_has_more_than_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(process_time=itertools.count(0, 0.3).__next__)
    monkeypatch.setattr("fuzz.mutants.attack.time", clock)
    passing = Target("passing", lambda number: None, {"number": st.integers()})
    for likely, executions in (([], 3), ([passing], BATCH)):
        attack = Attack(likely, 100, 0)
        assert attack._fault(passing, 0) is None
        assert attack.executions == executions


def test_what_fails_at_the_end_of_a_turn_is_no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        raise ValueError("planted")

    clock = SimpleNamespace(process_time=itertools.count(0, 0.9).__next__)
    monkeypatch.setattr("fuzz.mutants.attack.time", clock)
    failing = Target("failing", fail, {"number": st.integers()})
    assert Attack([], 100, 0)._fault(failing, 0) == "ValueError: planted"


@pytest.mark.long
def test_the_verdicts_are_kept(tmp_path: Path) -> None:
    arguments = ("--keep-in", str(tmp_path), "--minutes", "0.1", "nul_in_name")
    assert main(["mutants", *arguments]) == 0
    kept = json.loads((tmp_path / "build/mutants.json").read_text())
    assert (kept["killed"], kept["minutes_for_each"], kept["blind"]) == (1, 0.1, False)
    assert kept["mutants"][0]["killed_by"] in MUTANTS["nul_in_name"].targets
