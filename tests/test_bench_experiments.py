"""The paper's experiments: what is kept, what is made of it, and that a point can be measured."""

import os
import re
import signal
import socket
import xml.etree.ElementTree as ElementTree
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import trio_amped
from bench import machine
from bench.experiments import __main__ as command
from bench.experiments import (
    connections,
    crowd,
    drawing,
    memory,
    one_file,
    page,
    parts,
    residency,
    run,
    streamers,
    streams,
)
from bench.experiments.claims import at_least, at_most, listed, observed
from bench.experiments.data import Data
from bench.experiments.figure import IDLE, Column, Cores, Figure, Figures, Measure, Series
from bench.experiments.shapes import AMPED, NGINX, PROCESSES, SHAPES, SPED, ours
from bench.experiments.store import Row, Stamp, Store
from bench.hot import cgroups, paper, processes
from bench.hot.answers import Wrong
from bench.hot.files import MIB, content
from bench.hot.probe import FILE
from bench.hot.rows import PAPER_NEEDS
from bench.spread import Spread
from tests.rig import REPOSITORY, needs, public_directory
from tests.rig.tools import run_tool
from trio_amped.disk.pages import Gate, PageGate

NOW, BEFORE = Stamp("AMD EPYC", "abc"), Stamp("AMD EPYC", "def")
COLUMNS = ("requests", "cpu")


def row(number: int, server: str, x: str, requests: float, stamp: Stamp = NOW) -> Row:
    return Row(number, server, x, {"requests": requests}, stamp)


# ------------------------------------------------------------------------------- what is kept


def test_rows_outlive_the_run(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "figure.csv"
    first, second = row(0, "a", "1", 10.5), Row(1, "b, c", "2", {"cpu": 1e-3}, NOW)
    Store(path, COLUMNS).append(first)
    Store(path, COLUMNS).append(second)
    assert Store(path, COLUMNS).rows == [first, second]
    assert path.read_text() == (
        "round,server,x,requests,cpu,processor,commit\n"
        "0,a,1,10.5,,AMD EPYC,abc\n"
        '1,"b, c",2,,0.001,AMD EPYC,abc\n'
    )


@pytest.mark.parametrize("left", ["1,b", "1,b,2,12,3,AMD EPYC,ab", "1,b,2,12,3,AMD EPYC,abc"])
def test_half_a_line_is_no_row_and_gives_way_to_the_next(tmp_path: Path, left: str) -> None:
    """Also one that only lacks its end: whether the last cell is whole cannot be known."""
    path = tmp_path / "figure.csv"
    Store(path, COLUMNS).append(row(0, "a", "1", 10))
    with path.open("a") as file:
        file.write(left)
    store = Store(path, COLUMNS)
    assert store.rows == [row(0, "a", "1", 10)]
    store.append(row(1, "b", "2", 20))
    assert Store(path, COLUMNS).rows == [row(0, "a", "1", 10), row(1, "b", "2", 20)]


@pytest.mark.parametrize("left", ["", "round,serv"])
def test_half_a_head_is_an_empty_file(tmp_path: Path, left: str) -> None:
    path = tmp_path / "figure.csv"
    path.write_text(left)
    store = Store(path, COLUMNS)
    assert store.rows == []
    store.append(row(0, "a", "1", 10))
    assert Store(path, COLUMNS).rows == [row(0, "a", "1", 10)]


def test_rows_of_another_commit_stay_and_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "figure.csv"
    old, new = row(0, "a", "1", 10, BEFORE), row(0, "a", "1", 20)
    store = Store(path, COLUMNS)
    store.append(old)
    assert store.of(NOW) == []
    assert store.current(NOW) == [old], "until it is measured anew, that is what there is"
    store.append(new)
    assert store.current(NOW) == [new]
    assert Store(path, COLUMNS).rows == [old, new]
    other_machine = Stamp("another one", NOW.commit)
    assert store.of(other_machine) == []


def test_nothing_measured_is_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "figure.csv", COLUMNS).current(NOW) == []


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "figure.csv"
    Store(path, ("requests",)).append(row(0, "a", "1", 10))
    with pytest.raises(RuntimeError, match=r"its columns are .*: move the file away"):
        Store(path, COLUMNS)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("0,a,1,10,AMD EPYC,abc", "6 cells, where 7 are due"),
        ("x,a,1,10,,AMD EPYC,abc", ".* 'x'"),
        ("0,a,1,fast,,AMD EPYC,abc", ".* 'fast'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    path = tmp_path / "figure.csv"
    Store(path, COLUMNS).append(row(0, "a", "1", 10))
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(RuntimeError, match=rf"figure.csv, line 3: {wrong}: remove the line"):
        Store(path, COLUMNS)


# ---------------------------------------------------------------------------- what is measured


class Toy:
    """A figure of two servers and two points, whose measurements are noted."""

    def __init__(self, failing: tuple[str, str] | None = None) -> None:
        self.failing = failing
        self.asked: list[tuple[str, str]] = []
        self.figure = Figure(
            number=9,
            name="toy",
            title="A < toy",
            question="How fast is a toy?",
            axis="size",
            points={"1": "one", "2": "two"},
            series=(Series("a", "the a & b", "ours"), Series("b", "the b", "nginx", "--")),
            columns=(Column("requests", "requests a second"), IDLE),
            prepared=self.prepared,
            sentences=lambda data: observed(
                "b is,", {"one": data.ratio("b", "a", "1", "requests")}
            ),
            missing=lambda name, x: "it has no wheels" if (name, x) == ("b", "2") else None,
            short=("2",),
            base="a",
        )

    @contextmanager
    def prepared(self, _cores: Cores, _scratch: Path) -> Iterator[Measure]:
        yield self.measure

    @staticmethod
    def sentences(data: Data) -> Iterator[str]:
        yield from observed("b is,", {"one": data.ratio("b", "a", "1", "requests")})

    def measure(self, name: str, x: str) -> Figures:
        self.asked.append((name, x))
        if (name, x) == self.failing:
            raise Wrong("not a 200")
        return {"requests": 10.0 * len(self.asked), "idle": 0.0}


def test_servers_take_turns_and_every_other_round_goes_backwards() -> None:
    figure = Toy().figure
    assert list(run.cells(figure, figure.points, 2)) == [
        (0, "a", "1"),
        (0, "b", "1"),
        (0, "a", "2"),
        (1, "b", "1"),
        (1, "a", "1"),
        (1, "a", "2"),
    ]
    assert run.notes(figure, figure.points) == ["the b at two was left out: it has no wheels"]


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "cores", lambda: (0, 0))


