"""A directory is read, and rendered into a file in memory: what is shown, and what it costs."""

import contextlib
import errno
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.disk.conftest import temporary_folder_on
from tests.disk.support import MIB, descriptors
from tests.rig import GUARD, needs
from trio_amped.disk import carriers, directories, kernel, opening
from trio_amped.disk.messages import FREE, MAX_MESSAGE, Operation, Order, Reply
from trio_amped.semantics.listing import View

VIEW: Final = View("json")
NAMES: Final = 100_000
# Measured (Python 3.11): 49 MiB. 12 are the helper itself, and each name takes 380 bytes; the 19 MB
# of HTML are never in its memory as a whole.
MOST_MEMORY: Final = 64 * MIB


@pytest.fixture
def folder(place: Path) -> Iterator[Path]:
    with temporary_folder_on(place) as path:
        yield path


def content(memory: int) -> bytes:
    """All of a file in memory, which is closed."""
    with open(memory, "rb") as file:
        file.seek(0)
        return file.read()


def rendered(folder: Path, path: bytes = b"", view: View = VIEW) -> tuple[bytes, bytes]:
    """The document of the directory at `path` below a root, and its digest."""
    root = os.open(folder, os.O_PATH)
    try:
        memory, digest = directories.render(root, path, view)
    finally:
        os.close(root)
    return content(memory), digest


def listed(folder: Path, path: bytes = b"", view: View = VIEW) -> dict[str, Any]:
    """What is shown of each name."""
    entries = json.loads(rendered(folder, path, view)[0])
    return {entry.pop("href"): entry for entry in entries}


# ---------------------------------------------------------------- what is shown


def test_files_and_directories(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "file").write_bytes(b"12345")
    (folder / "empty").touch(mode=0o000)
    for name, mtime in (("sub", 0), ("file", 1_700_000_000), ("empty", -1)):
        os.utime(folder / name, (0, mtime))
    assert listed(folder) == {
        "sub/": {"name": "sub", "type": "directory", "size": None, "mtime": "1970-01-01T00:00:00Z"},
        "empty": {"name": "empty", "type": "file", "size": 0, "mtime": "1969-12-31T23:59:59Z"},
        "file": {"name": "file", "type": "file", "size": 5, "mtime": "2023-11-14T22:13:20Z"},
    }
    assert listed(folder, b"sub") == {}


def test_hidden_names_are_left_out(folder: Path) -> None:
    for name in (".hidden", "..a", "...", ".well-known", "a.", "a.b"):
        (folder / name).touch()
    (folder / ".git").mkdir()
    assert list(listed(folder)) == ["a.", "a.b"]


def test_hidden_names_that_are_served_are_shown(folder: Path) -> None:
    odd = [b".a b", b".\xff", b".%2F"]
    for name in (*odd, b".zarray", b".zarray2", b".ZARRAY", b".git", b"a"):
        (folder / os.fsdecode(name)).touch()
    view = View.select(None, True, b"", frozenset({b".zarray", *odd}))
    assert View.unpack(view.pack()) == view
    assert set(listed(folder, view=view)) == {".zarray", ".a%20b", ".%FF", ".%252F", "a"}


def test_names_are_bytes(folder: Path) -> None:
    for name in (b"\xff\xfe", b"a\nb", "ä".encode(), b" "):
        (folder / os.fsdecode(name)).touch()
        os.symlink(name, os.fsencode(folder) + b"/to " + name)
    assert set(listed(folder)) == {
        *("%FF%FE", "a%0Ab", "%C3%A4", "%20"),
        *("to%20%FF%FE", "to%20a%0Ab", "to%20%C3%A4", "to%20%20"),
    }


