"""The benches of others: what a hot client waits beside them, and what they hold if they stall."""

from pathlib import Path

import pytest

from bench import beside, floods, stalled
from bench.hot.measure import Hot
from bench.hot.peers import OURS, PEERS
from bench.servers import Pair
from tests.rig import missing, public_directory


@pytest.mark.parametrize(("p99", "is_kept"), [(5.0, True), (5.1, False)])
def test_the_median_of_the_rounds_is_judged(p99: float, is_kept: bool) -> None:
    quiet, late = Hot(0.5, 1.0, 2.0), Hot(1.0, 100.0, 200.0)
    rounds = [[quiet, Hot(1.0, p99, 9.0)], [quiet, late], [quiet, Hot(1.0, 2.0, 3.0)]]
    assert beside.line("row", "lane", rounds) == (
        f"| row | lane | 0.50 | 1.00 | 2.00 | 1.00 | {p99:.2f} | 9.00 |",
        is_kept,
    )


def test_rows_have_ways_and_floods_that_there_are() -> None:
    server = beside.Server(80, has_tls=True)
    for row in beside.ROWS.values():
        assert set(row.ways) <= set(beside.WAYS)
        if row.command:
            _, *words = row.command(server)
            is_flood = words[:2] == ["-m", "bench.floods"]
            assert words[2] in floods.KINDS if is_flood else server.url("/")[:8] in words[-1]


ROWS = (
    ("400 HEADs", "tls"),
    ("50 uploads of 1 MiB", "lane"),
    ("handshakes, ECDSA", "tls"),
    ("KeyUpdates", "tls-tasks"),
    ("a log on a disk that hangs", "lane"),
)


@pytest.mark.parametrize(("name", "way"), ROWS)
def test_all_answers_are_right_meanwhile(name: str, way: str, tmp_path: Path) -> None:
    """And the others are there until the end."""
    if beside.ROWS[name].log and (reason := missing("fuse")):
        pytest.skip(reason)
    with public_directory() as root:
        beside.make_files(root)
        pair = Pair.write(tmp_path)
        found = beside.measure(root, {"ecdsa": pair}, name, way, seconds=0.3)
    assert all(0 < each.p50 <= each.p99 <= each.most for each in found)


def test_a_client_that_stalls_holds_no_windows_of_a_file(tmp_path: Path) -> None:
    """Of so few the memory is not exact; copies of a window would be half a MiB for each."""
    with public_directory() as root:
        (root / "large").write_bytes(bytes(4 << 20))
        found = stalled.stalled(PEERS[OURS], root, Pair.write(tmp_path), 30)
    assert found.pss < 1 << 18