def measured(
    toy: Toy, out: Path, *, rounds: int = 1, short: bool = False, commit: str = NOW.commit
) -> list[str]:
    options = Namespace(only=[toy.figure], short=short, rounds=rounds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "commit", lambda: commit)
        return command.measured(options, {9: stored(toy, out)}, NOW)


def stored(toy: Toy, out: Path) -> Store:
    return Store(out / "toy.csv", [column.name for column in toy.figure.columns])


@pytest.mark.usefixtures("one_core")
def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    toy = Toy()
    assert measured(toy, tmp_path, short=True) == []
    assert toy.asked == [("a", "2")]
    assert measured(toy, tmp_path) == []
    assert toy.asked == [("a", "2"), ("a", "1"), ("b", "1")]
    measured(toy, tmp_path, rounds=2)
    assert len(toy.asked) == 6
    measured(toy, tmp_path, rounds=2)
    assert len(toy.asked) == 6
    assert [row.cell for row in stored(toy, tmp_path).rows][-1] == (1, "a", "2")


@pytest.mark.usefixtures("one_core")
def test_what_failed_leaves_no_row_and_is_tried_again(tmp_path: Path) -> None:
    toy = Toy(failing=("b", "1"))
    assert measured(toy, tmp_path) == ["figure 9, round 1, one, b: not a 200"]
    assert [row.cell for row in stored(toy, tmp_path).rows] == [(0, "a", "1"), (0, "a", "2")]
    toy.failing = None
    assert measured(toy, tmp_path) == []
    assert toy.asked[3:] == [("b", "1")]


@pytest.mark.usefixtures("one_core")
def test_a_server_that_was_changed_meanwhile_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="changed since the run began: start it anew"):
        measured(Toy(), tmp_path, commit="another one")
    assert stored(Toy(), tmp_path).rows == []


@pytest.mark.usefixtures("one_core")
def test_files_that_cannot_be_made_fail_their_figure_alone(tmp_path: Path) -> None:
    toy = Toy()

    def prepared(_cores: Cores, _scratch: Path) -> AbstractContextManager[Measure]:
        raise OSError("the disk is full")

    toy.figure = replace(toy.figure, prepared=prepared)
    assert measured(toy, tmp_path) == ["figure 9: the disk is full"]


# ------------------------------------------------------------------------- what is made of it


@pytest.fixture
def data() -> Data:
    """Three rounds of two servers, of which the second round was a slow one."""
    rates = {("a", "1"): (100, 50, 120), ("b", "1"): (110, 60, 60), ("a", "2"): (10, 10, 12)}
    return Data(
        [row(n, *key, rate) for key, found in rates.items() for n, rate in enumerate(found)]
    )


