"""The examples that matter: the first to reach a branch. Some are committed, so all are small.

A campaign leaves the committed ones as they are: what is new is kept beside its reports.
"""

import base64
import hashlib
from typing import Final

from hypothesis.database import (
    DirectoryBasedExampleDatabase,
    ExampleDatabase,
    MultiplexedDatabase,
    ReadOnlyDatabase,
)

from fuzz.campaign.places import Places
from fuzz.campaign.watch import as_saved, key

_MOST: Final = 8  # examples of each target and engine
_LARGEST: Final = 4096  # bytes of an example


def database(places: Places) -> ExampleDatabase:
    """Hypothesis's: all examples are read, new ones are written."""
    committed, new = (
        DirectoryBasedExampleDatabase(corpus / "hypothesis")
        for corpus in (places.corpus, places.new)
    )
    return MultiplexedDatabase(ReadOnlyDatabase(committed), new)


class Corpus:
    """Hypothesis's choices in its own database, atheris's bytes in files."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._database = database(places)

    def keep(self, target: str, choices: str, data: str) -> bool:
        """Of the two there is one, or none. Returns whether it is new, and there was room."""
        if choices:
            return self._keep_choices(target, as_saved(choices))
        return bool(data) and self._keep_bytes(target, base64.b64decode(data))

    def _keep_choices(self, target: str, saved: bytes) -> bool:
        known = set(self._database.fetch(key(target)))
        if saved in known or len(known) >= _MOST or len(saved) > _LARGEST:
            return False
        self._database.save(key(target), saved)
        return True

    def _keep_bytes(self, target: str, data: bytes) -> bool:
        committed, new = self._places.atheris_seeds(target)
        name = hashlib.sha1(data, usedforsecurity=False).hexdigest()[:16]
        known = {path.name for seeds in (committed, new) for path in seeds.glob("*")}
        if name in known or len(known) >= _MOST or len(data) > _LARGEST:
            return False
        new.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(data)
        return True
