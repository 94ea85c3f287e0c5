"""Where a campaign keeps what it finds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Places:
    corpus: Path  # examples that matter, committed: they are read only
    crashes: Path  # a directory for each failure, not committed
    reports: Path  # the last campaign: its summary, its chart, the logs of its workers

    @classmethod
    def of_the_project(cls) -> "Places":
        return cls(ROOT / "fuzz/corpus", ROOT / "fuzz/crashes", ROOT / "build/fuzz")

    @classmethod
    def below(cls, directory: Path) -> "Places":
        directory = directory.absolute()
        return cls(directory / "corpus", directory / "crashes", directory / "build")

    @property
    def new(self) -> Path:
        """Examples that are to be in the corpus, too; the next campaign begins with all of them."""
        return self.reports / "corpus"

    def atheris_seeds(self, target: str) -> tuple[Path, Path]:
        """The committed ones, and the new ones."""
        return self.corpus / "atheris" / target, self.new / "atheris" / target

    def atheris_corpus(self, target: str) -> Path:
        """All that libFuzzer keeps: too much to commit."""
        return self.reports / "atheris" / target


def shown(path: Path) -> str:
    """Short, if it is in this tree."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