def test_the_median_and_its_spread(data: Data) -> None:
    assert data.spread("a", "1", "requests") == Spread(100, 50, 120)
    assert data.spread("b", "2", "requests") is None
    assert data.spread("a", "1", "cpu") is None
    assert (len(data), data.rounds, data.stamps) == (9, 3, [NOW])


def test_a_ratio_is_that_of_one_round(data: Data) -> None:
    assert data.ratio("b", "a", "1", "requests") == Spread(1.1, 0.5, 1.2)
    assert data.between("a", "2", "1", "requests") == Spread(0.1, 0.1, 0.2)
    assert data.share("a", "1", "requests", 200) == Spread(0.5, 0.25, 0.6)
    assert data.share("a", "1", "cpu", 200) is None
    assert data.ratio("b", "a", "2", "requests") is None


def test_the_best_of_the_others_is_what_counts() -> None:
    data = Data([row(0, name, "1", rate) for name, rate in (("a", 80), ("b", 100), ("c", 40))])
    best = data.to_best("a", ["b", "c", "unknown"], "1", "requests")
    assert best == Spread(0.8, 0.8, 0.8)
    shortest = data.to_best("a", ["b", "c"], "1", "requests", is_more_better=False)
    assert shortest == Spread(0.5, 0.5, 0.5)
    assert data.to_best("a", [], "1", "requests") is None


def test_a_claim_holds_at_every_point_or_it_does_not() -> None:
    fine, low = Spread(1.0, 0.1, 2.0), Spread(0.5, 0.1, 2.0)
    assert list(at_least("it is fast", 0.9, {"1 KiB": fine, "1 MiB": None})) == [
        "**Holds:** it is fast. The least is 1.00, at 1 KiB. Not measured: 1 MiB."
    ]
    assert list(at_least("it is fast", 0.9, {"1 KiB": fine, "1 MiB": low})) == [
        "**Does not hold:** it is fast. It is 0.50 at 1 MiB, where 0.9 was expected."
    ]
    assert list(at_least("it is fast", 0.9, {"1 KiB": None})) == []
    many = {"1 KiB": low} | dict.fromkeys("abcde")
    assert list(at_least("it is fast", 0.4, many)) == [
        "**Holds:** it is fast. The least is 0.50, at 1 KiB. Not measured: 5 of 6."
    ]
    assert list(at_least("it is fast", 0.9, {"1 KiB": low}, judged="most")) == [
        "**Holds:** it is fast. The least is 2.00, at 1 KiB."
    ]


def test_what_should_be_little_is_judged_by_the_worst_round() -> None:
    fine, low = Spread(1.0, 0.1, 2.0), Spread(0.5, 0.1, 0.8)
    assert list(at_most("it is little", 0.9, {"1 KiB": low, "1 MiB": None})) == [
        "**Holds:** it is little. The most is 0.80, at 1 KiB. Not measured: 1 MiB."
    ]
    assert list(at_most("it is little", 1.5, {"1 KiB": fine, "1 MiB": low})) == [
        "**Does not hold:** it is little. It is 2.00 at 1 KiB, where 1.5 was expected."
    ]
    assert list(at_most("it is little", 0.9, {"1 KiB": None})) == []
    assert list(observed("It is", {"1": fine, "2": low})) == ["It is 1.00 at 1 and 0.50 at 2."]
    assert list(observed("It is", {})) == []
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_figure_1_says_what_does_not_hold() -> None:
    rates = {AMPED: 90, SPED: 100, NGINX[0]: 50, NGINX[1]: 95}
    rows = [row(0, name, "1024", rate) for name, rate in rates.items()]
    rows[0] = replace(rows[0], figures={"requests": 90, "cpu": 20})
    rows.append(Row(0, "mincore", "1024", {"test": 2}, NOW))
    said = list(one_file.sentences(Data(rows)))
    assert len(said) == 3, "and nothing of what was not measured"
    assert re.fullmatch(r"\*\*Does not hold:.* SPED .*It is 0.90 at 1 KiB, .*", said[0])
    assert re.fullmatch(r"\*\*Does not hold:.* best nginx.*It is 0.95 at 1 KiB, .*", said[1])
    assert "2.0 µs for 1 KiB (10.0%)" in said[2]


