"""The target `dear` sees what it is there to see: a head that costs more than it may."""

import pytest
from hypothesis import HealthCheck, Phase, settings

from fuzz.properties import dear
from trio_amped.semantics import lists, ranges

WAYS = ["lane", "plain"]
LARGE = b"GET /large.bin HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n"


def of_ranges(count: int) -> bytes:
    return LARGE % (b"Range: bytes=" + b",".join(b"%d-%d" % (9 * n, 9 * n) for n in range(count)))


@pytest.mark.parametrize("way", WAYS)
def test_steps_are_the_same_each_time(way: str) -> None:
    assert dear.cost(way, of_ranges(3)) == dear.cost(way, of_ranges(3))


@pytest.mark.parametrize("way", WAYS)
def test_ranges_without_a_bound(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside many fields, which h11 takes most of its steps for."""
    many = of_ranges(120)[:-2] + b"X: y\r\n" * 80 + b"\r\n"
    assert dear.times_the_least(way, many) <= dear.MOST_TIMES
    monkeypatch.setattr(ranges, "MOST_RANGES", 1000)
    assert dear.times_the_least(way, many) > dear.MOST_TIMES


@pytest.mark.parametrize("way", WAYS)
def test_empty_lines_before_a_head(way: str) -> None:
    head = b"\r\n" * 8000 + b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n"
    assert dear.times_the_least(way, head) <= 2


def test_it_is_found_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_MOST", 1 << 20)
    monkeypatch.setattr(ranges, "MOST_RANGES", 1 << 20)
    (found,) = dear.TARGETS
    search = settings(
        max_examples=2000,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.target),  # the smallest example would take minutes
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError, match="of the least"):
        search(found.as_test())()
