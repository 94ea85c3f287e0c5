"""wget resumes, copies a whole tree by its listings, and takes again only what is new."""

from pathlib import Path

import pytest

from tests.real.support import LONG_AGO, MIB, content, put
from tests.rig import needs, running_server

from .support import DEBUG, LISTED, TREE, plant, run, stop_and_count, tree

pytestmark = needs("wget")

WGET = ("wget", "--no-config", "--no-proxy", "--no-verbose", "--tries=1")
KEEP_NAMES = "--restrict-file-names=nocontrol"  # all bytes of them
MIRROR = (*WGET, "-r", "-l", "inf", "-np", "-nH", "-e", "robots=off", KEEP_NAMES)

LISTINGS = ("", "folder/", 'folder/it\'s "another"/', 'folder/it\'s "another"/deep/')


@pytest.mark.parametrize("had", [1, 2 * MIB, 3 * MIB - 1])
def test_the_rest_of_a_file(site: Path, tmp_path: Path, had: int) -> None:
    data = content(3 * MIB)
    put(site / "file.bin", data)
    partial = put(tmp_path / "file.bin", data[:had])
    with running_server(*DEBUG, root=site) as server:
        run(tmp_path, *WGET, "-c", f"{server.url}/file.bin")
        assert partial.read_bytes() == data
        run(tmp_path, *WGET, "-c", f"{server.url}/file.bin")  # there is no more
        assert partial.read_bytes() == data
        requests = stop_and_count(server)
    assert requests[0] == ("GET", "/file.bin", 206, len(data) - had)
    assert [request.status for request in requests] == [206, 416]


def test_a_tree_by_its_listings(site: Path, tmp_path: Path) -> None:
    """Each folder once, although people can have it in six orders."""
    plant(site, TREE)
    with running_server(*DEBUG, "--listing", root=site) as server:
        run(tmp_path, *MIRROR, f"{server.url}/")
        requests = stop_and_count(server)
    copies = tree(tmp_path)
    for listing in LISTINGS:
        assert copies.pop(f"{listing}index.html").startswith(b"<!doctype html>")
    assert copies == LISTED
    assert {request.status for request in requests} == {200}
    targets = [request.target for request in requests]
    assert len(targets) == len(set(targets))


def test_what_is_new_is_taken_again(site: Path, tmp_path: Path) -> None:
    plant(site, {"old.txt": b"old", "new.txt": b"new"})
    with running_server(*DEBUG, root=site) as server:
        argv = (*WGET, "-N", f"{server.url}/old.txt", f"{server.url}/new.txt")
        run(tmp_path, *argv)
        assert tree(tmp_path) == {"old.txt": b"old", "new.txt": b"new"}
        put(site / "new.txt", b"newer", LONG_AGO + 1)
        run(tmp_path, *argv)
        assert tree(tmp_path) == {"old.txt": b"old", "new.txt": b"newer"}
        requests = stop_and_count(server)
    assert [request.status for request in requests] == [200, 200, 304, 200]
