"""The pure parts of `make inject`: which cases there are, how they are judged, what is kept."""

import errno
from pathlib import Path

import pytest

from bench.inject import __main__ as command
from bench.inject.calls import ERRORS, SURE, TIMES
from bench.inject.outcome import Case, Outcomes, Seen, is_harm, judge, table
from bench.inject.roles import ROLES
from bench.inject.trial import surplus

CASE = Case("worker", "mmap", "ENOMEM", 3)


def test_errors_have_names_and_no_call_is_in_two_lists() -> None:
    for call, errors in ERRORS.items():
        assert errors, call
        assert len(set(errors)) == len(errors), call
        assert all(hasattr(errno, error) for error in errors), call
    assert not SURE & set(ERRORS)


def test_a_case_is_for_calls_that_are_made_so_often(capsys: pytest.CaptureFixture[str]) -> None:
    cases = list(command._cases(ROLES[0], {"munmap": 7, "epoll_wait": 2, "futex": 9, "bpf": 1}))
    assert [case.when for case in cases if case.call == "munmap"] == [1, 2, 3, 7]
    assert {case.call for case in cases} == {"munmap", "epoll_wait"}
    assert len(cases) == 6
    assert capsys.readouterr().out == f"{ROLES[0].name}: no errors are known of bpf\n"


def test_cases_of_one_role_go_to_one_server() -> None:
    size = command._ON_ONE_SERVER
    cases = [Case(("worker", "supervisor")[n % 2], "mmap", "ENOMEM", n) for n in range(3 * size)]
    groups = list(command._together(cases))
    assert sorted(case for group in groups for case in group) == sorted(cases)
    assert all(len({case.role for case in group}) == 1 for group in groups)
    assert [len(group) for group in groups] == [size, size, size // 2, size // 2]


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (Seen(), "unharmed"),
        (Seen(was_reached=False), "not reached"),
        (Seen(failed=1), "one request failed"),
        (Seen(failed=5), "a few requests failed"),
        (Seen(failed=6, was_repeated=True), "requests failed while no helper could start"),
        (Seen(was_replaced=True), "process replaced"),
        (Seen(was_replaced=True, failed=2), "process replaced, a few requests failed"),
        (Seen(was_replaced=True, traceback="MemoryError"), "process replaced"),
        (Seen(ended=1, is_trios=True), "ended with trio"),
        (Seen(status=1, is_trios=True), "ended with trio"),
    ],
)
def test_what_may_be(seen: Seen, outcome: str) -> None:
    assert judge(seen) == outcome
    assert not is_harm(outcome)


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (Seen(ended=1, failed=9), "SERVER ENDED with status 1"),
        (Seen(ended=0), "SERVER ENDED with status 0"),
        (Seen(answers=False, failed=9), "DOES NOT ANSWER"),
        (Seen(wrong="GET a"), "WRONG ANSWER: GET a"),
        (Seen(supervises=False), "DOES NOT RESTART"),
        (Seen(status=None, left="2 threads"), "DOES NOT END"),
        (Seen(status=-9), "ENDS with status -9"),
        (Seen(left="2 threads"), "LEAK: 2 threads"),
        (Seen(traceback="KeyError"), "TRACEBACK: KeyError"),
        (Seen(hung=1, failed=1), "REQUESTS HUNG: 1"),
        (Seen(failed=6), "MANY REQUESTS FAILED: 6"),
    ],
)
def test_what_must_not_be(seen: Seen, outcome: str) -> None:
    assert judge(seen) == outcome
    assert is_harm(outcome)


def test_what_is_known_is_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "build" / "outcomes"
    other = CASE._replace(when=TIMES[0])
    outcomes = Outcomes(path)
    outcomes.add(CASE, "LEAK: 1 threads", ["a line"])
    outcomes.add(other, "unharmed", ["a line"])
    outcomes = Outcomes(path)
    assert outcomes.known == {CASE: "LEAK: 1 threads", other: "unharmed"}
    due = [command._is_due(outcomes, case, False) for case in (CASE, other, CASE._replace(when=20))]
    assert due == [False, False, True]
    assert command._is_due(outcomes, CASE, True)
    assert not command._is_due(outcomes, other, True)
    outcomes.add(CASE, "unharmed", [])
    assert Outcomes(path).known[CASE] == "unharmed"


def test_the_table_shows_first_what_must_not_be() -> None:
    known = {
        CASE: "LEAK: 1 threads",
        CASE._replace(when=7): "unharmed",
        CASE._replace(when=20): "unharmed",
        CASE._replace(error="EAGAIN"): "LEAK: 2 threads",
        CASE._replace(role="supervisor", call="read"): "not reached",
    }
    assert list(table(known)) == [
        "## Worker",
        "",
        "| call | errors | outcomes |",
        "|---|---|---|",
        "| `mmap` | ENOMEM, EAGAIN | **LEAK** 2, unharmed 2 |",
        "",
        "## Supervisor",
        "",
        "| call | errors | outcomes |",
        "|---|---|---|",
        "| `read` | ENOMEM | not reached 1 |",
        "",
    ]


def test_what_is_kept_open_for_answers_is_no_surplus() -> None:
    root = Path("/root")
    kept = ["/root", "/root/a", "/root/b", "/memfd:listing (deleted)"]
    assert surplus([*kept, "socket:[1]"], root) == 1
    assert surplus([*kept, "/root/a", "/root/c (deleted)", "/dev/null"], root) == 3
