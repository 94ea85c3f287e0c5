"""The naive models of the disk room are right, and its targets see what they are there to see."""

import errno
import os
import struct
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
import trio

from fuzz.properties import beneath, folders, gates, pool, wire
from fuzz.properties.beneath import Drawn, Node, Refused, resolve
from fuzz.properties.folders import Step, Verb
from fuzz.properties.gates import Case
from fuzz.properties.pool import Wish
from trio_amped.disk import helper, kernel, opening
from trio_amped.disk.folders import Folders
from trio_amped.disk.folders import _Snapshot as Snapshot
from trio_amped.disk.jobs import Job
from trio_amped.disk.messages import Operation, Order
from trio_amped.disk.pages import Gate
from trio_amped.disk.pool import HelperPool

# ------------------------------------------------------------------ what a path leads to

TREE: dict[bytes, Drawn] = {
    b"file": None,
    b"folder": {b"file": None, b"up": b"../file", b"out": b"../../secret"},
    b"link": b"folder/up",
    b"loop": b"loop",
    b"absolute": b"BASE/root/file",
    b"detour": b"../root/file",
    b"0": b"file",
    **{b"%d" % number: b"%d" % (number - 1) for number in range(1, 41)},
}


@pytest.fixture
def tree(tmp_path: Path) -> Node:
    return Node.made(os.fsencode(tmp_path / "root"), TREE, os.fsencode(tmp_path))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"", "."),
        (b"folder/..", "."),
        (b"file", "file"),
        (b"link", "file"),
        (b"folder/./up", "file"),
        (b"folder//file", "folder/file"),
        (b"folder/", "folder"),
        (b"39", "file"),
    ],
)
def test_the_naive_walk_finds(path: bytes, expected: str, tree: Node, tmp_path: Path) -> None:
    found = (tmp_path / "root" / expected).stat()
    assert resolve(tree, path).identity == (found.st_dev, found.st_ino)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"nothing", errno.ENOENT),
        (b"nothing/..", errno.ENOENT),
        (b"file/", errno.ENOTDIR),
        (b"file/..", errno.ENOTDIR),
        (b"link/", errno.ENOTDIR),
        (b"..", errno.EXDEV),
        (b"/file", errno.EXDEV),
        (b"absolute", errno.EXDEV),
        (b"detour", errno.EXDEV),
        (b"folder/out", errno.EXDEV),
        (b"loop", errno.ELOOP),
        (b"40", errno.ELOOP),
    ],
)
def test_the_naive_walk_refuses(path: bytes, number: int, tree: Node) -> None:
    with pytest.raises(Refused) as caught:
        resolve(tree, path)
    assert caught.value.errno == number


def test_a_way_out_is_seen() -> None:
    beneath.check_beneath(TREE, [b"folder/out", b"absolute", b"detour", b"39", b"40"])
    with (
        mock.patch.object(opening, "_BENEATH", kernel.RESOLVE_NO_MAGICLINKS),
        pytest.raises(AssertionError),
    ):
        beneath.check_beneath(TREE, [b"folder/out"])


# ------------------------------------------------------------------ what is missing in folders


def step(text: str) -> Step:
    verb, *paths = text.encode().split()
    path, other = (*paths, b"", b"")[:2]
    return Step(cast(Verb, verb.decode().replace("-", " ")), path, other)


def keep_with_stamp_of_now(self: Folders, folder: bytes, snapshot: Snapshot) -> None:
    found = os.fstat(snapshot.fd)
    snapshot.stamp = found.st_dev, found.st_ino, found.st_ctime_ns
    keep(self, folder, snapshot)


keep = Folders._keep


