"""The counters, as a program reads them."""

import json

import pytest

import trio_amped
from trio_amped.stats import Stats


def test_they_start_at_nothing() -> None:
    assert all(not value for value in Stats().as_dict().values())
    assert trio_amped.Stats is Stats


def test_they_are_ready_for_json() -> None:
    stats = Stats()
    stats.requests = 3
    stats.responses[200] += 2
    stats.responses[404] += 1
    stats.gates["mincore"] += 2
    values = stats.as_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["requests"] == 3
    assert values["responses"] == {"200": 2, "404": 1}
    assert values["gates"] == {"mincore": 2}
    assert values["files_open"] == 0


def test_a_dict_of_them_does_not_change_any_more() -> None:
    stats = Stats()
    before = stats.as_dict()
    stats.requests += 1
    stats.responses[200] += 1
    assert before["requests"] == 0
    assert before["responses"] == {}


def test_two_servers_do_not_share_them() -> None:
    one, other = Stats(), Stats()
    one.responses[200] += 1
    one.gates["mincore"] += 1
    assert (other.responses, other.gates) == ({}, {})


def test_the_counters_of_several_servers_are_added_up() -> None:
    one, other = Stats(requests=3), Stats(requests=4, misses=1)
    one.responses.update({200: 2, 404: 1})
    other.responses.update({200: 4})
    other.gates["mincore"] += 1
    one.add(Stats.of_dict(json.loads(json.dumps(other.as_dict()))))
    assert (one.requests, one.misses) == (7, 1)
    assert one.responses == {200: 6, 404: 1}
    assert one.gates == {"mincore": 1}


@pytest.mark.parametrize(
    "nonsense",
    [
        *(None, 3, [], {"requests": "3"}, {"requests": -1}, {"requests": None}, {"as_dict": 1}),
        *({"responses": 200}, {"responses": {"x": 1}}, {"gates": {"mincore": "1"}}, {"x": 1}),
    ],
)
def test_what_no_server_says(nonsense: object) -> None:
    with pytest.raises(ValueError, match=r"no |invalid"):
        Stats.of_dict(nonsense)