def test_what_is_neither_is_left_out(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    for name in ("fifo", "socket"):
        (folder / f"to {name}").symlink_to(name)
    (folder / "file").touch()
    assert list(listed(folder)) == ["file"]


@needs("root")
def test_devices_are_left_out(folder: Path) -> None:
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(folder / "loop", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    (folder / "to null").symlink_to("null")
    assert listed(folder) == {}


LINKS: Final = {
    "to file": "file",
    "to folder": "folder",
    "to a file in it": "folder/file",
    "there and back": "folder/../file",
    "to a link": "to file",
    "to here": ".",
    "out": "..",
    "out of it": "folder/../..",
    "out and back": "../{}/file",
    "absolute": "/etc/passwd",
    "absolute, and inside": "{}/file",
    "dangling": "nowhere",
    "below a file": "file/x",
    "a loop": "a loop",
    "one half": "other half",
    "other half": "one half",
}


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_links_are_shown_where_they_would_be_followed(folder: Path, depth: int) -> None:
    """With what they lead to; those that would be 404 are not."""
    below = folder.joinpath(*"ab"[:depth])
    (below / "folder").mkdir(parents=True)
    for path in (below / "file", below / "folder/file"):
        path.write_bytes(b"12345")
        os.utime(path, (0, 0))
    for name, target in LINKS.items():
        (below / name).symlink_to(target.format(below.name if "back" in name else below))
    found = listed(folder, os.fsencode(below.relative_to(folder)) if depth else b"")
    shown = {name.replace("%20", " ").rstrip("/"): entry for name, entry in found.items()}
    inside = {"to file", "to folder", "to a file in it", "there and back", "to a link", "to here"}
    above = {"out", "out of it", "out and back"} if depth else set()
    assert set(shown) == {"file", "folder", *inside, *above}
    assert {name for name, entry in shown.items() if entry["type"] == "directory"} == {
        *("folder", "to folder", "to here"),
        *above - {"out and back"},
    }
    for name in ("to file", "to a file in it", "there and back", "to a link"):
        assert shown[name] | {"name": "file"} == shown["file"], name


def test_without_openat2_no_link_is_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As no link is followed then."""
    monkeypatch.setattr(kernel, "has_openat2", lambda resolve: False)
    (folder / "sub").mkdir()
    (folder / "sub/file").touch()
    (folder / "sub/link").symlink_to("file")
    assert list(listed(folder, b"sub")) == ["file"]


@pytest.mark.parametrize("becomes", [None, "/etc/passwd"], ids=["nothing", "a link out"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_name_that_changes_is_left_out(
    kind: str, becomes: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between being read and being asked about."""
    (folder / "target").touch()
    for name in ("a", "b", "c"):
        if kind == "file":
            (folder / name).touch()
        else:
            (folder / name).symlink_to("target")
    ask = directories._status

    def too_late(root: int, path: bytes, each: "os.DirEntry[str]", name: bytes) -> os.stat_result:
        if name == b"b":
            (folder / "b").unlink()
            if becomes:
                (folder / "b").symlink_to(becomes)
        return ask(root, path, each, name)

    monkeypatch.setattr(directories, "_status", too_late)
    assert list(listed(folder)) == ["a", "c", "target"]


# ---------------------------------------------------------------- the most that is shown


def test_a_large_directory_is_cut_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is shown counts, whatever comes behind it."""
    scan = os.scandir

    def in_order(directory: int) -> contextlib.AbstractContextManager[list["os.DirEntry[str]"]]:
        with scan(directory) as found:
            return contextlib.nullcontext(sorted(found, key=lambda entry: entry.name))

    monkeypatch.setattr(os, "scandir", in_order)
    monkeypatch.setattr(directories, "_MOST", 5)
    for number in range(5):
        (folder / f"{number}").touch()
    (folder / ".hidden").touch()
    (folder / "x").symlink_to("nowhere")
    os.mkfifo(folder / "y")
    says = b"there are more, which are not shown"
    html = View("html")
    assert len(listed(folder)) == 5
    assert says not in rendered(folder, view=html)[0]
    (folder / "z").touch()
    found = listed(folder)
    assert list(found) == list("01234")
    assert [name for name, entry in found.items() if "more" in entry] == ["4"]
    assert says in rendered(folder, view=html)[0]
    # What is filtered is cut if that is too much.
    for wanted, names, is_cut in (("z", ["z"], False), ("", list("01234"), True)):
        entries = json.loads(rendered(folder, view=View("json", filter=wanted))[0])
        assert [entry["href"] for entry in entries] == names
        assert ("more" in entries[-1]) == is_cut


@pytest.fixture(scope="module")
def large(place: Path) -> Iterator[Path]:
    with temporary_folder_on(place) as path:
        for number in range(NAMES):
            os.close(os.open(path / f"package-{number:06d}.tar.gz", os.O_CREAT))
        yield path


def test_the_memory_of_a_helper_is_bounded(large: Path) -> None:
    """That of a process of its own, which renders it as HTML and as JSON."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, carriers._start(theirs.fileno(), 0) as process:
        theirs.close()
        ours.settimeout(GUARD)
        assert ours.recv(MAX_MESSAGE) == FREE
        root = os.open(large, os.O_PATH)
        for kind, mark in (("html", b"<time "), ("json", b'"href": ')):
            order = Order(Operation.LIST, View(kind).pack() + b"\0")
            socket.send_fds(ours, [order.pack(1)], [root])
            message, received, _, _ = socket.recv_fds(ours, MAX_MESSAGE, 4)
            assert Reply.unpack(message)[1].errno == 0
            (memory,) = received
            assert content(memory).count(mark) == NAMES
        os.close(root)
        status = Path(f"/proc/{process.pid}/status").read_text()
        (peak,) = [int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line]
        ours.close()
        assert process.wait(GUARD) == 0
    assert peak * 1024 < MOST_MEMORY


# ---------------------------------------------------------------- digest and descriptors


def test_the_digest_is_of_the_content(folder: Path) -> None:
    """Not of the directory: the same names give the same tag on every machine."""
    first, second = folder / "first", folder / "second"
    for each in (first, second):
        each.mkdir()
        for name in ("a", "b") if each is first else ("b", "a"):
            (each / name).write_bytes(b"x")
            os.utime(each / name, (0, 0))
    found, digest = rendered(first)
    assert rendered(second) == (found, digest)
    assert len(digest) == 15
    (second / "b").write_bytes(b"xx")
    os.utime(second / "b", (0, 0))
    assert rendered(second)[1] != digest
    assert rendered(first, view=View("json", "name", "desc"))[1] != digest
    assert rendered(first) == (found, digest)


def test_a_document_of_many_chunks_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a write takes but a part."""
    for number in range(50):
        (folder / f"{number}").touch()
    whole = rendered(folder)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, memoryview(data)[:7]))
    for chunk in (1, 100):
        monkeypatch.setattr(directories, "_CHUNK", chunk)
        assert rendered(folder) == whole


def in_memory() -> list[str]:
    return descriptors(Path("/memfd:listing"))


def test_what_comes_back_is_a_file_in_memory(folder: Path) -> None:
    root = os.open(folder, os.O_PATH)
    memory, _ = directories.render(root, b"", VIEW)
    os.close(root)
    assert in_memory() == ["/memfd:listing (deleted)"]
    assert descriptors(folder) == []
    assert not os.get_inheritable(memory)
    assert content(memory) == b"[]\n"


def fail(*arguments: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("path", "break_it", "number"),
    [
        (b"missing", lambda patch: None, errno.ENOENT),
        (b"file", lambda patch: None, errno.ENOTDIR),
        (b"file/x", lambda patch: None, errno.ENOTDIR),
        (b"out", lambda patch: None, errno.EXDEV),
        (b"loop", lambda patch: None, errno.ELOOP),
        (b"sub", lambda patch: patch.setattr(os, "write", fail), errno.ENOSPC),
        (b"sub", lambda patch: patch.setattr(os, "scandir", fail), errno.ENOSPC),
        (b"sub", lambda patch: patch.setattr(os, "memfd_create", fail), errno.ENOSPC),
        (b"sub", lambda patch: patch.setattr(opening, "volume_of", fail), errno.ENOSPC),
    ],
    ids=["missing", "file", "below a file", "out", "loop", "write", "read", "memory", "volume"],
)
def test_an_error_leaves_nothing_open(
    path: bytes,
    break_it: Callable[[pytest.MonkeyPatch], None],
    number: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "sub").mkdir()
    (folder / "file").touch()
    (folder / "out").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    with monkeypatch.context() as patch:
        break_it(patch)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            rendered(folder, path)
    assert caught.value.errno == number
    assert in_memory() == descriptors(folder) == []
