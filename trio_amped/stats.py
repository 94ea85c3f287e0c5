"""The counters that a program can read. Pure."""

import dataclasses
from collections import Counter
from collections.abc import Mapping


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

    def add(self, values: Mapping[str, int | Mapping[str, int]]) -> None:
        """Add the counters of another server, as its `as_dict` said them."""
        for name, value in values.items():
            if isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
            elif name == "responses":
                self.responses.update({int(status): count for status, count in value.items()})
            else:
                getattr(self, name).update(value)
