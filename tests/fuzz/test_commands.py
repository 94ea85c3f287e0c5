"""The command line of the fuzzer: what it does, what it says; and a campaign in short."""

import base64
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import settings
from hypothesis.database import choices_to_bytes

from fuzz import targets
from fuzz.campaign import chart, failures
from fuzz.campaign.by_hypothesis import Pace
from fuzz.campaign.commands import _chosen, _parser, main
from fuzz.campaign.corpus import Corpus
from fuzz.campaign.places import ROOT, Places
from fuzz.campaign.watch import as_blob
from fuzz.world.runs import no_bugs
from tests.clients.support import tree
from tests.fuzz import planted
from tests.fuzz.fuzzer import PLANTED, Fuzzer, Show, one_line


def test_a_failure_is_found_kept_and_repeated(
    fuzzer: Fuzzer, capsys: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fuzzer.run("numbers", "--turns", "3", "--jobs", "2") == 1
    name = fuzzer.crash().name
    shown = capsys.readouterr().out
    assert f"FAILED {name}: AssertionError: planted: above a thousand" in shown
    assert f"python -m fuzz repro {name}" in shown
    assert "numbers=[1001]" in (fuzzer.crash() / "example.txt").read_text()
    assert "planted.py" in (fuzzer.crash() / "traceback.txt").read_text()
    failure = fuzzer.failure()
    libraries = {"trio", "h11", "hypothesis", "httptools", "coverage"}
    assert failure["versions"].keys() - {"atheris"} == {"python", "commit"} | libraries
    assert failure["repro"] == f"python -m fuzz repro {name}"
    # Found once by each job, and seen again by the turns after that: still the same one.
    assert [found["id"] for found in fuzzer.summary["failures"]] == [name]
    assert fuzzer.summary["failures"][0]["count"] == fuzzer.failure()["count"] > 2

    assert fuzzer("repro", name) == 1
    assert f"{name} still fails: AssertionError: planted" in capsys.readouterr().out
    monkeypatch.setenv(planted.MENDED, "yes")
    assert fuzzer("repro", name) == 0
    assert fuzzer("minimise", name) == 0
    assert capsys.readouterr().out.splitlines() == [f"{name} does not fail any more"] * 2


def test_a_failure_is_known_by_what_it_is() -> None:
    """Not by its line, nor by its example; groups are looked into."""

    def identity(check: Callable[[], None]) -> str:
        with pytest.raises((ValueError, ExceptionGroup)) as caught:
            check()
        return failures.identify("wire", caught.value)[0]

    def wrapped() -> None:
        try:
            planted.check_wire(b"bb", ())
        except ValueError as error:
            raise ExceptionGroup("a nursery's", [error]) from None

    assert identity(lambda: planted.check_wire(b"aa", ())) == identity(wrapped)
    assert failures.identify("wire", OSError())[1] == "nowhere"


def test_a_bug_that_the_server_logs_is_known_by_what_it_is() -> None:
    """And not by who has found it in the log."""
    assert logged(lambda: planted.check_wire(b"aa", ()))[1].endswith("in _compare")
    assert logged(lambda: planted.check_wire(b"aa", ())) == logged(
        lambda: planted.check_wire(b"bb", ())
    )
    assert logged(lambda: planted.check_numbers([1001]))[1].endswith("in check_numbers")


def logged(bug: Callable[[], None]) -> tuple[str, str]:
    def serve() -> None:
        with no_bugs():
            try:
                bug()
            except Exception:
                logging.getLogger("trio_amped").exception("planted")

    with pytest.raises(AssertionError) as caught:
        serve()
    return failures.identify("wire", caught.value)


def test_an_assertion_without_a_word_is_told_by_its_line() -> None:
    with pytest.raises(AssertionError) as caught:
        planted.check_fine_at_most(b"/")
    assert failures.described(caught.value) == "AssertionError: assert len(target) < 1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("package", ["hypothesis", "coverage"])
def test_however_early_it_is_interrupted_it_says_130(
    package: str, number: signal.Signals, tmp_path: Path
) -> None:
    """While the commands are imported, whichever package they have come to."""
    (tmp_path / f"{package}.py").write_text(f"import os\nos.kill(os.getpid(), {number:d})\n")
    command = [sys.executable, "-m", "fuzz", "run", *PLANTED, "--target", "fine"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_to_be_interrupted_while_branches_are_counted_is_no_other_error(
    fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("coverage.jsonreport.JsonReporter.report", interrupted)
    assert fuzzer.run("fine") == 130


def choices(number: int) -> tuple[str, str]:
    return as_blob(choices_to_bytes((number,))), ""


def data(number: int) -> tuple[str, str]:
    return "", base64.b64encode(b"%d" % number).decode()


@pytest.mark.parametrize("example", [choices, data])
def test_the_committed_corpus_is_read_only(
    tmp_path: Path, example: Callable[[int], tuple[str, str]]
) -> None:
    """What is new is kept elsewhere, and counts together with what is committed."""
    places = Places.below(tmp_path)

    def kept(*numbers: int) -> list[int]:
        corpus = Corpus(places)
        return [number for number in numbers if corpus.keep("fine", *example(number))]

    assert kept(0, 1, 2, 3, 4) == [0, 1, 2, 3, 4]
    places.new.rename(places.corpus)
    committed = tree(places.corpus)
    assert kept(0, 4, 5, 6) == [5, 6]
    assert kept(6, 7, 8, 9) == [7]  # eight are the most
    assert tree(places.corpus) == committed
    places.new.rename(tmp_path / "another")
    assert kept(7, 8, 9, 10) == [7, 8, 9]


def test_a_campaign_leaves_the_clone_clean() -> None:
    """All that is written to is ignored by git."""
    places = Places.of_the_project()
    ignored = {ROOT / "build", ROOT / "fuzz/crashes"}
    rules = (ROOT / ".gitignore").read_text().splitlines()
    assert {f"{place.relative_to(ROOT)}/" for place in ignored} <= set(rules)
    for place in (places.new, places.crashes, places.reports):
        assert not ignored.isdisjoint((place, *place.parents))


def test_slow_targets_and_fast_ones_have_the_same_time() -> None:
    pace = Pace(None)
    assert pace.size("unknown") == 10
    pace.note("slow", 10, 20.0)
    pace.note("fast", 1000, 1.0)
    pace.note("faster", 1000, 0.0)
    assert [pace.size(name) for name in ("slow", "fast", "faster")] == [10, 1000, 1000]
    assert Pace(7).size("fast") == 7


def test_the_chart_is_an_image() -> None:
    timeline = [(0.5, 100, 20, 0), (1.0, 200, 20, 0), (1.5, 250, 30, 1)]
    image = ElementTree.fromstring(chart.svg("a < b", timeline, 40))
    text = [element.text for element in image.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "30 of 40", "1 failed"} <= set(text)
    assert "executions a second, at most 200" in text
    ElementTree.fromstring(chart.svg("nothing yet", [], 40))


def test_atheris_may_be_missing(
    fuzzer: Fuzzer, capsys: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert fuzzer.run("fine", "--engine", "atheris") == 2
    assert "pip install --group atheris" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--target", "nonsense"], "there is no target 'nonsense'; there are streams, "),
        (["run", "--minutes", "0"], "'0' is no number of minutes above 0"),
        (["run", "--minutes", "nan"], "'nan' is no number of minutes above 0"),
        (["run", "--patience", "x"], "'x' is no number of seconds above 0"),
        (["run", "--jobs", "-1"], "'-1' is no whole number above 0"),
        (["run", "--seed", "x"], "'x' is no whole number from 0"),
        (["run", "--engine", "afl"], "invalid choice: 'afl'"),
        (["run", "--targets-in", "no.such"], "No module named 'no'"),
        (["list", "--targets-in", "json"], "has no attribute 'ALL'; --targets-in is a module with"),
        (["run", "--targets-in", "tests.fuzz.fakes.atheris"], "has no attribute 'ALL'"),
        (["list", "--targets-in", "re"], "no targets in re: "),
        (["repro", "nonsense"], "there is no failure 'nonsense' in "),
        (["minimise", "../x"], "there are: none"),
        (["report"], "run a campaign first, with python -m fuzz run"),
        (["cover"], "run a campaign first, with python -m fuzz run"),
        (["mutants", "--minutes", "nan"], "'nan' is no number of minutes above 0"),
        (["mutants", "--jobs", "0"], "'0' is no whole number above 0"),
        (["mutants", "--seed", "-1"], "'-1' is no whole number from 0"),
        (["mutants", "nonsense"], "there is no mutant 'nonsense'; see python -m fuzz mutants"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: Show
) -> None:
    keep_in = ["--keep-in", str(tmp_path)] if arguments and arguments[0] != "nonsense" else []
    assert main([*arguments[:1], *keep_in, *arguments[1:]]) == 2
    assert said in one_line(capsys)


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path, capsys: Show) -> None:
    (tmp_path / "file").touch()
    assert Fuzzer(tmp_path / "file").run("fine") == 2
    assert "file/crashes cannot be made: Not a directory; --keep-in is" in one_line(capsys)


def test_a_failure_of_a_target_that_is_gone(fuzzer: Fuzzer, capsys: Show) -> None:
    gone = failures.Failure("x-1", "x", "hypothesis", 1, "", "", "", module="tests.fuzz.planted")
    failures.write(fuzzer.directory / "crashes", gone)
    assert fuzzer("repro", "x-1") == 2
    assert "there is no target 'x' any more" in one_line(capsys)
    (fuzzer.directory / "crashes/x-1/failure.json").write_text("{}")
    assert fuzzer("repro", "x-1") == 2
    assert "there is no failure 'x-1'" in one_line(capsys)


@pytest.mark.parametrize("command", ["repro", "minimise"])
@pytest.mark.parametrize("name", ["choices", "first_choices"])
@pytest.mark.parametrize("junk", ["?", "AQ==", "AXg=", "é", 5])
def test_choices_that_are_damaged(
    fuzzer: Fuzzer, capsys: Show, command: str, name: str, junk: Any
) -> None:
    failure = failures.Failure("numbers-1", "numbers", "hypothesis", 1, "", "", "", batch=10)
    failures.write(
        fuzzer.directory / "crashes",
        replace(failure, module="tests.fuzz.planted", **{name: junk}),
    )
    assert fuzzer(command, "numbers-1") == 2
    assert "are damaged; its batch was --seed 1 --batch 10" in one_line(capsys)


def test_targets_are_listed(capsys: Show) -> None:
    assert main(["list"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == set(targets.ALL)
    assert main(["list", *PLANTED]) == 0
    assert "live          Nothing is wrong here. (live)\n" in capsys.readouterr().out


def test_live_targets_are_run_when_that_is_asked_for(fuzzer: Fuzzer, capsys: Show) -> None:
    def chosen(*arguments: str) -> tuple[str, ...]:
        return _chosen(_parser().parse_args(["run", *PLANTED, *arguments]))

    assert "live" not in chosen()
    assert chosen("--live") == tuple(planted.ALL)
    assert chosen("--target", "live", "--target", "fine,live") == ("live", "fine")


def test_profiles_have_no_deadline() -> None:
    for name in ("dev", "ci", "campaign"):
        assert settings.get_profile(name).deadline is None
    assert settings.get_profile("ci").derandomize
