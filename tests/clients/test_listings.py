"""Programs that read a site by its listings find its files, each once, and nothing else."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from tests.rig import ServerProcess, needs, running_server

from .support import DEBUG, LISTED, TREE, plant, run, stop_and_count, tree

# An index is the whole page of its folder: such programs cannot know that there are files in it.
FILES = {name: data for name, data in LISTED.items() if not name.endswith("index.html")}


@pytest.fixture
def server(site: Path) -> Iterator[ServerProcess]:
    plant(site, {name: data for name, data in TREE.items() if not name.endswith("index.html")})
    with running_server(*DEBUG, "--listing", root=site) as server:
        yield server


def asked_for_what_is_there(
    server: ServerProcess, files: dict[str, bytes], *, once: bool = False
) -> None:
    """The listing of each folder, in its usual order, and nothing above or beside the files."""
    requests = stop_and_count(server)
    assert not [each for each in requests if "?" in each.target or each.status >= 400]
    gets = [each.target for each in requests if each.method == "GET" and each.target[-1] == "/"]
    folders = {"/", *(f"/{quote(str(each))}/" for each in folders_of(files))}
    assert {quote(unquote(each)) for each in gets} == folders
    assert not once or len(gets) == len(folders)


def folders_of(files: dict[str, bytes]) -> set[Path]:
    return {parent for name in files for parent in Path(name).parents if parent.name}


# Not get(recursive=True), which writes the page of each folder over the folder, whatever the server
# (2026.9: IsADirectoryError with http.server, too), but what it does before that, and the files.
FSSPEC = """
import fsspec, json, sys
files, root = fsspec.filesystem("http"), sys.argv[1]
paths = files.expand_path(root, recursive=True)
found = [path for path in paths if not path.endswith("/")]
files.get(found, [f"copies/{path.removeprefix(root)}" for path in found])
print(json.dumps([paths, files.find(root), files.glob(root + "**")]))
"""


ODD = 'it\'s "another"'


# aiohttp follows the redirect of `folder/a%20b` to `a%20b/` by yarl's URL.join, which decodes the
# segments above (1.25.1): where one of these is escaped, it asks for blanks and quotes, a 400.
@pytest.mark.parametrize(
    "folder",
    [
        "another",
        pytest.param(
            ODD, marks=pytest.mark.xfail(reason="yarl: join decodes what is above", strict=True)
        ),
    ],
)
def test_fsspec_finds_and_gets_a_tree(
    site: Path, server: ServerProcess, tmp_path: Path, folder: str
) -> None:
    """It takes any link for something in the folder: with `./` and `../../` it never came back."""
    (site / "folder" / ODD).rename(site / "folder" / folder)
    there = {name.replace(ODD, folder): data for name, data in FILES.items()}
    root = f"{server.url}/"
    found = json.loads(run(tmp_path, sys.executable, "-c", FSSPEC, root).stdout)
    paths, files, globbed = (sorted(unquote(each.removeprefix(root)) for each in x) for x in found)
    folders = [f"{each}/" for each in folders_of(there)]
    assert files == sorted(there)
    assert globbed == sorted([*there, *folders])
    assert paths == sorted(["", *there, *folders])
    copies = {unquote(name): data for name, data in tree(tmp_path / "copies").items()}
    assert copies == there
    asked_for_what_is_there(server, there)


@needs("lftp")
def test_lftp_mirrors_a_tree(server: ServerProcess, tmp_path: Path) -> None:
    run(tmp_path, "lftp", "-c", f"mirror {server.url}/ copies", LC_ALL="C.UTF-8")
    assert tree(tmp_path / "copies") == FILES
    asked_for_what_is_there(server, FILES, once=True)


@needs("rclone")
def test_rclone_copies_a_tree(server: ServerProcess, tmp_path: Path) -> None:
    run(tmp_path, "rclone", "copy", f"--http-url={server.url}/", ":http:", "copies")
    assert tree(tmp_path / "copies") == FILES
    asked_for_what_is_there(server, FILES, once=True)


# The GDAL that rasterio has, whose own functions do not list folders.
GDAL = """
import ctypes, json, sys
from pathlib import Path
import rasterio
(library,) = Path(rasterio.__file__).parent.with_suffix(".libs").glob("libgdal*")
read = ctypes.CDLL(str(library)).VSIReadDir
read.argtypes, read.restype = [ctypes.c_char_p], ctypes.POINTER(ctypes.c_char_p)
names = read(sys.argv[1].encode())
found = []
while names and names[len(found)] is not None:
    found.append(names[len(found)].decode())
print(json.dumps(found))
"""


@pytest.mark.parametrize("folder", ["", "folder/"])
def test_gdal_reads_a_folder(server: ServerProcess, tmp_path: Path, folder: str) -> None:
    """What lies beside an image it looks up there, and does not ask for each."""
    url = f"/vsicurl/{server.url}/{folder}"
    found = json.loads(run(tmp_path, sys.executable, "-c", GDAL, url).stdout)
    names = {name.removeprefix(folder) for name in FILES if name.startswith(folder)}
    # GDAL leaves names as they are in URLs.
    assert sorted(map(unquote, found)) == sorted({name.partition("/")[0] for name in names})
    stop_and_count(server)
