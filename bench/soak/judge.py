"""Whether a failure was to be expected: each fault says whom it may hit, and for how long. Pure."""

import contextlib
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MARGIN = 1.0  # seconds after a fault in which the server may still feel it


class Wrong(Exception):
    """The server did what it must not do, whatever fault there is."""


class Failed(Exception):
    """No whole answer, which a fault may excuse: 500, 503, or the connection ended, or nothing."""


@dataclass(frozen=True)
class Reach:
    """The requests that a fault may have failing: by what they ask for, or by their connection.

    names: the first parts of the names ("" is every one), but for those of `spares`; ports: the
    clients' ones; kept: connections that give way may end before a byte of an answer; spoils: the
    content may be wrong as well; margin: seconds after the fault.
    """

    names: tuple[str, ...] = ()
    spares: tuple[str, ...] = ()
    ports: frozenset[int] = frozenset()
    kept: bool = False
    spoils: bool = False
    margin: float = MARGIN


@dataclass
class Fault:
    """A fault that is there, or has been; in seconds of trio's clock."""

    name: str
    reach: Reach
    begun: float
    ended: float = math.inf

    def may_hit(self, trouble: "Trouble") -> bool:
        """Return whether this fault excuses a failure."""
        until, reach = self.ended + self.reach.margin, self.reach
        if trouble.since > until or trouble.until < self.begun:
            return False
        if trouble.is_wrong and not reach.spoils:
            return False
        if reach.kept and trouble.is_kept:
            return True
        if trouble.port in reach.ports and trouble.opened <= self.begun:
            return True
        return any(
            name.startswith(reach.names) and not name.startswith(reach.spares)
            for name in trouble.names
        )


class Trouble(NamedTuple):
    """A failure of a connection: the names of all that was asked for there and not yet answered.

    since: the first of these requests, until: now, opened: the connection, by trio's clock.
    """

    names: tuple[str, ...]
    since: float
    until: float
    opened: float
    port: int
    is_kept: bool = False  # it gave way: after an answer, or a slow handshake, it just ended
    is_wrong: bool = False


class Judge:
    """All faults so far, the failures that they excuse, and those that nothing excuses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.problems: list[str] = []
        self.excused: Counter[str] = Counter()  # failures, by fault
        self.met: Counter[str] = Counter()  # how often each fault came
        self.story: list[str] = []  # what happened, with the time of day
        self._faults: list[Fault] = []
        self.now = clock

    @contextlib.contextmanager
    def fault(self, name: str, reach: Reach) -> Iterator[None]:
        """Inside there is a fault with this reach."""
        fault = Fault(name, reach, self.now())
        self._faults.append(fault)
        self.met[name] += 1
        self._tell(f"{name} begins")
        try:
            yield
        finally:
            fault.ended = self.now()
            self._tell(f"{name} ends")

    def excuse(self, trouble: Trouble) -> Fault | None:
        """Return the fault that may be the reason of a failure; one that hits less, rather."""
        found = [each for each in self._faults if each.may_hit(trouble)]
        return min(found, key=lambda each: "" in each.reach.names, default=None)

    def failed(self, trouble: Trouble, reason: str) -> None:
        """Note a failure: it is excused, or a problem."""
        if fault := self.excuse(trouble):
            self.excused[fault.name] += 1
            self._tell(f"{fault.name} may have hit {trouble}: {reason!r}")
        else:
            self._tell(f"nothing may have hit {trouble}")
            self.wrong(f"{reason}; asked for: {', '.join(trouble.names)}")

    def _tell(self, event: str) -> None:
        self.story.append(f"{time.strftime('%H:%M:%S')} {event}")

    def wrong(self, reason: str) -> None:
        """Note a problem."""
        self.problems.append(reason)
        self._tell(f"WRONG: {reason}")
        print(self.story[-1], flush=True)


def bad_lines(log: Sequence[str], expected: Sequence[str]) -> Iterator[str]:
    """Return what a server should not have said: bugs, and warnings that no fault explains.

    `expected`: regular expressions. A traceback belongs to the line before it.
    """
    is_bad = False
    for line in log:
        if re.fullmatch(r"\d+ has \d+ tasks", line):  # they were asked
            continue
        if not re.match(r"\d{4}-\d\d-\d\d ", line):
            if is_bad or not re.match(r"Traceback|\s|\w+(\.\w+)*(: |$)|$", line):
                yield line
            continue
        is_loud = re.search(r" (WARNING|ERROR|CRITICAL) +(?!as root)", line)
        is_expected = any(re.search(each, line) for each in expected)
        if is_bad := bool("a bug" in line or (is_loud and not is_expected)):
            yield line
