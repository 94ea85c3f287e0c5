"""examples/tiles: an archive that other programs read, and a page that asks for parts of it."""

import re
import signal
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Iterator
from itertools import cycle, islice, repeat
from pathlib import Path
from typing import Any

import pytest
from pmtiles.reader import MmapSource, Reader

from tests.rig import GUARD
from tests.test_examples import EXAMPLES, running_example

from .browser import PHONE, Browser, needs_chromium

SIDE = 4096  # dots of the map
PAPER, TEAL = (244, 248, 247), (15, 118, 110)

DOTS = """
const [places] = arguments, {width, height} = document.querySelector("canvas"), size = 2 ** 3
const {data} = document.querySelector("canvas").getContext("2d").getImageData(0, 0, width, height)
return places.map(([x, y]) => {
    const across = Math.floor(width / 2 + (x - 0.5) * size)
    const down = Math.floor(height / 2 - (y - 0.5) * size), at = 4 * (down * width + across)
    return [...data.slice(at, at + 3)]
})
"""
"""`Browser.run` it with places on the spiral, 8 pixels each around the middle: their colors."""

POINT = """
const [x, y] = arguments, size = 2 ** 3
const at = {clientX: innerWidth / 2 + (x - 0.5) * size, clientY: innerHeight / 2 - (y - 0.5) * size}
document.querySelector("canvas").dispatchEvent(new PointerEvent("pointermove", at))
"""
"""`Browser.run` it with such a place: the pointer is there."""


def spiral() -> Iterator[tuple[int, int]]:
    """Where the numbers are, from 1: right and up from the 1."""
    x = y = 0
    for leg, (dx, dy) in enumerate(cycle([(1, 0), (0, 1), (-1, 0), (0, -1)])):
        for _ in repeat(None, leg // 2 + 1):
            yield x, y
            x, y = x + dx, y + dy


def is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))


PLACES = dict(enumerate(islice(spiral(), 1600), 1))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, bytes]]:
    path = tmp_path_factory.mktemp("tiles") / "primes.pmtiles"
    argv = [sys.executable, "-W", "error", str(EXAMPLES / "tiles/archive.py"), str(path)]
    subprocess.run(argv, check=True, timeout=GUARD)
    with path.open("rb") as file:
        source = MmapSource(file)  # type: ignore[no-untyped-call]
        yield Reader(source), path.read_bytes()  # type: ignore[no-untyped-call]


def rows(image: bytes) -> list[bytes]:
    """The palette indices of a tile's rows."""
    start = image.index(b"IDAT")
    length = int.from_bytes(image[start - 4 : start], "big")
    data = zlib.decompress(image[start + 4 : start + 4 + length])
    assert set(data[::257]) == {0}  # no filters
    return [data[at + 1 : at + 257] for at in range(0, len(data), 257)]


def test_another_program_reads_the_archive(archive: tuple[Any, bytes]) -> None:
    reader, data = archive
    header = reader.header()
    assert (header["min_zoom"], header["max_zoom"]) == (0, 4)
    assert header["tile_data_offset"] + header["tile_data_length"] == len(data)
    sums = []
    for zoom in range(5):
        places = [(x, y) for x in range(1 << zoom) for y in range(1 << zoom)]
        tiles = [reader.get(zoom, x, y) for x, y in places]
        sums.append(sum(sum(row) for tile in tiles for row in rows(tile)))
    assert sums == [1_077_871] * 5  # the primes below 2**24
    assert reader.get(5, 0, 0) is None


def test_its_dots_are_the_primes(archive: tuple[Any, bytes]) -> None:
    reader, _ = archive
    tiles = {(x, y): rows(reader.get(4, x, y)) for x in (7, 8) for y in (7, 8)}
    for number, (x, y) in PLACES.items():
        column, row = SIDE // 2 - 1 + x, SIDE // 2 - y
        dots = tiles[column // 256, row // 256]
        assert bool(dots[row % 256][column % 256]) == is_prime(number), number


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where it serves; at the end of the module ^C stops it."""
    with running_example("tiles") as (process, output):
        assert output.readline() == "making the map ...\n"
        line = output.readline()
        found = re.fullmatch(r"map at (http://127\.0\.0\.1:\d+/)\n", line)
        assert found, line + output.read()
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(GUARD) == 0
        assert output.read() == "stopped\n"


def test_it_shows_its_page(url: str) -> None:
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == (EXAMPLES / "tiles/page/index.html").read_bytes()


@needs_chromium
def test_a_page_shows_parts_of_it(browser: Browser, url: str, archive: tuple[Any, bytes]) -> None:
    reader, data = archive
    all_are_here = "document.body.dataset.missing === '0'"
    browser.open(f"{url}#7/0/0")
    browser.wait(all_are_here)
    near = {number: place for number, place in PLACES.items() if number <= 100}
    colors = [tuple(color) for color in browser.run(DOTS, list(near.values()))]
    assert colors == [TEAL if is_prime(number) else PAPER for number in near]
    for number, (x, y) in near.items():
        browser.run(POINT, x, y)
        says = "is a prime" if is_prime(number) else "is no prime"
        assert browser.texts("#under") == [f"{number} {says}"]

    for _ in range(3):
        browser.click("#out")
        browser.wait(all_are_here)
    assert browser.run("return location.hash") == "#4.00/0.0/0.0"

    asked = [each for each in browser.responses() if each.url.endswith(".pmtiles")]
    assert {each.status for each in asked} == {206}
    header = reader.header()
    first, *others = (
        tuple(map(int, re.findall(r"\d+", each.fields["content-range"]))) for each in asked
    )
    assert first == (0, 16383, len(data))
    assert len(others) == len(set(others))  # none of them twice
    leaves = header["leaf_directory_offset"]
    assert min(start for start, _, _ in others) >= leaves
    assert sum(end - start + 1 for start, end, _ in others) < len(data) / 4
    shown = browser.texts("#counts")[0]
    assert shown.startswith(f"{len(asked)} parts, ")
    assert browser.complaints() == []


@needs_chromium
def test_it_fits_on_a_phone(browser: Browser, url: str) -> None:
    with browser.shown_on(PHONE):
        browser.open(url)
        browser.wait("document.body.dataset.missing === '0'")
        assert browser.run("return document.documentElement.scrollWidth") == PHONE.width
        browser.click("#in")
        browser.wait("document.body.dataset.missing === '0'")
    assert browser.complaints() == []


def test_its_reader_is_short_enough_to_copy() -> None:
    for name in ("pmtiles.js", "map.js"):
        assert len(Path(EXAMPLES, "tiles/page", name).read_text().splitlines()) <= 150
