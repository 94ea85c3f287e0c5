"""What `trio-amped check` says of a configuration: what is served, how, and what is odd."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.support import put
from tests.rig import public_directory
from trio_amped import checking
from trio_amped.checking import look, oddities
from trio_amped.config import Config, Site


@pytest.fixture
def root() -> Iterator[Path]:
    with public_directory() as place:
        put(place / "root/index.html", b"home")
        put(place / "root/a/b.txt", b"b")
        yield place / "root"


def odd(root: Path, **settings: Any) -> list[str]:
    config = Config(root=root, **settings)
    return [line.replace(str(root), "ROOT") for line in oddities(config, config)]


async def test_what_is_served_and_how(root: Path) -> None:
    served, found = await look(Config(root=root, port=81, host="::1"))
    assert found == []
    where, gate = served
    assert where == f"{root} at http://[::1]:81/"
    assert re.match(r"gate \w+: .*; files are opened .*; at most 16 thread helpers$", gate)


async def test_several_sites_each_with_its_gate(root: Path) -> None:
    sites = [Site(root), Site(root / "a", prefix="/a/", hosts=["h", "i"])]
    served, found = await look(Config(sites=sites, port=0))
    assert found == []
    assert served[::2] == [
        f"{root} at http://127.0.0.1:any free port/",
        f"{root}/a at http://127.0.0.1:any free port/a/ for h, i",
    ]
    assert [line[:5] for line in served[1::2]] == ["gate ", "gate "]


async def test_pages_that_are_missing(root: Path) -> None:
    _, found = await look(Config(root=root, error_pages=["404=/lost.html"], fallback="/a"))
    assert found == [
        "the page a is not used: it is no regular file",
        "the page lost.html is not used: opening failed: No such file or directory",
    ]


async def test_a_root_that_is_missing(root: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await look(Config(root=root / "lost"))


def test_nothing_is_odd(root: Path) -> None:
    assert odd(root) == []


def test_no_index(root: Path) -> None:
    (root / "index.html").unlink()
    assert odd(root) == ["ROOT has no index.html, and no listing: its first page is 404"]
    assert odd(root, listing=True) == odd(root, fallback="/a/b.txt") == []


def test_what_anybody_may_write(root: Path) -> None:
    root.chmod(0o777)
    for number in range(4):
        put(root / f"a/{number}\n", b"")
        (root / f"a/{number}\n").chmod(0o666)
    assert odd(root) == [
        f"ROOT has 4 files that anybody may write; see chmod(1): {_first(root)}, ...",
        "ROOT has 1 folder that anybody may write; see chmod(1): .",
    ]
    root.chmod(0o1777)  # sticky, like /tmp: what is there stays whose it is
    assert len(odd(root)) == 1


def _first(root: Path) -> str:
    names = [name for name in os.listdir(root / "a") if name.endswith("\n")]
    return ", ".join(f"a/{name[0]}\\n" for name in names[:3])


def test_what_is_never_served_is_not_looked_at(root: Path) -> None:
    put(root / ".git/x", b"")
    put(root / ".well-known/x", b"")
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("/etc/shadow")
    for name in (".git/x", ".well-known/x", "fifo"):
        (root / name).chmod(0o666)
    assert odd(root) == ["ROOT has 1 file that anybody may write; see chmod(1): .well-known/x"]


def test_hidden_names_that_are_served_are_looked_at(root: Path) -> None:
    for name in (".git/x", ".git/.treeinfo", ".os/.treeinfo", ".treeinfo"):
        put(root / name, b"").chmod(0o666)
    assert odd(root, hidden=[".treeinfo", ".os"]) == [
        "ROOT has 2 files that anybody may write; see chmod(1): .treeinfo, .os/.treeinfo"
    ]


def test_files_of_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_is_told", lambda path, _: not path.endswith("b.txt"))
    assert odd(root, gate="nowait") == odd(root, gate="never") == []
    assert odd(root) == [
        "ROOT has 1 file of other users, where the kernel does not say what is in memory; "
        "see chown(1): a/b.txt"
    ]


def test_a_root_with_many_names(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_MOST", 4)
    assert odd(root) == []
    monkeypatch.setattr(checking, "_MOST", 3)
    assert odd(root) == ["ROOT has more than 3 names: the others were not looked at"]