def test_figure_2_asks_for_more_where_the_disk_is_the_limit() -> None:
    """What helpers of its own kind answer is no rival's."""
    figures = {
        "bytes-80": {AMPED: (80, 1.0), PROCESSES: (200, 0.5), SPED: (100, 0.9), NGINX[0]: (90, 4)},
        "operations-640": {AMPED: (90, 9.0), SPED: (10, 900), NGINX[2]: (100, 10)},
    }
    rows = [
        Row(0, name, x, {"requests": rate, "p99": p99, "hits": 0.99 if rate > 100 else 0.8}, NOW)
        for x, found in figures.items()
        for name, (rate, p99) in found.items()
    ]
    rows[0] = replace(rows[0], figures={**rows[0].figures, "hits": 0.95, "cached": 100})
    rows[1] = replace(rows[1], figures={**rows[1].figures, "cached": 90})
    fits, far = memory.POINTS["bytes-80"], memory.POINTS["operations-640"]
    goal, disk, no_disk, hot, processes, caches = memory.sentences(Data(rows))
    assert f"at every size. It is 0.80 at {fits} and 0.90 at {far}, where 1 was expected" in goal
    assert disk.startswith("**Does not hold:** where AMPED has a hit rate below 90%")
    assert f"It is 0.90 at {far}, where 0.95 was expected" in disk
    assert no_disk == (
        "**Holds:** where AMPED has a hit rate of 90% or more, at least 0.75 of the best. "
        f"The least is 0.80, at {fits}. Not measured: 10 of 11."
    )
    assert f"It is 0.90 at {fits}, where 1 was expected" in hot
    assert processes.endswith(f", 2.50 at {fits}.")
    assert f"It is 0.90 at {fits}, {PROCESSES}, where 0.95 was expected" in caches


def test_figure_3_looks_for_the_shortest_wait() -> None:
    figures = {AMPED: (100, 2.0), NGINX[0]: (50, 8.0), NGINX[1]: (100, 1.0)}
    rows = [
        Row(0, name, x, {"requests": rate / len(x), "p99": p99}, NOW)
        for x in ("10", "1000")
        for name, (rate, p99) in figures.items()
    ]
    said, thousand = list(connections.sentences(Data(rows))), connections.POINTS["1000"]
    assert len(said) == 3
    assert f"It is 0.50 at {thousand}, where 0.9 was expected" in said[0]
    assert said[1].startswith("**Holds:")
    assert f"It is 0.50 at 10 and 0.50 at {thousand}, where 1 was expected" in said[2]


def test_figure_4_names_what_is_faster_than_the_default() -> None:
    rates = {AMPED: 100, "no-lane": 20, "4-helpers": 125}
    said = list(parts.sentences(Data([row(0, *key, r) for key, r in disk_rows(rates)])))
    assert "It is 0.80 at more files than memory, 4 helpers at most," in said[0]
    assert "Without the lane (`--no-fast-lane`)" in said[1]
    assert said[1].endswith(": 0.20 at more files than memory.")
    assert len(said) == 3


def test_figure_6_compares_what_is_read() -> None:
    figures = {
        AMPED: (40e6, 1.0, 2.0),
        NGINX[0]: (10e6, 0.9, 8.0),
        streams.DIRECTIO: (38e6, 1.3, 9.0),
    }
    rows = [
        Row(0, name, "100", {"bytes": rate, "read": read, "p99": p99}, NOW)
        for name, (rate, read, p99) in figures.items()
    ]
    said = list(streams.sentences(Data(rows)))
    assert said[0].startswith("**Holds:")
    assert "The least is 1.05, at 100 clients" in said[0]
    assert "It is 0.90 at 100 clients, where 0.95 was expected" in said[1]
    assert said[2].startswith("**Holds:")
    assert said[3:] == ["The bytes that AMPED reads for each byte sent: 1.00 at 100 clients."]


def disk_rows(rates: dict[str, int]) -> list[tuple[tuple[str, str], int]]:
    return [((name, parts.DISK_POINT), rate) for name, rate in rates.items()]


# ---------------------------------------------------------------------------- the page, pictures


def test_the_page_has_a_section_for_each_figure(data: Data) -> None:
    figure = replace(Toy().figure, missing=lambda name, x: None)
    text = page.markdown([(figure, data), (replace(figure, number=10), Data([]))], rounds=5)
    assert "\n## Figure 9: A < toy\n\nHow fast is a toy?\n" in text
    assert "![Figure 9: A < toy](experiments/toy.svg)" in text
    assert "[The measurements](experiments/toy.csv): AMD EPYC, the server of commit abc, 9 " in text
    assert "\n- b is, 1.10 at one.\n" in text
    assert "|  | one | two |\n|---|---:|---:|\n" in text
    assert "| the a & b | 100<br>50.0-120 | 10.0<br>10.0-12.0 |\n" in text
    assert "| the b | 60.0<br>60.0-110 | - |\n" in text
    assert "## Figure 10: A < toy\n\nHow fast is a toy?\n\nIt has not been measured yet.\n" in text
    assert all(len(line) <= 100 for line in text.splitlines() if not re.match(r"\||.*\]\(", line))


