"""Defects to be planted, one small patch each, and the attack that should find them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from fuzz.target import Target
from fuzz.targets import ALL

FOLDER: Final = Path(__file__).parent
_FIELDS: Final = ("Defect", "Origin", "Property", "Targets")


@dataclass(frozen=True)
class Mutant:
    """A patch, and what its header says: `Defect`, `Origin`, `Property`, `Targets`."""

    name: str
    defect: str
    origin: str
    promise: str  # the property that it breaks
    targets: tuple[str, ...]  # the likeliest to kill it first

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ValueError where the header is not complete."""
        header, _, _ = path.read_text().partition("\n--- ")
        fields: dict[str, str] = {}
        for line in header.replace("\n    ", " ").splitlines():
            name, colon, value = line.partition(": ")
            if colon:
                fields[name] = value.strip()
        if tuple(fields) != _FIELDS:
            raise ValueError(f"{path.name}: its header must have {', '.join(_FIELDS)}")
        defect, origin, promise, targets = fields.values()
        if unknown := set(targets.split()) - set(ALL):
            raise ValueError(f"{path.name}: there is no target {', '.join(sorted(unknown))}")
        return cls(path.stem, defect, origin, promise, tuple(targets.split()))

    @property
    def patch(self) -> Path:
        return FOLDER / f"{self.name}.patch"

    def likely_targets(self) -> list[Target]:
        return [ALL[name] for name in self.targets]


def read_all() -> dict[str, Mutant]:
    """All mutants by name."""
    found = (Mutant.read(path) for path in sorted(FOLDER.glob("*.patch")))
    return {mutant.name: mutant for mutant in found}