@pytest.mark.parametrize(
    ("steps", "meanwhile", "defect"),
    [
        # The names are asked for once, and never again.
        (["miss a/a/b", "make a/a/b", "ask-all"], [], {"_holds": lambda *_: True}),
        # A path is never followed again.
        (
            ["miss a/a/b", "move a b", "mkdir a", "mkdir a/a", "pass a/a/a", "ask-all"],
            [],
            {"_still_leads_there": lambda *_: True},
        ),
        # The stamp is that of when the names have come, and they are older.
        (["miss a/b", "ask-all"], [(4, ["make a/b"])], {"_keep": keep_with_stamp_of_now}),
        # A file is a folder whose names nobody knows.
        ([], [], {"_is_missing": lambda *_: False}),
    ],
)
def test_what_is_said_of_folders_is_checked(
    steps: list[str],
    meanwhile: list[tuple[int, list[str]]],
    defect: dict[str, Any],
) -> None:
    drawn = ([[*map(step, steps)]], [(when, [*map(step, each)]) for when, each in meanwhile])
    folders.check_folders(*drawn, [b"b/a"])
    with mock.patch.multiple(Folders, **defect), pytest.raises(AssertionError):
        folders.check_folders(*drawn, [b"b/a"])


# ------------------------------------------------------------------ who is told the truth

OVERLAY, EXT4 = 0x794C7630, 0xEF53


@pytest.mark.parametrize(
    ("magic", "owner", "may_write", "expected"),
    [
        (EXT4, 1000, False, Gate.MINCORE),
        (EXT4, 0, True, Gate.MINCORE),
        (EXT4, 0, False, Gate.NOWAIT),
        (OVERLAY, 1000, False, Gate.MINCORE),
        (OVERLAY, 0, True, Gate.NOWAIT),
    ],
)
def test_the_table_of_gates(magic: int, owner: int, may_write: bool, expected: Gate) -> None:
    case = Case(1000, owner, False, may_write, False, True, True, magic, False)
    assert gates._expected("auto", case) is expected
    gates.check_gates("auto", case)


def test_an_owner_from_outside_of_the_namespace_proves_nothing() -> None:
    case = Case(1000, 1000, True, False, False, False, False, EXT4, False)
    assert gates._expected("auto", case) is Gate.NOWAIT
    gates.check_gates("auto", case)


def test_this_kernel_is_asked_for_the_truth_alone() -> None:
    us = os.geteuid()
    for user, owner, mode in (
        (0, 0, 0o600),
        (1000, 0, 0o600),
        (1000, 1000, 0o400),
        (1000, 0, 0o602),
    ):
        gates.check_mincore(user, owner, mode)
        assert os.geteuid() == us


# ------------------------------------------------------------------ helpers


def test_a_helper_that_says_too_little_is_seen() -> None:
    orders: list[wire.Sent] = [(Order(Operation.ROOT, b"/nothing here"), 0)]
    wire.check_helper(orders)
    with mock.patch.object(helper, "_answer"), pytest.raises(struct.error):
        wire.check_helper(orders)


def ask(deed: str, operation: Operation = Operation.OPEN, patience: float = 1000.0) -> None:
    wishes = [Wish(operation, number, 0, patience) for number in (1, 2)]
    pool.check_pool(1, 8, wishes, ([deed], [], b"junk"), 0)


@pytest.mark.parametrize("deed", pool.SOUND + pool.MAD)
def test_every_deed_is_survived(deed: str) -> None:
    for operation in (Operation.OPEN, Operation.READ):
        ask(deed, operation)


def test_a_descriptor_that_is_left_is_seen() -> None:
    def keep(_job: Job) -> None:
        pass

    with (
        mock.patch.object(Job, "_let_go", keep),
        pytest.raises(AssertionError, match="descriptors are left"),
    ):
        ask("answers late", patience=0.5)


def test_a_result_that_is_late_is_seen() -> None:
    async def result(_pool: HelperPool, job: Job) -> tuple[bytes, int]:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)
        job.drop()
        raise TimeoutError(errno.ETIMEDOUT, "")

    with (
        mock.patch.object(HelperPool, "result", result),
        pytest.raises(ExceptionGroup) as caught,
    ):
        ask("hangs")
    assert caught.group_contains(AssertionError, match="late")
