"""Campaigns with planted failures: what is found is kept, told, repeated."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from hypothesis.database import DirectoryBasedExampleDatabase

from fuzz.campaign import failures
from fuzz.campaign.places import ROOT
from fuzz.campaign.watch import key
from tests.fuzz import planted
from tests.fuzz.fuzzer import PLANTED, Fuzzer, Show

pytestmark = pytest.mark.long

FAKES: Final = ROOT / "tests/fuzz/fakes"


@pytest.mark.parametrize("is_same", [True, False])
def test_a_smaller_example_of_an_earlier_campaign_is_kept(fuzzer: Fuzzer, is_same: bool) -> None:
    """If it was one with the same versions: with others it may mean something else."""
    assert fuzzer.run("numbers", "--turns", "1", "--jobs", "1") == 1
    before = fuzzer.failure() | {"size": 0.5, "example": "numbers=[smallest]", "count": 1000}
    before["versions"] |= {} if is_same else {"trio": "0.1"}
    (fuzzer.crash() / "failure.json").write_text(json.dumps(before))
    assert fuzzer.run("numbers", "--turns", "1", "--jobs", "1") == 1
    after = fuzzer.failure()
    assert (after["example"] == before["example"], after["count"] > 1000) == (is_same, is_same)


def test_minimising_goes_on_from_any_example(fuzzer: Fuzzer, capsys: Show) -> None:
    assert fuzzer.run("numbers") == 1
    path = fuzzer.crash() / "failure.json"
    failure = fuzzer.failure()
    smallest = failure["choices"]
    path.write_text(json.dumps(failure | {"choices": failure["first_choices"], "size": 1000}))
    assert fuzzer("minimise", failure["id"]) == 1
    assert "1000 choices before, " in capsys.readouterr().out
    assert fuzzer.failure()["choices"] == smallest


def test_bytes_are_kept_as_they_are(fuzzer: Fuzzer) -> None:
    """The stream for other programs, and where it was raised rather than where it was noticed."""
    assert fuzzer.run("wire", "--first", "--seed", "3") == 1
    assert (fuzzer.crash() / "wire.bin").read_bytes() == b"\0\0"
    assert "_compare" in fuzzer.failure()["where"]


def test_two_defects_behind_one_line_are_two_failures(fuzzer: Fuzzer) -> None:
    assert fuzzer.run("statuses") == 1
    found = {
        directory.name[-8:]: directory for directory in (fuzzer.directory / "crashes").iterdir()
    }
    assert found.keys() == {"-304-200", "-416-200"}
    assert "number=4" in (found["-304-200"] / "example.txt").read_text()
    assert fuzzer("repro", found["-416-200"].name) == 1


def test_one_defect_is_not_a_failure_for_every_status(fuzzer: Fuzzer) -> None:
    """Those beyond the eighth are counted with the first of them. (No example passes.)"""
    assert fuzzer.run("any", "--turns", "2") == 1
    found = fuzzer.summary["failures"]
    assert len(found) == 8
    assert len({failures.kind_of(failure["id"]) for failure in found}) == 1
    assert found[0]["count"] > sum(failure["count"] for failure in found[1:])


def test_a_worker_that_dies_is_a_failure_and_the_others_have_their_turns(
    fuzzer: Fuzzer, capsys: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fuzzer.run("death,fine", "--turns", "2", seed=7) == 1
    failure = fuzzer.failure()
    assert failure["error"] == "the worker was killed by SIGKILL"
    assert (failure["target"], failure["seed"], failure["count"]) == ("death", 7, 2)
    assert fuzzer.summary["targets"]["fine"]["executions"] >= 100
    assert "number=" in failure["example"]
    assert fuzzer("minimise", failure["id"]) == 2
    capsys.readouterr()

    assert fuzzer("repro", failure["id"]) == 1
    shown = capsys.readouterr().out
    assert "still fails: the worker was killed by SIGKILL" in shown
    assert failure["example"] in shown
    monkeypatch.setenv(planted.MENDED, "yes")
    assert fuzzer("repro", failure["id"]) == 0


def test_a_worker_that_hangs_is_a_failure_that_shows_where(fuzzer: Fuzzer) -> None:
    assert fuzzer.run("hang", "--patience", "2") == 1
    failure = fuzzer.failure()
    assert failure["where"] == "tests/fuzz/planted.py in check_hang"
    assert "hung" in failure["error"]


def test_a_failure_by_chance_is_kept(fuzzer: Fuzzer) -> None:
    """Hypothesis says that the target is flaky; what it has seen is what counts."""
    assert fuzzer.run("chance") == 1
    assert fuzzer.failure()["error"] == "AssertionError: planted: by chance"


def test_a_failure_without_an_example_is_repeated_by_its_batch(
    fuzzer: Fuzzer, capsys: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fuzzer.run("undrawable") == 1
    name = fuzzer.crash().name
    assert "in undrawable" in fuzzer.failure()["where"]
    assert fuzzer("repro", name) == 1
    monkeypatch.setenv(planted.MENDED, "yes")
    capsys.readouterr()
    assert fuzzer("minimise", name) == 2
    assert "there is no example" in capsys.readouterr().out
    assert fuzzer("repro", name) == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupting_keeps_all_that_was_found(
    fuzzer: Fuzzer, capsys: Show, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    handler = signal.getsignal(signal.Signals[name])
    monkeypatch.setenv(planted.SIGNAL, name)
    assert fuzzer.run("fine,numbers,interruption", "--turns", "1000000") == 130
    assert signal.getsignal(signal.Signals[name]) == handler
    assert "numbers=[1001]" in (fuzzer.crash() / "example.txt").read_text()
    assert fuzzer.summary["interrupted"]
    assert fuzzer.summary["failures"][0]["count"] == fuzzer.failure()["count"]
    assert fuzzer.summary["targets"]["fine"]["executions"] >= 100
    assert ", interrupted: " in capsys.readouterr().out


def test_to_be_interrupted_is_not_to_fail_no_more(fuzzer: Fuzzer, capsys: Show) -> None:
    dead = failures.Failure("interruption-1", "interruption", "hypothesis", 1, "", "", "")
    dead = replace(dead, module="tests.fuzz.planted", is_death=True, batch=1_000_000)
    failures.write(fuzzer.directory / "crashes", dead)
    assert fuzzer("repro", "interruption-1") == 130
    assert capsys.readouterr().out == ""


def test_a_worker_that_cannot_start_ends_the_campaign(
    fuzzer: Fuzzer, capsys: Show, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('planted')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert fuzzer.run("fine") == 1
    assert "before it began" in capsys.readouterr().err


def test_the_summary_counts(fuzzer: Fuzzer, capsys: Show) -> None:
    assert fuzzer.run("fine") == 0
    summary = fuzzer.summary
    executions = summary["targets"]["fine"]["executions"]
    assert summary["executions"] == executions >= 100
    faults = summary["tally"]["fault"]
    assert faults["counts"] == {"open EIO": executions, "read EIO": executions}
    assert (faults["total"], faults["different"]) == (2 * executions, 2)
    assert summary["tally"]["schedule"]["counts"] == {"": executions}
    assert 0 < summary["branches"]["reached"] < summary["branches"]["possible"]
    assert summary["timeline"][-1][1] == executions

    told = capsys.readouterr().out
    assert f"runs, each with a schedule: {executions}\n" in told  # of which some may be the same
    assert f"faults: {2 * executions}, 2 different\n" in told
    assert "\nrefusal: " in told
    assert fuzzer("report") == 0
    assert capsys.readouterr().out in told

    assert fuzzer("cover") == 0
    report = capsys.readouterr().out
    assert "trio_amped/semantics/target.py" in report
    assert "TOTAL" in report


def test_the_corpus_has_what_reached_something_first(fuzzer: Fuzzer) -> None:
    assert fuzzer.run("fine") == 0
    kept = fuzzer.summary["kept"]
    new = fuzzer.directory / "build/corpus"
    database = DirectoryBasedExampleDatabase(new / "hypothesis")
    assert len(list(database.fetch(key("fine")))) == kept > 0
    reached = fuzzer.summary["branches"]["reached"]
    # The next campaign begins with it, and finds nothing new; nor does it when all is committed.
    for place in (new, fuzzer.directory / "corpus"):
        new.rename(place)
        assert fuzzer.run("fine") == 0
        assert fuzzer.summary["kept"] == 0
        assert fuzzer.summary["branches"]["reached"] >= reached


def test_on_a_terminal_a_line_is_rewritten(tmp_path: Path) -> None:
    """In a process of its own, whose output is a terminal's."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "fuzz", "run", *PLANTED, "--target", "fine", "--turns", "2"]
    process = subprocess.Popen(
        [*command, "--keep-in", str(tmp_path)], stdout=theirs, stderr=theirs, cwd=ROOT
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # how a terminal ends
    os.close(ours)
    assert process.wait() == 0
    assert b"\r\x1b[K0:0" in shown
    assert b" executions, " in shown


def test_atheris_drives_the_same_targets(
    fuzzer: Fuzzer, capsys: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it finds is shrunk by Hypothesis, and what it keeps is measured."""
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setenv("PYTHONPATH", str(FAKES))
    monkeypatch.setattr("fuzz.campaign.campaign._SLICE", (0.5, 0.5))
    arguments = ("--engine", "atheris")
    assert fuzzer.run("numbers", *arguments) == 1
    assert "numbers=[1001]" in (fuzzer.crash() / "example.txt").read_text()
    assert (fuzzer.crash() / "input.bin").exists()
    assert fuzzer("repro", fuzzer.crash().name) == 1
    assert fuzzer.run("fine", *arguments) == 0
    assert fuzzer.summary["branches"]["reached"] > 0
    assert list((fuzzer.directory / "build/corpus/atheris/fine").iterdir())
