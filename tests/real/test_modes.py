"""The same bytes whoever answers for the pages, whatever waits for the disk, and on any disk."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest

from tests.rig import (
    NOBODY,
    ServerProcess,
    as_nobody,
    fuse_disk,
    held_in_memory,
    identity,
    load,
    loop_ext4,
    needs,
    overlayfs,
    running_server,
    tmpfs,
)
from tests.rig.server import COMMON_OPTIONS
from trio_amped.config import GateMode, HelperKind

from .support import MIB, SIZES, WINDOW, Client, children, content, evict, fill, put

BIG = f"/{5 * MIB}.bin"


def answers(server: ServerProcess) -> list[tuple[str, int, list[str], bytes]]:
    """What a server says to one client that asks for a little of everything."""
    requests: list[tuple[str, ...]] = [(f"/{size}.bin",) for size in SIZES]
    requests += [
        (BIG, "Range: bytes=0-0"),
        (BIG, f"Range: bytes={WINDOW - 1}-{2 * WINDOW}"),
        (BIG, f"Range: bytes=-{WINDOW + 1}"),
        (BIG, f"Range: bytes={5 * MIB}-"),
        ("/folder/?x",),
        ("/folder?x",),
        ("/folder/link",),
        ("/folder/outside",),
        ("/missing",),
        ("/fifo",),
        ("/../x",),
    ]
    found = []
    with Client(server) as client:
        for request in requests:
            reply = client.get(*request)
            del reply.fields["date"]
            fields = [f"{name}: {value}" for name, value in reply.fields.items()]
            found.append((" ".join(request), reply.status, fields, reply.body))
            if "etag" in reply.fields:
                tag = reply.fields["etag"]
                again = client.get(*request, f"If-None-Match: {tag}")
                assert (again.status, again.fields["etag"], again.body) == (304, tag, b"")
                head = client.get(request[0], method="HEAD")
                assert head.fields["etag"] == tag
    return found


def furnish(root: Path) -> None:
    """Everything that `answers` asks for."""
    fill(root)
    put(root / "folder/index.html", b"<p>folder")
    (root / "folder/link").symlink_to("../1.bin")
    (root / "folder/outside").symlink_to("/etc/passwd")


def chown(root: Path, user: int) -> None:
    for path in (root, *root.rglob("*")):
        shutil.chown(path, user, user)


def wait_for_gate(server: ServerProcess) -> str:
    return server.wait_for_log(r"gate (\w+\W.*)")[1]


@pytest.fixture(scope="module")
def furnished(site: Path) -> Path:
    furnish(site)
    return site


@pytest.fixture(scope="module")
def expected(furnished: Path, server: ServerProcess) -> list[tuple[str, int, list[str], bytes]]:
    """The answers of the server as it comes, which are right: the bodies are the files."""
    found = answers(server)
    bodies = {request: body for request, _, _, body in found}
    assert all(bodies[f"/{size}.bin"] == content(size) for size in SIZES)
    statuses = [status for _, status, _, _ in found[len(SIZES) :]]
    assert statuses == [206, 206, 206, 416, 200, 301, 200, 404, 404, 404, 400]
    return found


# ---------------------------------------------------------------- gates and helpers


@pytest.mark.parametrize("helpers", get_args(HelperKind))
@pytest.mark.parametrize("gate", get_args(GateMode))
def test_every_gate_with_both_helpers(
    furnished: Path,
    expected: list[tuple[str, int, list[str], bytes]],
    gate: GateMode,
    helpers: HelperKind,
) -> None:
    """Twice: with nothing in memory, and with what the first time has brought there."""
    for size in SIZES:
        evict(furnished / f"{size}.bin")
    with running_server("--gate", gate, "--helpers", helpers, root=furnished) as server:
        line = wait_for_gate(server)
        kinds = ("mincore", "nowait", "always") if gate == "auto" else (gate,)
        assert line.startswith(kinds)
        if gate != "never":
            assert line.endswith(f"at most 16 {helpers} helpers")
        assert answers(server) == expected
        assert answers(server) == expected
        if gate == "never" or helpers == "thread":
            assert children(server.pid) == []
        else:
            assert children(server.pid)
        assert server.stop() == 0


def count(server: ServerProcess, what: str) -> int:
    """A count of the summary that a server gives when it has stopped."""
    return int(server.wait_for_log(rf"stopped; .*\b(\d+) {what}")[1])


def test_gate_never_uses_no_helper(site: Path) -> None:
    evict(site / BIG[1:])
    with running_server("--gate", "never", "--helpers", "process", root=site) as server:
        assert wait_for_gate(server) == (
            "never: the event loop itself waits for the disk, as --gate never asks"
        )
        with Client(server) as client:
            assert client.get(BIG).body == content(5 * MIB)
            assert client.get("/missing").status == 404
        assert children(server.pid) == []
        assert server.stop() == 0
        assert count(server, "jobs for helpers") == 0
        assert count(server, "misses") == 0


# For 5 MiB. One opens the file and loads 64 KiB; windows that end at 0.5, 1, 2, 4 and 5 MiB
# follow, if the disk is quick: else they are smaller.
FEWEST_JOBS = 6


def test_gate_always_uses_a_helper_for_every_window(site: Path) -> None:
    load(site / BIG[1:])
    with running_server("--gate", "always", "--revalidate", "1000", root=site) as server:
        assert wait_for_gate(server).startswith(
            "always: a helper reads every window first, as --gate always asks; "
            "files are opened by helpers"
        )
        with Client(server) as client:
            assert client.get(BIG).body == content(5 * MIB)
        assert server.stop() == 0
        assert count(server, "jobs for helpers") >= FEWEST_JOBS


def test_what_is_in_memory_needs_no_helper(site: Path) -> None:
    """AMPED in one test."""
    options = ("--gate", "mincore", "--revalidate", "1000")
    with held_in_memory(site / BIG[1:]), running_server(*options, root=site) as server:
        with Client(server) as client:
            for _ in range(5):
                assert client.get(BIG).body == content(5 * MIB)
                assert client.get(BIG, "Range: bytes=9-").body == content(5 * MIB)[9:]
                assert client.get(BIG, method="HEAD").status == 200
        assert server.stop() == 0
        # Nothing to load. Of 15 opens, one may meet a mount or a rename somewhere: EAGAIN.
        assert count(server, "jobs for helpers") <= 5
        assert count(server, "misses") == 0
        # The fast lane asks about larger ones, as long as the client takes them at once.
        by_tasks, by_lane = 5 * MIB // WINDOW, 2
        assert count(server, "resident windows") >= 10 * (by_tasks if COMMON_OPTIONS else by_lane)


# ---------------------------------------------------------------- users and disks


@contextmanager
def on_ext4(place: Path) -> Iterator[Path]:
    with loop_ext4(place, 64 * MIB) as path:
        (path / "lost+found").rmdir()
        furnish(path)
        yield path


@contextmanager
def owned_on_ext4(place: Path) -> Iterator[Path]:
    with on_ext4(place) as path:
        chown(path, NOBODY)
        yield path


@contextmanager
def on_overlayfs(place: Path) -> Iterator[Path]:
    lower = place / "lower"
    lower.mkdir()
    furnish(lower)
    with overlayfs(place, lower) as path:
        yield path


@contextmanager
def on_tmpfs(place: Path) -> Iterator[Path]:
    with tmpfs(place) as path:
        furnish(path)
        yield path


@contextmanager
def on_fuse(place: Path) -> Iterator[Path]:
    backing = place / "backing"
    backing.mkdir()
    furnish(backing)
    with fuse_disk(place, backing) as disk:
        yield disk.path


STRANGER = f"mincore tells uid {NOBODY} nothing true about files of uid 0"
REMEDY = f"to spare helpers, chown the files to uid {NOBODY}"
UNDATED = (
    " (each name that is not there by a helper: overlayfs does not date the names in a folder; "
    "ext4, XFS, Btrfs and tmpfs do)"
)
CACHES, HELPERS = "files are opened from the kernel's caches", "files are opened by helpers"
Wrap = Callable[[list[str]], list[str]]


@needs("root", "nobody", "loop", "overlay", "tmpfs", "fuse")
@pytest.mark.parametrize(
    ("disk", "wrap", "line"),
    [
        pytest.param(
            on_ext4,
            identity,
            f"mincore: the kernel tells it about any file, by CAP_FOWNER (ext4); {CACHES}",
            id="root-ext4",
        ),
        pytest.param(
            on_ext4,
            as_nobody,
            f"nowait after a helper's first touch: {STRANGER} (ext4); {REMEDY}; {CACHES}",
            id="nobody-ext4",
        ),
        pytest.param(
            owned_on_ext4,
            as_nobody,
            f"mincore: the kernel tells uid {NOBODY} about the files it owns (ext4); {CACHES}",
            id="owner-ext4",
        ),
        pytest.param(
            on_overlayfs,
            identity,
            f"mincore: the kernel tells it about any file, by CAP_FOWNER (overlayfs); "
            f"{CACHES}{UNDATED}",
            id="root-overlayfs",
        ),
        pytest.param(
            on_overlayfs,
            as_nobody,
            f"always: {STRANGER}, and there is no other gate on overlayfs; {REMEDY}; "
            f"{CACHES}{UNDATED}",
            id="nobody-overlayfs",
        ),
        pytest.param(
            on_tmpfs,
            identity,
            f"memory: tmpfs keeps its files nowhere else; {CACHES}",
            id="root-tmpfs",
        ),
        pytest.param(
            on_tmpfs,
            as_nobody,
            f"memory: tmpfs keeps its files nowhere else; {CACHES}",
            id="nobody-tmpfs",
        ),
        pytest.param(
            on_fuse,
            identity,
            f"always: any call may wait on fuse, so helpers open, read and close; {HELPERS}",
            id="root-fuse",
        ),
        pytest.param(
            on_fuse,
            as_nobody,
            f"always: any call may wait on fuse, so helpers open, read and close; {HELPERS}",
            id="nobody-fuse",
        ),
    ],
)
def test_every_user_on_every_disk(
    place: Path,
    expected: list[tuple[str, int, list[str], bytes]],
    disk: Callable[[Path], Iterator[Path]],
    wrap: Wrap,
    line: str,
) -> None:
    with disk(place) as root:  # type: ignore[attr-defined]
        if "overlay" not in str(root) and "tmpfs" not in str(root):
            for size in SIZES:
                evict(root / f"{size}.bin")
        with running_server(root=root, wrap=wrap) as server:
            assert wait_for_gate(server) == f"{line}; at most 16 thread helpers"
            assert answers(server) == expected
            assert answers(server) == expected
            assert server.stop() == 0


@needs("root", "nobody")
def test_a_file_that_the_user_may_not_read_is_404(place: Path) -> None:
    put(place / "root/public", b"public")
    put(place / "root/private", b"private").chmod(0o600)
    put(place / "root/closed/page", b"page")
    (place / "root/closed").chmod(0o700)
    with running_server(root=place / "root", wrap=as_nobody) as server, Client(server) as client:
        for _ in range(2):
            assert client.get("/public").body == b"public"
            assert client.get("/private").status == 404
            assert client.get("/closed/page").status == 404


@contextmanager
def stranger_and_client(root: Path) -> Iterator[tuple[ServerProcess, Client]]:
    with running_server(root=root, wrap=as_nobody) as server, Client(server) as client:
        assert wait_for_gate(server).startswith("nowait")
        yield server, client


@needs("root", "nobody", "loop")
def test_a_stranger_asks_helpers_once(place: Path) -> None:
    """nobody, root's files, ext4: a helper's first touch, RWF_NOWAIT from then on."""
    with on_ext4(place) as root, stranger_and_client(root) as (server, client):
        assert client.get(BIG).body == content(5 * MIB)
        assert client.get(BIG).body == content(5 * MIB)
        assert client.get(BIG).body == content(5 * MIB)
        assert server.stop() == 0
        windows = 5 * MIB // WINDOW
        assert count(server, "jobs for helpers") >= FEWEST_JOBS
        assert count(server, "resident windows") >= 2 * windows


@needs("root", "nobody")
@pytest.mark.parametrize(
    ("gate", "wrap"),
    [
        pytest.param("nowait", identity, id="nowait-as-root"),
        pytest.param("mincore", as_nobody, id="mincore-as-nobody"),
    ],
)
def test_the_gate_line_says_when_the_command_line_is_the_reason(
    place: Path, gate: GateMode, wrap: Wrap
) -> None:
    """Root is no stranger to root's files, and ext4 does have another gate than mincore."""
    with running_server("--gate", gate, root=place, wrap=wrap) as server:
        assert f"--gate {gate}" in wait_for_gate(server)
