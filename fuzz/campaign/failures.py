"""A failure: what it is known by, and the directory that has all that is known of it."""

import base64
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import linecache
import platform
import re
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from fuzz.campaign.places import ROOT

_MACHINERY: Final = ROOT / "fuzz/campaign"  # in every traceback, and never to blame
_LOGGED: Final = re.compile(r'^ +File "(.+)", line (\d+), in (\S+)$', re.MULTILINE)
_STATUSES: Final = re.compile(r"(-[0-9]{3})+$")  # at the end of an id
_PACKAGES: Final = ("trio", "h11", "hypothesis", "httptools", "coverage", "atheris")


@dataclass(frozen=True)
class Failure:
    """One kind of failure of one target, with the smallest example of it."""

    id: str
    target: str
    engine: str
    seed: int
    error: str
    where: str
    traceback: str = field(repr=False)
    batch: int = 0  # examples with this seed: the other half of what decides a batch
    module: str = "fuzz.targets"  # where the target is
    example: str = ""  # as Python, for people and for an @example
    choices: str = ""  # the same as Hypothesis's blob: it decides all that is drawn
    size: int = 0  # how many choices these are
    first_example: str = field(default="", repr=False)  # before it was shrunk
    first_choices: str = field(default="", repr=False)
    raw: dict[str, str] = field(default_factory=dict, repr=False)  # what is bytes, as base64
    count: int = 1
    is_death: bool = False  # of the worker, or it hung: not to be run in this process

    def smaller(self, other: "Failure") -> "Failure":
        """The same failure, found twice."""
        best = min(self, other, key=lambda failure: failure.size or 1 << 30)
        return dataclasses.replace(best, count=self.count + other.count)


# ------------------------------------------------------------------ what a failure is known by


def identify(target: str, error: BaseException) -> tuple[str, str]:
    """An id that is the same for the same failure, and where in our code it was raised.

    Line numbers change with every edit above them: the text of the line is what is kept. Many
    defects end at the one line that compares answers: they are told apart by the statuses there.
    """
    error = leaf(error)
    raised = _raised_at(error)
    if raised is None:
        return make_id(target, type(error).__name__), "nowhere"
    file, line, function = raised
    place = f"{_short(file)} {function} {linecache.getline(file, line).strip()}"
    where = f"{_short(file)}:{line} in {function}"
    return "-".join([make_id(target, type(error).__name__, place), *_statuses(error)]), where


def kind_of(id: str) -> str:
    """What it has in common with others that were raised by the same line: no statuses."""
    return _STATUSES.sub("", id)


def make_id(target: str, *parts: str) -> str:
    return f"{target}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:8]}"


def leaf(error: BaseException) -> BaseException:
    """What trio's nurseries have wrapped in groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def described(error: BaseException) -> str:
    """One line, not too long."""
    error = leaf(error)
    text = str(error).partition("\n")[0]
    if not text and (raised := _raised_at(error)):
        text = linecache.getline(*raised[:2]).strip()
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def formatted(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _raised_at(error: BaseException) -> tuple[str, int, str] | None:
    """File, line and function: the last that are ours, or the last of all."""
    frames = [*_frames(error), *_logged(error)]
    ours = [frame for frame in frames if _is_ours(frame[0])]
    found = ours or frames
    return found[-1] if found else None


def _frames(error: BaseException) -> Iterator[tuple[str, int, str]]:
    for frame, line in traceback.walk_tb(error.__traceback__):
        yield frame.f_code.co_filename, line, frame.f_code.co_name


def _logged(error: BaseException) -> Iterator[tuple[str, int, str]]:
    """Those of a bug that the server has caught and logged: its traceback is the message."""
    for file, line, function in _LOGGED.findall(str(error)):
        yield file, int(line), function


def _statuses(error: BaseException) -> list[str]:
    """Of the answers that the nearest function of ours knows that knows any."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [frame for frame in frames if _is_ours(frame.f_code.co_filename)]
    return next(filter(None, map(_statuses_in, reversed(ours))), [])


def _statuses_in(frame: FrameType) -> list[str]:
    found = []
    for value in frame.f_locals.values():
        with contextlib.suppress(Exception):  # whatever a property of anybody's may raise
            status = getattr(value, "status", None)
            if isinstance(status, int) and 100 <= status <= 599:
                found.append(f"{status:d}")
    return found


def _is_ours(file: str) -> bool:
    path = Path(file)
    return (
        path.is_relative_to(ROOT)
        and not path.is_relative_to(_MACHINERY)
        and "site-packages" not in path.parts
    )


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


# ------------------------------------------------------------------ the directory of a failure


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "commit": _commit()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # atheris is optional
            found[name] = importlib.metadata.version(name)
    return found


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return run.stdout.strip() or "unknown"


def seed_options(failure: Failure) -> str:
    return f"--seed {failure.seed}" + (f" --batch {failure.batch}" if failure.batch else "")


def repro_command(failure: Failure) -> str:
    return f"python -m fuzz repro {failure.id}"


def write(crashes: Path, failure: Failure) -> Path:
    """`failure.json` has all of it; the other files are for people and for other programs."""
    directory = crashes / failure.id
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in failure.raw.items():
        (directory / f"{name}.bin").write_bytes(base64.b64decode(data))
    (directory / "traceback.txt").write_text(failure.traceback)
    if failure.example:
        (directory / "example.txt").write_text(failure.example + "\n")
        (directory / "first.txt").write_text(failure.first_example + "\n")
    kept = dataclasses.asdict(failure) | {"versions": versions(), "repro": repro_command(failure)}
    _replace(directory / "failure.json", json.dumps(kept, indent=1) + "\n")
    return directory


def joined(crashes: Path, failure: Failure) -> Failure:
    """With what an earlier campaign has found of it, if that was with these versions: the example
    of another one may mean something else by now."""
    with contextlib.suppress(LookupError):
        if _read(crashes, failure.id)["versions"] == versions():
            return read(crashes, failure.id).smaller(failure)
    return failure


def _read(crashes: Path, name: str) -> dict[str, Any]:
    try:
        kept = json.loads((crashes / name / "failure.json").read_text())
    except (OSError, ValueError) as error:
        raise LookupError(name) from error
    if not isinstance(kept, dict):
        raise LookupError(name)
    return kept


def read(crashes: Path, name: str) -> Failure:
    """Raises LookupError if there is none of that name."""
    kept = _read(crashes, name)
    names = {part.name for part in dataclasses.fields(Failure)}
    try:
        return Failure(**{name: value for name, value in kept.items() if name in names})
    except (TypeError, AttributeError) as error:
        raise LookupError(name) from error


def known(crashes: Path) -> list[str]:
    return sorted(path.parent.name for path in crashes.glob("*/failure.json"))


def _replace(path: Path, text: str) -> None:
    """All or nothing: a campaign may be killed while it writes."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
