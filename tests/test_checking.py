"""What `trio-amped check` says of a configuration: what is served, how, and what is odd."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.support import put
from tests.rig import public_directory
from trio_amped import checking
from trio_amped.checking import look, mounts_below, oddities, oddities_of_start
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


async def test_what_is_served_by_tls_and_where_alone(root: Path) -> None:
    pair: dict[str, Any] = {"tls_cert": "c.pem", "tls_key": "k.pem"}
    sites = [Site(root, hosts=["h"], **pair), Site(root / "a", only_at=["[::1]:8443"])]
    binds = ["*:443", "*:80,plain", "[::1]:8443,client-ca=ca.pem"]
    served, found = await look(Config(sites=sites, bind=binds, redirect_http=443))
    assert found == []
    assert served[::2] == [
        f"{root} at https://*:443/, http://*:80/, https://[::1]:8443/ for h",
        f"{root}/a at https://[::1]:8443/",
    ]


def test_hsts_without_tls(root: Path) -> None:
    never = "hsts is never sent: it is for TLS, and there is no tls_cert, nor a proxy to trust"
    assert odd(root, hsts="300") == [never]
    assert odd(root, hsts="300", tls_cert="c.pem", tls_key="k.pem") == []
    trust: dict[str, Any] = {"hsts": "300", "trust": ["192.0.2.1"]}
    assert odd(root, **trust) == odd(root, bind=["*:1", "*:2,proxy"], **trust) == []
    assert odd(root, bind=["*:2,proxy"], **trust) == [never]  # where no field is read


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


def test_the_names_of_the_first_page(root: Path) -> None:
    assert odd(root, index=["main.htm"]) == [
        "ROOT has no main.htm, and no listing: its first page is 404"
    ]
    assert odd(root, index=["main.htm", "index.html"]) == []


def test_redirects_that_are_hidden_or_lead_round_and_round(root: Path) -> None:
    assert odd(root, redirects=["/a /b", "/b /a", "/c/* /d", "/c/d /e"]) == [
        "redirect '/a /b' leads round and round",
        "redirect '/b /a' leads round and round",
        "redirect '/c/d /e' is never reached: '/c/* /d' stands before it",
    ]


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


# ---------------------------------------------------------------- what is opened at the start


def odd_at_start(root: Path, **settings: Any) -> list[str]:
    found = oddities_of_start(Config(root=root, **{"port": 0, **settings}))
    return [line.replace(str(root), "ROOT") for line in found]


def test_nothing_is_odd_at_the_start(root: Path) -> None:
    (root / "log").touch()
    key = root / "key"
    key.touch(0o600)
    for log in (root / "log", root / "new", "-"):
        more = {"access_log": log, "tls_cert": key, "tls_key": key}
        assert odd_at_start(root, **more) == []


def test_an_access_log_that_cannot_be(root: Path) -> None:
    assert odd_at_start(root, access_log=root / "lost/log") == [
        "the access log ROOT/lost/log cannot be written: its folder does not exist; see "
        "--access-log"
    ]
    assert odd_at_start(root, access_log=root / "a") == [
        "the access log ROOT/a is a folder; see --access-log"
    ]
    (root / "a").chmod(0o777)
    assert odd_at_start(root, access_log=root / "a/log") == [
        "the access log ROOT/a/log is in a folder that anybody may write; see chmod(1)"
    ]


def test_what_this_user_may_not_write(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a test that runs as root can only feign."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    bind = f"unix:{root}/socket,owner=x:y"
    assert odd_at_start(root, access_log=root / "log", port=8000, bind=[bind]) == [
        "the access log ROOT/log may not be written by uid 1234; see chown(1)",
        "nothing can listen on unix:ROOT/socket,owner=x:y: uid 1234 may not write its folder",
        "unix:ROOT/socket,owner=x:y: only root can give a socket to another user",
    ]


def test_a_key_that_anybody_may_read(root: Path) -> None:
    key = root / "key"
    key.touch()
    key.chmod(0o644)
    assert odd_at_start(root, tls_cert=key, tls_key=key) == [
        "the key ROOT/key may be read by anybody; see chmod(1)"
    ]
    sites = [Site(root), Site(root, hosts=["h"], tls_cert=key, tls_key=key)]
    assert list(oddities_of_start(Config(sites=sites, port=0))) == [
        f"the key {key} may be read by anybody; see chmod(1)"
    ]


def test_addresses(root: Path) -> None:
    assert odd_at_start(root, host="192.0.2.1") == [
        "nothing can listen on 192.0.2.1:0: Cannot assign requested address"
    ]
    assert odd_at_start(root, host="a..b") == [
        "nothing can listen on a..b:0: its host is no address and no name"
    ]
    with socket.create_server(("127.0.0.1", 0)) as running:
        assert odd_at_start(root, port=running.getsockname()[1]) == []
    binds = ["*:0", "127.0.0.1:0", "fd:3", "systemd"]
    assert odd_at_start(root, port=8000, bind=binds) == []


def test_unix_sockets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd_at(name: str, options: str = ",mode=660") -> list[str]:
        return odd_at_start(root, port=8000, bind=[f"unix:{root}/{name}{options}"])

    assert odd_at("new") == []
    assert odd_at("lost/new") == [
        "nothing can listen on unix:ROOT/lost/new,mode=660: its folder does not exist"
    ]
    assert odd_at("index.html") == [
        "nothing can listen on unix:ROOT/index.html,mode=660: a file is there that is no socket"
    ]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{root}/stale")
        assert odd_at("stale") == [
            "unix:ROOT/stale,mode=660: a socket at which nobody listens is there; a start replaces "
            "it"
        ]
        server.listen()
        assert odd_at("stale") == []
    (root / "a").chmod(0o777)
    assert odd_at("a/new") == [
        "unix:ROOT/a/new,mode=660 is in a folder that anybody may write; see chmod(1)"
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert odd_at("new", "") == [
        "unix:ROOT/new: root alone may connect; give it a mode and an owner (,mode=660 ...)"
    ]


def test_mounts_below_a_root(root: Path) -> None:
    table = root / "table"
    (root / "link").symlink_to(root / "a")
    lines = [root, root / "a", f"{root}/a/x\\040y", f"{root}x", "/"]
    table.write_text("".join(f"1 2 0:3 / {each} rw - ext4 /dev/a rw\n" for each in lines))
    assert mounts_below(str(root), str(table)) == [f"{root}/a", f"{root}/a/x y"]
    assert mounts_below(str(root / "link"), str(table)) == [f"{root}/a/x y"]


async def test_a_mount_below_a_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "mounts_below", lambda _: [f"{root}/a", f"{root}/lost"])
    served, found = await look(Config(root=root, port=81))
    assert found == []
    pattern = r"gate \w+: [^;]*; files are opened by helpers"
    assert re.fullmatch(re.escape(f"{root}/a is a mount of its own: ") + pattern, served[2])
    assert served[3] == (
        f"{root}/lost is a mount of its own: it cannot be opened: No such file or directory; "
        "files are opened by helpers"
    )
