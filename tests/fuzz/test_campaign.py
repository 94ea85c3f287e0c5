"""The command line of the fuzzer, with planted failures: what is found is kept, told, repeated."""

import base64
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase, choices_to_bytes

from fuzz import targets
from fuzz.campaign import chart, failures
from fuzz.campaign.by_hypothesis import Pace
from fuzz.campaign.commands import _chosen, _parser, main
from fuzz.campaign.corpus import Corpus
from fuzz.campaign.places import ROOT, Places
from fuzz.campaign.watch import as_blob, key
from fuzz.world.runs import no_bugs
from tests.clients.support import tree
from tests.fuzz import planted

PLANTED: Final = ("--targets-in", "tests.fuzz.planted")
FAKES: Final = ROOT / "tests/fuzz/fakes"

Show = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers measure themselves: the measurement of this test run would slow them down."""
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(name, raising=False)


class Fuzzer:
    """`python -m fuzz`, which keeps all it finds below a directory of the test's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, command: str, *arguments: str) -> int:
        return main([command, "--keep-in", str(self.directory), *arguments])

    def run(self, names: str, *arguments: str, seed: int = 1) -> int:
        bounds = ("--minutes", "2", "--jobs", "1", "--turns", "1", "--batch", "100")
        chosen = ("--target", names, "--seed", str(seed))
        return self("run", *PLANTED, *bounds, *chosen, *arguments)

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "build/summary.json").read_text())
        return found

    def crash(self) -> Path:
        """The directory of the only failure."""
        [directory] = (self.directory / "crashes").iterdir()
        return directory

    def failure(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.crash() / "failure.json").read_text())
        return found


@pytest.fixture
def fuzzer(tmp_path: Path) -> Fuzzer:
    return Fuzzer(tmp_path)


# ------------------------------------------------------------------ what is found


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


# ------------------------------------------------------------------ what goes wrong


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
    assert fuzzer.run("hang", "--patience", "0.1") == 1
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


def test_a_worker_that_cannot_start_ends_the_campaign(
    fuzzer: Fuzzer, capsys: Show, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('planted')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert fuzzer.run("fine") == 1
    assert "before it began" in capsys.readouterr().err


# ------------------------------------------------------------------ what is told


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


# ------------------------------------------------------------------ atheris


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


def test_atheris_may_be_missing(
    fuzzer: Fuzzer, capsys: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert fuzzer.run("fine", "--engine", "atheris") == 2
    assert "pip install --group atheris" in one_line(capsys)


# ------------------------------------------------------------------ the command line


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


def one_line(capsys: Show) -> str:
    [line] = capsys.readouterr().err.splitlines()
    return line


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
