"""Snapshots of folders: what they say is never wrong, and they are read when that is worth it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.disk.support import descriptors, eventually_async, serving
from tests.rig import needs
from trio_amped.disk.folders import Folders

pytestmark = needs("root", "loop")

AGE: Final = 10.0  # seconds


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock on the wall is five seconds ahead of the file systems': no change is too young."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 5 * 10**9)


@asynccontextmanager
async def folders_below(
    root: Path, max_age: float = AGE, **settings: object
) -> AsyncIterator[Folders]:
    async with serving(root, None, **settings) as disk, trio.open_nursery() as nursery:
        paths, pool, closer = disk._paths, disk._pool, disk._closer
        folders = Folders(paths, pool, closer, nursery, max_age=max_age, unused_after=60.0)
        yield folders
        nursery.cancel_scope.cancel()
        folders.clear()
    await eventually_async(lambda: descriptors(root) == descriptors(Path("/memfd:names")) == [])


async def snapshot(folders: Folders, path: bytes) -> None:
    """Have the names in the folder of a path read."""
    folders.want(path)
    await folders.filled(path)


def lacks(folders: Folders, path: bytes) -> bool | None:
    """At this moment."""
    return folders.lacks(path, trio.current_time())


async def test_what_the_names_say(aged: None, root: Path) -> None:
    (root / "folder").mkdir()
    (root / "file").touch()
    (root / "link").symlink_to("folder")
    async with folders_below(root) as folders:
        assert lacks(folders, b"nothing") is None, "not read yet"
        await snapshot(folders, b"nothing")
        for path in (b"nothing", b"nothing/below", b"no/thing/here", b"file/below", b"file/"):
            assert lacks(folders, path) is True
        for path in (b"file", b"folder", b"link", b"", b".", b"..", b"/"):
            assert lacks(folders, path) is False
        for path in (b"folder/nothing", b"link/nothing", b"folder/", b"./nothing", b"../nothing"):
            assert lacks(folders, path) is None, "its folder is another one"
