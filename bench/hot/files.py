"""The files that are served: their names, sizes and content, the same in every run. Pure."""

import random
from collections.abc import Iterator, Mapping

KIB, MIB = 1 << 10, 1 << 20

SIZES = {"/1k": KIB, "/64k": 64 * KIB, "/1m": MIB, "/16m": 16 * MIB, "/folder/index.html": KIB}
ZIPF_FILES = 2000
TOUCH_FILES = 50_000
FOLDER = 100  # files in a folder, where there are so many that they do not lie in one

# The classes of SPECweb99: the size of its least file, and the share of all files that it has.
# The nine sizes of a class are 1 to 9 times the least.
SPECWEB = {100: 0.35, 1_000: 0.50, 10_000: 0.14, 100_000: 0.01}


def zipf_sizes() -> dict[str, int]:
    """The files of `zipf`, the most popular one first: 0.5 to 64 KiB, small ones more often."""
    draw = random.Random(1)
    return {f"/z{number:04}": int(512 * 128 ** draw.random()) for number in range(ZIPF_FILES)}


def touch_sizes() -> dict[str, int]:
    """The files of `touch`: the long tail of a mirror, in folders."""
    return {f"/touch/{_numbered(number)}": KIB for number in range(TOUCH_FILES)}


def paper_sizes(megabytes: int) -> dict[str, int]:
    """A data set of the paper's experiment; how popular a file is says nothing of its size."""
    draw, sizes, left = random.Random(megabytes), dict[str, int](), megabytes * MIB
    while left > 0:
        (least,) = draw.choices(list(SPECWEB), list(SPECWEB.values()))
        size = least * draw.randint(1, 9)
        sizes[f"/{_numbered(len(sizes))}"] = size
        left -= size
    return sizes


def _numbered(number: int) -> str:
    return f"{number // FOLDER:03}/{number % FOLDER:02}"


def content(path: str, size: int) -> bytes:
    return random.Random(path).randbytes(size)


def contents(sizes: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    for path, size in sizes.items():
        yield path, content(path, size)
