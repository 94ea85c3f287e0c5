"""Many requests at once: those whose answers are at hand go first, the others have other turns.

A thousand clients that ask for one file together would otherwise stand before each client that asks
for another one. Never waits.
"""

from collections import deque
from typing import Final

from ..disk.misses import Arrivals
from ..semantics.recogniser import Match
from .parked import Parked
from .replies import Reply

MANY: Final = 64  # requests at once, of which not all go first
_ALIKE: Final = 8  # so many of a crowd do that ask for the same
_HELD: Final = 64  # files and answers of the disk that are held for those who do not go first


class Crowd:
    """The requests of one turn, if there are `MANY`; and those that were put off, in batches.

    `came`: what the disk has brought for a batch and nothing can keep. It came after all requests
    of the batch, so it is good for each of them.
    """

    def __init__(self) -> None:
        self.is_here = False  # now
        self.came = Arrivals()
        self._asked: dict[Reply, int] = {}  # how often
        self._to_make: set[bytes] = set()  # heads whose answers are not at hand
        self._later: deque[Parked] = deque()
        self._batch: deque[Parked] = deque()  # of them, those who have their turn now

    def gather(self) -> None:
        """Many requests are here."""
        self.is_here = True
        self._asked.clear()
        self._to_make.clear()

    def disperse(self) -> None:
        """All of them have been looked at."""
        self.is_here = False

    def has_missed(self, head: bytes) -> bool:
        """Return whether an answer to the same was looked for, and is not at hand."""
        return head in self._to_make

    def goes_first(self, match: Match, reply: Reply | None) -> bool:
        """Return whether an answer is at hand, and is not what all others ask for."""
        if reply is None:
            self._to_make.add(match[0])
            return False
        self._asked[reply] = count = self._asked.get(reply, 0) + 1
        return count <= _ALIKE

    def put_off(self, parked: Parked) -> None:
        """Have a request answered later."""
        self._later.append(parked)

    @property
    def has_more(self) -> bool:
        """Whether requests were put off that have no answer yet."""
        return bool(self._later or self._batch)

    def next_batch(self) -> deque[Parked]:
        """Return those whose turn it is; who has had it is taken out."""
        if not self._batch:
            self._batch, self._later = self._later, self._batch
        if self.came.count > _HELD:
            self.came.clear()
        return self._batch

    def end_batch(self) -> None:
        """Let go of what is held, unless others of the batch need it."""
        if not self._batch:
            self.came.clear()