def test_a_link_stays_whole(data: Data) -> None:
    figure = replace(Toy().figure, name="-".join(["many"] * 30))
    assert f"(experiments/{figure.name}.csv)" in page.markdown([(figure, data)], rounds=5)


def test_a_part_of_a_run_is_marked(data: Data) -> None:
    figure = replace(Toy().figure, missing=lambda name, x: None)
    words = " ".join(page.markdown([(figure, data)], rounds=5).split())
    assert "**This is a part of the run, which has 20: a first look, not a result.**" in words
    rows = [row(n, name, x, 1) for n in range(5) for name in "ab" for x in "12"]
    assert "a part of the run" not in page.markdown([(figure, Data(rows))], rounds=5)


def test_a_server_whose_core_others_had_is_marked() -> None:
    others = {"1": 0.5, "2": 0.0}
    rows = [Row(0, "a", x, {"requests": 5, "others": share}, NOW) for x, share in others.items()]
    text = page.markdown([(Toy().figure, Data(rows))], rounds=1)
    assert "| the a & b | 5.00† | 5.00 |\n" in text
    assert "\n† Other programs had its core for more than 10% of the time" in text
    assert "waited for its load" not in text


def test_a_server_that_waited_for_its_load_is_marked() -> None:
    rows = [
        Row(0, "a", x, {"requests": 5, "idle": idle}, NOW) for x, idle in (("1", 0.5), ("2", 0))
    ]
    text = page.markdown([(Toy().figure, Data(rows))], rounds=1)
    assert "| the a & b | 5.00\\* | 5.00 |\n" in text
    assert "\n\\* Its core had nothing to do for more than 10% of the time: it waited" in text


@pytest.mark.parametrize("kind", ["lines", "bars"])
def test_a_picture_is_the_same_for_the_same_data(data: Data, kind: str) -> None:
    figure = replace(Toy().figure, kind="bars" if kind == "bars" else "lines")
    text = drawing.svg(figure, data)
    assert text == drawing.svg(figure, data)
    assert not re.search(r"date|20\d\d-\d\d", text, re.IGNORECASE)
    tree = ElementTree.fromstring(text)
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    words = {"".join(each.itertext()) for each in tree.iter() if each.tag.endswith("}text")}
    assert {"the a & b", "the b"} <= words
    assert "Figure 9: A < toy" in {each.text for each in tree.iter() if each.tag.endswith("}title")}


@pytest.mark.parametrize("kind", ["lines", "bars"])
def test_a_picture_can_be_read_in_light_and_dark(data: Data, kind: str) -> None:
    """Each colour is a variable, which the reader's scheme gives its value."""
    text = drawing.svg(replace(Toy().figure, kind="bars" if kind == "bars" else "lines"), data)
    style, drawn = re.split("</style>", text, maxsplit=1)
    assert "prefers-color-scheme: dark" in style
    used = set(re.findall(r"var\((--\w+)\)", drawn))
    assert {"--ground", "--text", "--faint", "--line", "--ours", "--nginx"} <= used
    assert used <= set(re.findall(r"(--\w+):", style))
    assert re.findall(r"(?:fill|stroke):\s*(?!\s|none|var)[^;\"]+", drawn) == []
    for parent in ElementTree.fromstring(text).iter():
        for each in parent.findall("{http://www.w3.org/2000/svg}text"):
            styles = each.get("style", "") + parent.get("style", "")
            assert "fill: var(--" in styles, "".join(each.itertext())


def test_there_is_a_panel_for_each_column_and_no_other(data: Data) -> None:
    figure, column = Toy().figure, Toy().figure.columns[0]
    for count in (1, 2, 3):
        text = drawing.svg(replace(figure, columns=(column,) * count), data)
        assert text.count('<g id="axes_') == count


GROUPS = {"bytes": {"1": "half"}, "operations": {"2": "all"}}


def test_there_is_a_panel_and_a_table_for_each_column_and_group(data: Data) -> None:
    hits = Column("requests", "hit rate, %", is_log=False)
    figure = Toy().figure
    figure = replace(figure, columns=(figure.columns[0], hits), groups=GROUPS)
    text = drawing.svg(figure, data)
    assert text.count('<g id="axes_') == 4
    words = {"".join(each.itertext()) for each in ElementTree.fromstring(text).iter()}
    assert {f"{group}: hit rate, %" for group in GROUPS} <= words
    assert {"half", "all"} <= words
    assert not {"one", "two"} & words, "in a group the points have its names"
    text = page.markdown([(figure, data)], rounds=5)
    assert "\nBytes: requests a second: the median, the least and the most.\n\n|  | half |" in text
    assert "\nOperations: hit rate, %: the median, the least and the most.\n\n|  | all |" in text


