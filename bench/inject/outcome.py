"""What a failed system call did to a server, in words; kept in a file of JSON lines. Pure, but for
that file."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

FEW: Final = 5  # failed requests that one failed call may cost


class Case(NamedTuple):
    """The `when`-th `call` of a role fails with an `error`."""

    role: str
    call: str
    error: str
    when: int


class Seen(NamedTuple):
    """What was seen of a server, from the failed call to its end."""

    was_reached: bool = True
    ended: int | None = None  # its exit status, before it was asked to end
    is_trios: bool = False  # the call was that of the socket by which trio wakes its loop
    answers: bool = True  # everything again, after a while
    failed: int = 0  # requests
    hung: int = 0  # of them: without any answer
    wrong: str = ""  # an answer that says it is right, and is not
    left: str = ""  # descriptors, threads and so on that it did not have before
    was_replaced: bool = False  # the process whose call has failed
    supervises: bool = True  # a supervisor starts new workers
    traceback: str = ""  # the last line of one
    was_repeated: bool = False  # each process that started meanwhile had a failed call
    status: int | None = 0  # at its end, after SIGTERM; None: it did not end


def judge(seen: Seen) -> str:
    """Say what came of it, the worst first. What must not be is in capitals."""
    if seen.is_trios and (seen.ended is not None or seen.status):
        return "ended with trio"
    if seen.ended is not None:
        return f"SERVER ENDED with status {seen.ended}"
    if not seen.answers:
        return "DOES NOT ANSWER"
    if seen.wrong:
        return f"WRONG ANSWER: {seen.wrong}"
    if not seen.supervises:
        return "DOES NOT RESTART"
    if seen.status is None:
        return "DOES NOT END"
    if seen.status:
        return f"ENDS with status {seen.status}"
    if seen.left:
        return f"LEAK: {seen.left}"
    if seen.traceback and not seen.was_replaced:  # what died of it may say why
        return f"TRACEBACK: {seen.traceback}"
    if seen.hung:
        return f"REQUESTS HUNG: {seen.hung}"
    if seen.failed > FEW and not seen.was_repeated:
        return f"MANY REQUESTS FAILED: {seen.failed}"
    return _harmless(seen)


def _harmless(seen: Seen) -> str:
    if not seen.was_reached:
        return "not reached"
    said = ["process replaced"] if seen.was_replaced else []
    if seen.failed > FEW:
        said.append("requests failed while no helper could start")
    elif seen.failed:
        said.append("one request failed" if seen.failed == 1 else "a few requests failed")
    return ", ".join(said) or "unharmed"


def is_harm(outcome: str) -> bool:
    """Return whether an outcome must not be."""
    return outcome[:2].isupper()


class Outcomes:
    """The outcomes of cases, in a file: a run goes on where another one ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: dict[Case, str] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self.known[Case(*entry["case"])] = entry["outcome"]  # the last one counts

    def add(self, case: Case, outcome: str, details: list[str]) -> None:
        """Note an outcome, and what the log said if it must not be."""
        self.known[case] = outcome
        entry = {"case": case, "outcome": outcome}
        if is_harm(outcome):
            entry |= {"details": details}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def table(known: dict[Case, str]) -> Iterator[str]:
    """Lines of Markdown: for each role a table of its calls, the errors, and what came of them."""
    for role in _in_order(case.role for case in known):
        yield from (f"## {role[0].upper()}{role[1:]}", "")
        yield from ("| call | errors | outcomes |", "|---|---|---|")
        for call in _in_order(case.call for case in known if case.role == role):
            cases = [case for case in known if (case.role, case.call) == (role, call)]
            errors = ", ".join(_in_order(case.error for case in cases))
            yield f"| `{call}` | {errors} | {_counted(known[case] for case in cases)} |"
        yield ""


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _counted(outcomes: Iterable[str]) -> str:
    """Outcomes and how often each was seen; those that must not be are bold, and first."""
    found = sorted(outcomes, key=is_harm, reverse=True)
    counts = Counter(outcome.partition(":")[0] for outcome in found)
    return ", ".join(
        f"**{outcome}** {count}" if is_harm(outcome) else f"{outcome} {count}"
        for outcome, count in counts.items()
    )
