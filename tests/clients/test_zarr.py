"""zarr-python reads a store of version 2, whose metadata have hidden names, where it is."""

import sys
from pathlib import Path

import numpy
import zarr

from tests.rig import running_server

from .support import DEBUG, run, stop_and_count

HIDDEN = ".zarray,.zgroup,.zattrs,.zmetadata"

READ = """
import sys, zarr
group = zarr.open_group(sys.argv[1], mode="r", zarr_format=2, use_consolidated=sys.argv[2] == "1")
part = group["folder/a"][30:70, 10:20]
sys.stdout.buffer.write(group.attrs["title"].encode() + part.tobytes())
"""


def plant(root: Path) -> bytes:
    """Make a store of an array in a group, in 100 chunks: what the script above reads of it."""
    numbers = numpy.arange(10_000, dtype="<i4").reshape(100, 100)
    group = zarr.create_group(root, zarr_format=2, attributes={"title": "numbers"})
    array = group.create_array("folder/a", shape=numbers.shape, chunks=(10, 10), dtype="<i4")
    array[:] = numbers
    zarr.consolidate_metadata(root, zarr_format=2)
    return b"numbers" + numbers[30:70, 10:20].tobytes()


def test_a_part_of_an_array(site: Path, tmp_path: Path) -> None:
    expected = plant(site)
    (site / ".git").mkdir()
    for consolidated in ("0", "1"):
        with running_server(*DEBUG, "--hidden", HIDDEN, root=site) as server:
            words = (sys.executable, "-c", READ, server.url, consolidated)
            assert run(tmp_path, *words).stdout == expected
            requests = stop_and_count(server)
        chunks = [each for each in requests if each.target[-1].isdigit()]
        assert {each.target for each in chunks} == {f"/folder/a/{row}.1" for row in range(3, 7)}
        assert {each.status for each in chunks} == {200}
        found = {each.target for each in requests if each.status == 200} - {
            each.target for each in chunks
        }
        metadata = {"/.zmetadata"} if consolidated == "1" else {"/.zgroup", "/folder/a/.zarray"}
        assert found >= metadata


def test_without_the_option_there_is_no_store(site: Path, tmp_path: Path) -> None:
    plant(site)
    with running_server(root=site) as server:
        failed = run(tmp_path, sys.executable, "-c", READ, server.url, "0", fails=True)
    assert b"GroupNotFoundError" in failed.stderr or b"FileNotFoundError" in failed.stderr