def test_a_column_has_the_scale_that_it_asks_for(data: Data) -> None:
    figure, column = Toy().figure, Toy().figure.columns[0]
    linear = replace(column, is_log=False)
    pictures = [drawing.svg(replace(figure, columns=(each,)), data) for each in (column, linear)]
    assert ["mathdefault{10^" in text for text in pictures] == [True, False]


def words(text: str) -> list[str]:
    """The words of a picture, in their order."""
    tree = ElementTree.fromstring(text)
    return ["".join(each.itertext()) for each in tree.iter() if each.tag.endswith("}text")]


def test_bars_without_a_base_are_values_of_the_first_column_of_their_point() -> None:
    columns = (Column("requests", "requests a second"), Column("p99", "p99, s", 1e-3))
    figure = replace(Toy().figure, kind="bars", base="", columns=columns)

    def drawn(*values: float) -> list[str]:
        rows = [
            Row(0, name, "2", {"p99": p99}, NOW) for name, p99 in zip("ab", values, strict=True)
        ]
        return words(drawing.svg(figure, Data([row(0, "a", "1", 5), *rows])))

    said = drawn(20, 9000)
    assert [each for each in said if each in ("requests a second", "p99, s")] == [
        "requests a second",
        "p99, s",
    ]
    assert {"0.1", "1", "10"} <= set(said), "bars that differ this much have a scale of powers"
    assert "0.1" not in drawn(20, 30)


def test_a_figure_without_some_of_its_columns_is_drawn() -> None:
    assert "the b" not in drawing.svg(Toy().figure, Data([row(0, "a", "1", 5)]))


# --------------------------------------------------------------------------- the command line


