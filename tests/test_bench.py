"""The pure parts of the hot benchmark: what wrk says, statistics, tables, the chart."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from bench.hot import chart, output, report
from bench.hot.__main__ import parse
from bench.hot.answers import Head, Wrong, read_head, request
from bench.hot.idle import Memory
from bench.hot.measure import Load, Sample, check_total, read_wrk
from bench.hot.peers import BASE, OURS, PEERS, PLAIN
from bench.hot.results import Results, Spread
from bench.hot.workloads import (
    BROWSER,
    ID,
    SIZES,
    WORKERS,
    WORKLOADS,
    contents,
    drawn,
    zipf_sizes,
)

SAID = """Running 1s test @ http://127.0.0.1:41231/
  1 threads and 64 connections
  41955 requests in 1.00s, 50.33MB read
RESULT {"requests": 41955, "bytes": 52779390, "seconds": 1.0, "sent": 0, "due": 0, "errors": %s}
"""
NO_ERRORS = '{"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}'


def sample(rate: float) -> Sample:
    return Sample(rate, cpu=1e6 / rate, idle=0.0, others=0.0)


@pytest.fixture
def results() -> Results:
    """Three rounds of `1k`, of `zipf` where another server failed, and of idle connections."""
    found = Results()
    for number, (ours, theirs) in enumerate([(110, 100), (50, 100), (240, 200)]):
        found.add("1k", OURS, number, sample(ours))
        found.add("1k", BASE, number, sample(theirs))
        found.add("1k", PLAIN, number, sample(20))
        found.add("1k", "nginx", number, sample(80))
        found.add("zipf", BASE, number, sample(100))
    found.add("zipf", "aiohttp", 0, sample(100))
    found.fail("zipf", "aiohttp", 1, "not a 200")
    found.idle[OURS] = Memory(600.0, 600.0)
    return found


def test_what_wrk_says_is_read() -> None:
    assert read_wrk(SAID % NO_ERRORS) == Load(41955, 52779390, 1.0, 0, 0)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
def test_what_wrk_counts_as_errors_is_a_failed_run(kind: str) -> None:
    with pytest.raises(Wrong, match=f"3 {kind}"):
        read_wrk(SAID % NO_ERRORS.replace(f'"{kind}": 0', f'"{kind}": 3'))


def test_wrk_without_a_result_is_a_failed_run() -> None:
    with pytest.raises(Wrong, match="unable to connect"):
        read_wrk("unable to connect to 127.0.0.1:1")


HEADS = {"/1k": Head(200, 1024, False)}


@pytest.mark.parametrize("more", [0, 1224, 64 * 1224])
def test_a_total_may_have_what_was_on_its_way(more: int) -> None:
    check_total(Load(1000, 1000 * 1224 + more, 1.0), WORKLOADS["1k"], HEADS)
    due = (1000 + 64) * 1224
    check_total(Load(1000, due - more, 1.0, 1064, due), WORKLOADS["unique"], HEADS)


@pytest.mark.parametrize(
    "load",
    [
        Load(0, 0, 1.0),
        Load(1000, 1000 * 1224 - 1, 1.0),
        Load(1000, 1064 * 1224 + 1, 1.0),
        Load(1000, 1000 * 1224, 1.0, 999, 1000 * 1224),
        Load(1000, 1000 * 1224, 1.0, 1066, 1066 * 1224),
        Load(1000, 1065 * 1224 + 1, 1.0, 1065, 1065 * 1224),
        Load(1000, 999 * 1224, 1.0, 1065, 1065 * 1224),
    ],
)
def test_a_total_that_is_not_right_is_a_failed_run(load: Load) -> None:
    with pytest.raises(Wrong):
        check_total(load, WORKLOADS["1k"], HEADS)


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: Close\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_the_head_of_a_right_answer_is_read(head: bytes, closes: bool) -> None:
    assert read_head(head) == Head(len(head), 5, closes)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        b"",
    ],
)
def test_the_head_of_a_wrong_answer_is_refused(head: bytes) -> None:
    with pytest.raises(Wrong):
        read_head(head)


def test_files_and_their_order_are_the_same_in_every_run() -> None:
    paths = WORKLOADS["zipf"].paths
    order = drawn(paths)
    assert order == drawn(paths)
    counts = [order.count(path) for path in paths[:100]]
    assert counts[0] > counts[9] > counts[99] > 0
    sizes = zipf_sizes().values()
    assert len(sizes) == 2000
    assert 512 <= min(sizes) < 600
    assert 60_000 < max(sizes) <= 64 * 1024
    assert {path: len(content) for path, content in contents()} == SIZES | zipf_sizes()


def test_a_browsers_head_has_two_things_that_change() -> None:
    assert BROWSER.count(ID) == 2
    ask = request("/1k", BROWSER)
    assert ask.startswith(b"GET /1k HTTP/1.1\r\nHost: ")
    assert b"\r\nConnection: keep-alive\r\n" in ask
    assert ID.encode() not in ask
    assert ask.endswith(b"\r\n\r\n")


def test_a_ratio_is_the_median_of_the_ratios_of_each_round(results: Results) -> None:
    assert results.ratio("1k", OURS) == Spread(1.1, 0.5, 1.2)
    assert results.ratio("1k", PLAIN, "nginx") == Spread(0.25, 0.25, 0.25)
    assert results.ratio("16m", OURS) is None


def test_one_error_is_a_failed_run(results: Results) -> None:
    assert results.ratio("zipf", "aiohttp") is None
    assert results.middle("zipf", "aiohttp") is None


def test_the_floors_are_looked_at(results: Results) -> None:
    verdicts = {each.row: each for each in results.verdicts()}
    assert verdicts["1k"].is_goal
    assert verdicts["1k, lane off, to nginx default"].holds
    assert not verdicts["idle, bytes"].holds
    assert "zipf" not in verdicts


def test_a_row_without_a_floor_cannot_miss_it(results: Results) -> None:
    for server, rate in ((OURS, 90), (BASE, 100)):
        results.add(WORKERS, server, 0, sample(rate))
    (verdict,) = [each for each in results.verdicts() if each.row == WORKERS]
    assert verdict.holds
    assert not verdict.is_goal
    assert "| workers | 0.90 | - | 1 | below the goal |" in report.markdown(results, {})


def test_the_page_has_a_line_for_each_server(results: Results) -> None:
    page = report.markdown(results, {"cores": 2})
    assert "| 1k | 1.10 | 0.95 | 1 | goal |" in page
    assert "| idle, bytes | 600 | <= 512 | 512 | **missed** |" in page
    assert "| trio_amped | **1.10**<br>0.50-1.20 | - |" in page
    assert "| aiohttp, `add_static` | - | failed |" in page
    assert "| trio_amped | 110<br>9,090.9 µs | - |" in page
    assert "- cores: 2\n" in page
    assert "## Failed\n\n- aiohttp, zipf, round 2: not a 200\n" in page
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_a_server_that_waited_for_its_load_is_marked(results: Results) -> None:
    results.add("close", OURS, 0, Sample(1000.0, 500.0, idle=0.5, others=0.0))
    assert "1,000\\*<br>500.0 µs" in report.markdown(results, {})


def test_a_page_of_nothing_has_no_tables() -> None:
    assert "|" not in report.markdown(Results(), {})


def test_results_are_json(results: Results) -> None:
    plain = json.loads(json.dumps(results.plain()))
    assert plain["samples"]["1k"][OURS][2] == {"round": 2, **vars(sample(240))}


def test_the_chart_has_a_bar_for_each_ratio(results: Results) -> None:
    text = chart.svg("A < B", output.panels(results))
    tree = ElementTree.fromstring(text)
    bars = [each for each in tree.iter() if re.search("rect$", each.tag) and len(each)]
    titles = ["".join(bar.itertext()) for bar in bars]
    assert titles == [
        f"{OURS}: 1.100",
        f"{BASE}: 1.000",
        "nginx: 0.800",
        f"{PLAIN}: 0.200",
        f"{BASE}: 1.000",
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
    options = parse(["--only", "1k,idle", "--servers", f"{OURS},{BASE}", "--rounds", "2"])
    assert (options.only, options.servers, options.rounds) == (["1k", "idle"], [OURS, BASE], 2)
    assert parse(["--short"]).servers == [OURS, BASE]
    assert parse([]).servers == list(PEERS)


@pytest.mark.parametrize("wrong", [["--only", "2k"], ["--servers", "x"], ["--servers", OURS]])
def test_what_cannot_be_measured_is_refused(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(wrong)
    assert "error:" in capsys.readouterr().err
