"""GDAL (rasterio) reads a window and an overview of a big image that stays with us, by ranges."""

import sys
from pathlib import Path

import numpy
import numpy.typing
import pytest
import rasterio  # type: ignore[import-untyped]

from tests.real.support import MIB
from tests.rig import running_server

from .support import DEBUG, run, stop_and_count

Pixels = numpy.typing.NDArray[numpy.uint8]

SIDE, TILE, BLOCK = 2048, 256, 8

READ = """
import sys, rasterio
from rasterio.windows import Window
left, top, width, height, columns, rows = map(int, sys.argv[2:])
with rasterio.open(sys.argv[1]) as image:
    window = Window(left, top, width, height)
    pixels = image.read(window=window, out_shape=(image.count, rows, columns))
sys.stdout.buffer.write(pixels.tobytes())
"""


def colours() -> Pixels:
    """The bands, rows and columns of an image that has one pixel for each block of ours."""
    shape = (3, SIDE // BLOCK, SIDE // BLOCK)
    return numpy.random.default_rng(0).integers(0, 256, shape, numpy.uint8)


def enlarged(times: int) -> Pixels:
    """The same, with so many pixels for each on a side: ours, and each of its overviews."""
    return colours().repeat(times, axis=1).repeat(times, axis=2)


@pytest.fixture
def image(site: Path) -> Path:
    """A GeoTIFF of 64 tiles, which are not compressed, and its overviews."""
    path = site / "image.tif"
    place = rasterio.Affine(10, 0, 0, 0, -10, 0)
    tiles = {"tiled": True, "blockxsize": TILE, "blockysize": TILE}
    shape = {"width": SIDE, "height": SIDE, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        path, "w", "GTiff", crs="EPSG:3857", transform=place, **shape, **tiles
    ) as out:
        out.write(enlarged(BLOCK))
    with rasterio.open(path, "r+") as out:
        out.build_overviews([2, 4])
    return path


def test_a_window_and_an_overview(image: Path, tmp_path: Path) -> None:
    def read(*numbers: int) -> bytes:
        words = (sys.executable, "-c", READ, f"/vsicurl/{server.url}/image.tif")
        return run(tmp_path, *words, *map(str, numbers)).stdout

    with running_server(*DEBUG, root=image.parent) as server:
        # Parts of four tiles
        assert read(700, 900, 300, 200, 300, 200) == enlarged(8)[:, 900:1100, 700:1000].tobytes()
        # The whole image, of which a quarter of the columns and rows is enough
        assert read(0, 0, SIDE, SIDE, SIDE // 4, SIDE // 4) == enlarged(2).tobytes()
        requests = stop_and_count(server)
    gets = [each for each in requests if (each.method, each.target) == ("GET", "/image.tif")]
    assert {each.status for each in gets} == {206}
    assert sum(each.length for each in gets) < 2 * MIB < image.stat().st_size / 7
    # What may lie beside it is asked for, and not there
    others = [each for each in requests if each.target != "/image.tif"]
    assert others
    assert {each.status for each in others} == {404}
