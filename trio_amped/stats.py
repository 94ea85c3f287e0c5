"""The counters that a program can read. Pure."""

import dataclasses
from collections import Counter
from typing import Self


@dataclasses.dataclass(slots=True)
class Stats:
    """Counts since the server started; the ones marked "now" go up and down.

    A window is the part of a file that is sent between two questions to the page gate.
    """

    connections: int = 0  #: accepted
    connections_open: int = 0  #: now
    connections_refused: int = 0  #: beyond `Config.max_connections_per_address`; not in the others
    requests: int = 0
    by_lane: int = 0  #: requests that the fast lane has answered, at least in part
    responses: Counter[int] = dataclasses.field(default_factory=Counter)  #: by status
    bytes_sent: int = 0
    opened_cached: int = 0  #: files opened on the event loop
    opened_by_helper: int = 0
    files_open: int = 0  #: now
    resident: int = 0  #: windows that were in memory when they were asked for
    misses: int = 0  #: windows that were not, or that nobody could vouch for
    jobs: int = 0  #: orders to helpers
    coalesced: int = 0  #: misses that joined a job already under way
    listings: int = 0  #: directories that were rendered
    gates: Counter[str] = dataclasses.field(default_factory=Counter)  #: files, by page gate
    helpers: int = 0  #: now, those that are being replaced included
    helpers_busy: int = 0  #: now

    def as_dict(self) -> dict[str, int | dict[str, int]]:
        """All of it, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: {str(key): count for key, count in value.items()}
            if isinstance(value, Counter)
            else value
            for name, value in values.items()
        }

    @classmethod
    def of_dict(cls, values: object) -> Self:
        """Return what `as_dict` has said. Raises ValueError where that makes no sense."""
        stats = cls()
        for name, value in _counts(values).items():
            ours = getattr(stats, name, None)
            if isinstance(ours, Counter):
                counts = {_key(name, key): _count(each) for key, each in _counts(value).items()}
                ours.update(counts)
            elif isinstance(ours, int):
                setattr(stats, name, _count(value))
            else:
                raise ValueError(f"no counter is called {name!r}")
        return stats

    def add(self, other: "Stats") -> None:
        """Add the counters of another server."""
        for field in dataclasses.fields(self):
            ours, more = getattr(self, field.name), getattr(other, field.name)
            if isinstance(ours, Counter):
                ours.update(more)
            else:
                setattr(self, field.name, ours + more)


def _counts(values: object) -> dict[str, object]:
    if isinstance(values, dict):
        return values
    raise ValueError(f"no counters: {values!r}")


def _count(value: object) -> int:
    if isinstance(value, int) and value >= 0:
        return value
    raise ValueError(f"no number of anything: {value!r}")


def _key(name: str, key: str) -> int | str:
    return int(key) if name == "responses" else key
