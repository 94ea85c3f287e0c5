"""What the hot benchmark makes of its numbers: statistics, floors, tables, the chart."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from bench.hot import chart, floors, output, report
from bench.hot.__main__ import parse
from bench.hot.idle import Memory
from bench.hot.measure import Hot, Sample
from bench.hot.peers import ALL, ALWAYS, DEFAULT, EARLIER, OURS, TASKS, TUNED
from bench.hot.results import Results, Verdict
from bench.hot.rows import HERD, IDLE, PAPER, ROWS, WORKERS
from bench.spread import Spread


def sample(rate: float) -> Sample:
    return Sample(rate, cpu=1e6 / rate, idle=0.0, others=0.0)


@pytest.fixture
def results() -> Results:
    """Three rounds of `plain`, of `zipf` where another server failed, and of idle connections."""
    found = Results()
    for number, (ours, theirs) in enumerate([(110, 100), (50, 100), (240, 200)]):
        found.add("plain", OURS, number, sample(ours))
        found.add("plain", TUNED, number, sample(theirs))
        found.add("plain", TASKS, number, sample(20))
        found.add("plain", DEFAULT, number, sample(80))
        found.add("zipf", TUNED, number, sample(100))
    found.add("zipf", "aiohttp", 0, sample(100))
    found.fail("zipf", "aiohttp", 1, "not a 200")
    found.idle[OURS] = Memory(600.0, 600.0)
    return found


def test_a_ratio_is_the_median_of_the_ratios_of_each_round(results: Results) -> None:
    assert results.ratio("plain", OURS) == Spread(1.1, 0.5, 1.2)
    assert results.ratio("plain", TASKS, DEFAULT) == Spread(0.25, 0.25, 0.25)
    assert results.ratio("16m", OURS) is None


def test_one_error_is_a_failed_run(results: Results) -> None:
    assert results.ratio("zipf", "aiohttp") is None
    assert results.middle("zipf", "aiohttp") is None


def test_rows_of_another_run_are_joined(results: Results) -> None:
    later = Results()
    later.add("zipf", OURS, 0, sample(7))
    written = json.loads(json.dumps(results.plain()))
    later.join(written)
    assert later.samples["plain"] == results.samples["plain"]
    assert later.samples["zipf"] == {OURS: {0: sample(7)}}
    assert (later.idle, later.failed, later.failures) == (results.idle, set(), [])
    whole = Results()
    whole.join(written)
    assert whole == results


def verdicts(results: Results) -> dict[tuple[str, str], Verdict]:
    return {(each.row, each.measure): each for each in results.verdicts()}


def test_the_floors_are_looked_at(results: Results) -> None:
    found = verdicts(results)
    assert found["plain", floors.TUNED].holds
    assert found["plain", floors.TASKS_OF_DEFAULT].holds
    assert not found[IDLE, floors.BYTES].holds
    assert ("zipf", floors.TUNED) not in found


def test_cpu_time_is_in_that_of_nginx_and_in_plain_gets_of_the_same_round(results: Results) -> None:
    for number, rate in enumerate((50, 50, 80)):
        results.add("301", OURS, number, sample(rate))
        results.add("301", TUNED, number, sample(100))
    found = verdicts(results)
    assert found["301", floors.CPU_TUNED].value == 2.0
    assert found["301", floors.PLAIN_GETS].value == 2.2  # of 2.2, 1.0 and 3.0
    assert not found["301", floors.PLAIN_GETS].holds
    assert not found["301", floors.TUNED].holds
    results.fail("301", OURS, 3, "not a 301")
    assert ("301", floors.TUNED) not in verdicts(results)


def test_the_goal_is_the_better_nginx(results: Results) -> None:
    for number in range(3):
        results.add("plain", DEFAULT, number, sample(1000))
    better = verdicts(results)["plain", floors.BETTER]
    assert better.value == pytest.approx(0.11)
    assert not better.is_goal


def test_an_earlier_commit_is_compared_by_cpu_time(results: Results) -> None:
    for number, rate in enumerate((110, 55, 240)):
        results.add("plain", EARLIER, number, sample(rate))
    found = verdicts(results)
    assert found["plain", floors.EARLIER].value == 1.0
    assert found["plain", floors.CPU_EARLIER].holds
    for number in range(3):
        results.add("plain", EARLIER, number, sample(1000))
    assert not verdicts(results)["plain", floors.CPU_EARLIER].holds


def test_the_paper_is_compared_with_the_best_of_the_others(results: Results) -> None:
    for server, rate, wait in ((OURS, 80, 4.0), (TUNED, 100, 40.0), (DEFAULT, 90, 2.0)):
        results.add("paper-64", server, 0, Sample(rate, 10.0, 0.0, 0.0, Hot(0.1, wait, 50.0)))
    found = verdicts(results)
    assert found["paper-64", floors.BEST].value == pytest.approx(0.8)
    assert found["paper-64", floors.HOT_OF_BEST].value == 2.0
    assert not found["paper-64", floors.HOT_OF_BEST].is_goal
    assert found["paper-64", floors.HOT_OF_BEST].holds
    page = report.markdown(results, {})
    assert "| paper-64 | nginx, tuned | 0.10 | 40.00 | 50.00 |" in page


def test_a_herd_has_a_time_for_all(results: Results) -> None:
    results.add("herd-new", OURS, 0, Sample(1500.0, 10.0, 0.0, 0.0, Hot(0.1, 4.0, 50.0)))
    found = verdicts(results)
    assert found["herd-new", floors.SECONDS].value == 2.0
    assert not found["herd-new", floors.SECONDS].holds
    assert found["herd-new", floors.HOT].holds


def test_floors_are_for_rows_and_measures_that_there_are() -> None:
    for table in (floors.FLOORS, floors.GOALS):
        assert table.keys() <= ROWS.keys()
        for bounds in table.values():
            assert bounds.keys() <= set(floors.MEASURES)
    assert set(floors.MEASURES) >= floors.AT_MOST
    assert {*PAPER, *HERD} <= floors.FLOORS.keys()


def test_a_row_without_a_floor_cannot_miss_it(results: Results) -> None:
    for server, rate in ((OURS, 90), (TUNED, 100)):
        results.add(WORKERS, server, 0, sample(rate))
    found = verdicts(results)[WORKERS, floors.TUNED]
    assert found.holds
    assert not found.is_goal
    assert "| below the goal |" in line_of(report.markdown(results, {}), WORKERS)


def line_of(page: str, row: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(f"| {row} |"))


def test_the_page_has_a_line_for_each_row_and_each_server(results: Results) -> None:
    page = report.markdown(results, {"cores": 2, "machine": "AMD EPYC"})
    assert page.index("Measured on: AMD EPYC.") < page.index("| plain |")
    assert line_of(page, "plain").startswith("| plain | 1.10 (≥ 0.95) | 1.38 | 1.10 |")
    assert "| **600** (≤ 512) | **missed** |" in line_of(page, IDLE)
    assert "| trio_amped | **1.10**<br>0.50-1.20 | - |" in page
    assert "| aiohttp, `add_static` | - | failed |" in page
    assert "| trio_amped | 110<br>9,090.9 µs | - |" in page
    assert "- cores: 2\n" in page
    assert "## Failed\n\n- aiohttp, zipf, round 2: not a 200\n" in page
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_a_table_is_longer_than_wide(results: Results) -> None:
    for row in ("301", "404", "412", "416", "head"):
        results.add(row, OURS, 0, sample(90))
    page = report.markdown(results, {})
    assert "| row | trio_amped |\n|---|---:|\n| 404 | 90<br>" in page


def test_without_nginx_the_ratios_are_to_the_earlier_commit() -> None:
    found = Results()
    found.add("plain", OURS, 0, sample(90))
    found.add("plain", EARLIER, 0, sample(100))
    page = report.markdown(found, {})
    assert "| trio_amped | **0.90**<br>0.90-0.90 |" in page
    assert "| plain | 0.90 | 1.00 | **1.11** (≤ 1.03) | **missed** |" in page


def test_a_server_that_waited_for_its_load_is_marked(results: Results) -> None:
    results.add("close", OURS, 0, Sample(1000.0, 500.0, idle=0.5, others=0.0))
    assert "1,000\\*<br>500.0 µs" in report.markdown(results, {})


def test_a_page_of_nothing_has_no_tables() -> None:
    assert "|" not in report.markdown(Results(), {})


def test_results_are_json(results: Results) -> None:
    plain = json.loads(json.dumps(results.plain()))
    assert plain["samples"]["plain"][OURS][2] == {"round": 2, **vars(sample(240))}


def test_the_chart_has_a_bar_for_each_ratio(results: Results) -> None:
    text = chart.svg("A < B", output.panels(results))
    tree = ElementTree.fromstring(text)
    bars = [each for each in tree.iter() if re.search("rect$", each.tag) and len(each)]
    titles = ["".join(bar.itertext()) for bar in bars]
    assert titles == [
        f"{OURS}: 1.100",
        f"{TUNED}: 1.000",
        "nginx: 0.800",
        f"{TASKS}: 0.200",
        f"{TUNED}: 1.000",
    ]
    assert {each.get("class") for each in bars} == {"ours", "nginx"}


def test_a_long_bar_is_cut_off_and_keeps_its_number() -> None:
    bars = [("epoll", 24.0, "limit"), ("a", 1.0, "nginx"), ("b", 2.9, "ours")]
    assert lengths(bars)[0] == pytest.approx(lengths(bars)[1] * 3, abs=0.2)
    assert lengths(bars)[2] == pytest.approx(lengths(bars)[1] * 2.9, abs=0.2)
    assert ">… 24.00<" in chart.svg("x", {"pipeline": ("", bars)})


def test_a_panel_is_as_wide_as_its_longest_bar() -> None:
    """Of two bars the longer one is always longer."""
    low, high = lengths([("a", 1.76, "ours"), ("b", 2.25, "nginx")])
    assert high == pytest.approx(low * 2.25 / 1.76, abs=0.2)


def lengths(bars: list[chart.Bar]) -> list[float]:
    text = chart.svg("x", {"1m": ("", bars)})
    found = re.findall(r'x="\d+" y="\d+" width="([\d.]+)" he', text)
    return [float(each) for each in found[: len(bars)]]


def test_a_part_can_be_asked_for() -> None:
    options = parse(["--only", "304-*,plain", "--servers", f"{TUNED},{OURS}", "--rounds", "2"])
    assert options.only == ["plain", "304-tag", "304-date", "304-both"]
    assert (options.servers, options.rounds) == ([OURS, TUNED], 2)
    assert parse(["--short"]).servers == list(ALWAYS)
    assert parse([]).servers == list(ALL)
    assert parse([]).only == list(ROWS)


def test_an_earlier_commit_is_compared_with_alone_unless_others_are_named() -> None:
    options = parse(["--base"])
    assert re.fullmatch("[0-9a-f]{40}", options.base)
    assert options.servers == [EARLIER, OURS]
    options = parse(["--base", "HEAD~1", "--servers", "nginx"])
    assert (options.base, options.servers) == ("HEAD~1", [EARLIER, OURS, DEFAULT])
    assert EARLIER not in parse([]).servers


@pytest.mark.parametrize("wrong", [["--only", "2k"], ["--servers", "x"], ["--servers", EARLIER]])
def test_what_cannot_be_measured_is_refused(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(wrong)
    assert "error:" in capsys.readouterr().err
