"""Stands in for atheris, which not every Python has: the same calls, with bytes at random."""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

_setup: list[tuple[Path, Callable[[bytes], None]]] = []


@contextlib.contextmanager
def instrument_imports(include: Sequence[str]) -> Iterator[None]:
    assert list(include) == ["trio_amped"]
    yield


def Setup(arguments: Sequence[str], callback: Callable[[bytes], None]) -> None:
    _, corpus, *options = arguments
    assert any(option.startswith("-seed=") for option in options)
    _setup.append((Path(corpus), callback))


def Fuzz() -> NoReturn:
    """As libFuzzer: what is interesting is kept as a file, and nobody comes back from here."""
    [(corpus, callback)] = _setup
    source = random.Random(1)
    for number in range(10):
        (corpus / str(number)).write_bytes(source.randbytes(50))
    while True:
        callback(source.randbytes(source.randrange(100)))