def test_a_part_can_be_asked_for() -> None:
    asked = command.parse(["--only", "4, 1", "--rounds", "3", "--out", "somewhere"])
    assert [figure.number for figure in asked.only] == [1, 4]
    assert (asked.rounds, asked.out) == (3, Path("somewhere"))
    usual, short = command.parse([]), command.parse(["--short"])
    assert [figure.number for figure in usual.only] == [1, 2, 3, 4, 5, 6]
    assert (usual.rounds, usual.out) == (5, REPOSITORY / "docs")
    assert [figure.number for figure in short.only] == [1, 4]
    assert (short.rounds, short.out) == (1, REPOSITORY / "build" / "experiments")


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        (["--only", "7"], "give some of 1, 2, 3, 4, 5, 6"),
        (["--only", ""], "give some of 1, 2, 3, 4, 5, 6"),
        (["--rounds", "0"], "give 1 or more"),
        (["--rounds", "many"], "give 1 or more"),
        (["--short", "--only", "2"], "figure 2 has no short form: leave out --short"),
        (["--short", "--only", "3"], "leave out --short"),
        (["--out", __file__], "name one, or a new one"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_what_is_wrong_is_one_line(
    wrong: list[str], mend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        command.parse(wrong)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert mend in said


@pytest.fixture
def main() -> Iterator[Callable[..., int]]:
    """The program, whose changes to this process are undone."""
    handler, mask = signal.getsignal(signal.SIGTERM), os.umask(0)
    os.umask(mask)
    yield lambda *arguments: command.main(list(arguments))
    signal.signal(signal.SIGTERM, handler)
    os.umask(mask)


def test_without_matplotlib_it_says_so_at_once(
    main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(command, "measured", lambda *_: pytest.fail("it has begun"))
    assert main("--out", str(tmp_path / "new")) == 2
    said = capsys.readouterr().err
    assert said == (
        "bench.experiments: no matplotlib, which draws the pictures: make .venv/bench\n"
    )
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_not_of_the_figure_stops_it_before_anything_is_measured(
    main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(command, "check", lambda: None)
    monkeypatch.setattr(command, "measured", lambda *_: pytest.fail("it has begun"))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "parts.csv").write_text("a,b\n")
    assert main("--only", "1", "--out", str(tmp_path)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "parts.csv: its columns are a,b" in said


def test_what_fails_is_said_last_and_the_page_is_there(
    main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(command, "check", lambda: None)
    monkeypatch.setattr(command, "measured", lambda *_: [])
    assert main("--out", str(tmp_path)) == 0
    monkeypatch.setattr(command, "measured", lambda *_: ["one, a: not a 200"])
    assert main("--out", str(tmp_path)) == 1
    assert capsys.readouterr().out.endswith("experiments.md\n- one, a: not a 200\n")
    assert (tmp_path / "experiments.md").exists()


def test_an_interrupted_run_says_that_it_can_go_on(
    main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "check", lambda: None)
    monkeypatch.setattr(command, "measured", interrupted)
    assert main("--out", str(tmp_path)) == 130
    assert capsys.readouterr().err == (
        "bench.experiments: interrupted; the next run goes on from here\n"
    )


def test_the_page_is_written_with_what_there_is(tmp_path: Path) -> None:
    stores = command.opened(tmp_path)
    stores[1].append(row(0, AMPED, "1024", 5, BEFORE))
    command.write(tmp_path, stores, NOW)
    assert {path.name for path in (tmp_path / "experiments").iterdir()} == {
        "one-file.csv",
        "one-file.svg",
    }
    assert "commit def, 1 measurements" in (tmp_path / "experiments.md").read_text()


@needs("git")
def test_the_commit_is_the_last_one_that_changed_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else rows would be measured anew after a change of a document."""
    monkeypatch.setattr(machine, "REPOSITORY", tmp_path)
    assert machine.commit() == trio_amped.__version__, "no clone, but an archive"
    git = ("git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.example")
    run_tool(*git, "init", "--quiet")
    commits = []
    for file in ("trio_amped/server.py", "docs/page.md"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("one")
        run_tool(*git, "add", "--all")
        run_tool(*git, "commit", "--quiet", "--message", file)
        commits.append(run_tool(*git, "rev-parse", "HEAD")[:12])
    assert machine.commit() == commits[0] != commits[1]
    (tmp_path / "docs/page.md").write_text("two")
    assert machine.commit() == commits[0]
    (tmp_path / "trio_amped/server.py").write_text("two")
    assert machine.commit() == f"{commits[0]}+"


@pytest.mark.parametrize("figure", command.FIGURES.values(), ids=lambda figure: figure.name)
def test_a_figure_is_whole(figure: Figure) -> None:
    assert set(figure.short) <= figure.points.keys()
    names = [series.name for series in figure.series]
    assert len(set(names)) == len(names)
    assert figure.base in ("", *names)
    assert {x for points in figure.panels.values() for x in points} == set(figure.points)
    assert list(figure.sentences(Data([]))) == []
    for x in figure.points:
        for name in names:
            figure.missing(name, x)  # of each it is known what it needs


# ----------------------------------------------------------------------------- real measurements

WITHOUT_TAGS = ours(AMPED, "", "--etag", "none")  # else they are weak while the files are young


def public(root: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    files = {path: content(path, size) for path, size in sizes.items()}
    for path, body in files.items():
        (root / path.removeprefix("/")).write_bytes(body)
    return files


@needs(*cgroups.NEEDS, "taskset")
def test_a_server_is_in_a_cgroup_with_its_memory(tmp_path: Path) -> None:
    cpu, most = min(os.sched_getaffinity(0)), 64 * MIB
    with cgroups.running(WITHOUT_TAGS, tmp_path, [cpu], most) as (server, cache):
        for pid in processes.members(server.session):
            assert f"/{cache.directory.name}\n" in Path(f"/proc/{pid}/cgroup").read_text()
            assert os.sched_getaffinity(pid) == {cpu}
        names = ("memory.limit_in_bytes", "memory.max")
        (limit,) = (path for name in names if (path := cache.directory / name).exists())
        assert most <= int(limit.read_text()) < 2 * most


def test_no_figure_starts_a_server_without_a_cgroup() -> None:
    modules = list((REPOSITORY / "bench" / "experiments").glob("*.py"))
    assert len(modules) > 10
    for module in modules:
        assert not re.search(r"peers import .*\brunning\b|peers\.running", module.read_text())


@needs(*cgroups.NEEDS, "wrk", "taskset")
@pytest.mark.parametrize("size", [1024, 65536])
def test_a_point_of_figure_1(tmp_path: Path, size: int) -> None:
    """Both loads: wrk, and for large files the one that lets the kernel drop the bodies."""
    cpu = min(os.sched_getaffinity(0))
    files = public(tmp_path, {one_file.path_of(size): size})
    found = one_file.measured(WITHOUT_TAGS, tmp_path, files, size, Cores([cpu], [cpu]), 1)
    assert found["requests"] > 0
    assert found["bytes"] == found["requests"] * size
    assert found["cpu"] > 0


@needs(*PAPER_NEEDS, "taskset")
@pytest.mark.parametrize("disk", memory.DISKS.values(), ids=memory.DISKS)
def test_a_point_of_figure_2(monkeypatch: pytest.MonkeyPatch, disk: paper.Disk) -> None:
    """More files than memory: some come from the disk, and no more is kept than there is room."""
    monkeypatch.setattr(paper, "MEMORY", 32)
    cpus = [min(os.sched_getaffinity(0))]
    with public_directory() as scratch:
        data = paper.DataSet.write(scratch, 64)
        measured = paper.measure(data, disk, (1, 1), cpus, cpus, SHAPES[AMPED])
    found = memory.figures(measured)
    assert found.keys() == {column.name for column in memory.FIGURE.columns}
    assert found["requests"] > 0
    assert found["reads"] > 0
    assert 0 < found["hits"] < 1
    assert 0 < found["cached"] <= 32 << 20
    assert found["p50"] <= found["p99"]


@needs(*cgroups.NEEDS, "wrk", "taskset")
def test_a_point_of_figure_3(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    files = public(tmp_path, {"/1k": 1024, connections.PATH: 1 << 20})
    (tmp_path / FILE).write_bytes(bytes(1024))
    cores = Cores([cpu], [cpu])
    found = connections.measured(WITHOUT_TAGS, tmp_path, files, 20, cores, 1)
    assert found["requests"] > 0
    assert found["p50"] <= found["p99"]
    assert 0 < found["slow"] <= 2 * crowd.SIP
    assert "memory" not in found, "of so few it is that of the server"


@pytest.mark.parametrize("gate", one_file.RESIDENCY.values())
def test_the_test_of_residency_is_timed(tmp_path: Path, gate: Gate) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    assert residency.microseconds(path, gate) > 0


def test_a_file_that_is_not_in_memory_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    monkeypatch.setattr(PageGate, "resident", lambda *_: 4095)
    with pytest.raises(RuntimeError, match="mincore says that a file in memory is not there"):
        residency.microseconds(path, Gate.MINCORE)


def test_a_slow_client_takes_little_and_notes_an_end() -> None:
    server, client = socket.socketpair()
    with server, client:
        client.setblocking(False)
        server.sendall(bytes(crowd.SIP + 10))
        assert [crowd.sip([client]) for _ in range(3)] == [crowd.SIP, 10, 0]
        crowd.check_idle([client])
        server.close()
        with pytest.raises(Wrong, match="ended before its download did"):
            crowd.sip([client])
        with pytest.raises(Wrong, match="idle connections do not last"):
            crowd.check_idle([client])


@pytest.mark.parametrize("step", [1, 100_000])
def test_a_stream_compares_what_comes(step: int) -> None:
    """However the head is cut up."""
    server, client = socket.socketpair()
    with server, client:
        stream = streamers.Stream(client, 1000, 3000)
        assert b"Range: bytes=1000-2999\r\n" in server.recv(1000)
        answer = b"HTTP/1.1 206 P\r\nContent-Length: 2000\r\n\r\n" + streamers.BLOCK[1000:2990]
        for offset in range(0, len(answer), step):
            server.sendall(answer[offset : offset + step])
            stream.take()
        assert stream.taken == 1990
        server.sendall(b"!!")
        with pytest.raises(Wrong, match="not the content of the file from byte 2990 on"):
            stream.take()
        server.sendall(streamers.BLOCK[2990:3001])
        with pytest.raises(Wrong, match="not the content of the file from byte 2990 on"):
            stream.take()
        server.close()
        with pytest.raises(Wrong, match="ended before its answer did"):
            stream.take()


def test_an_answer_of_another_length_is_wrong() -> None:
    server, client = socket.socketpair()
    with server, client:
        stream = streamers.Stream(client, 0, 6)
        server.sendall(b"HTTP/1.1 206 P\r\nContent-Length: 5\r\n\r\n")
        with pytest.raises(Wrong, match="not the length of the range"):
            stream.take()


@needs(*streams.NEEDED, "taskset")
@pytest.mark.long
def test_a_point_of_figure_6(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    image = streams.write(tmp_path)
    found = streams.measured(image, SHAPES[AMPED], 10, 128, Cores([cpu], [cpu]), 2, 1)
    assert 0.5 * streams.SPEED < found["bytes"] < 1.5 * streams.SPEED
    assert 0.5 < found["read"] < 1.5
    assert found["p50"] <= found["p99"]
    assert 0 <= found["least"] <= 1


def test_every_server_has_room_for_the_crowd() -> None:
    for peer in SHAPES.values():
        roomy = connections.roomy(peer)
        words = " ".join(roomy.command)
        if peer.kind == "ours":
            assert words.endswith("--max-connections 12000 --max-open-files 1000")
        elif peer.kind == "nginx":
            assert roomy.connections == connections.ROOM > max(map(int, connections.POINTS))
