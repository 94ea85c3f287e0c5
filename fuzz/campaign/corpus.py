"""The examples that matter: the first to reach a branch. They are committed, so kept small."""

import base64
import hashlib
from typing import Final

from hypothesis.database import DirectoryBasedExampleDatabase

from fuzz.campaign.places import Places
from fuzz.campaign.watch import as_saved, key

_MOST: Final = 8  # examples of each target and engine
_LARGEST: Final = 4096  # bytes of an example


class Corpus:
    """Hypothesis's choices in its own database, atheris's bytes in files."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._database = DirectoryBasedExampleDatabase(places.corpus / "hypothesis")

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
        directory = self._places.atheris_seeds(target)
        path = directory / hashlib.sha1(data, usedforsecurity=False).hexdigest()[:16]
        known = set(directory.glob("*"))
        if path in known or len(known) >= _MOST or len(data) > _LARGEST:
            return False
        directory.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return True
