"""Real disks, made once: each test has a folder of its own on them, and leaves nothing open."""

import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.disk.support import MIB, Rescuer, descriptors, eventually, mappings
from tests.rig import (
    FuseDisk,
    fuse_disk,
    loop_disk,
    loop_ext4,
    overlayfs,
    public_directory,
    tmpfs,
)
from trio_amped.disk import local, pages


class BrokenDisk(NamedTuple):
    """An ext4 whose disk waits, hangs and fails as `disk` is told; `root` is on it."""

    disk: FuseDisk
    root: Path


@pytest.fixture(autouse=True)
def closed_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no thread close files because they are new: tests count what is open."""
    if request.module.__name__.rpartition(".")[2] != "test_descriptors":
        monkeypatch.setattr("trio_amped.disk.descriptors._WRITTEN_OUT", -math.inf)


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory


def folder_on(mount: Path) -> Path:
    path = Path(tempfile.mkdtemp(dir=mount))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def _ext4(place: Path) -> Iterator[Path]:
    with loop_ext4(place, 96 * MIB, read_ahead_kb=128) as mount:
        yield mount


@pytest.fixture(scope="session")
def _tmpfs(place: Path) -> Iterator[Path]:
    with tmpfs(place) as mount:
        yield mount


@pytest.fixture(scope="session")
def _xfs(place: Path) -> Iterator[Path]:
    with loop_disk(place, "xfs") as mount:
        yield mount


@pytest.fixture(scope="session")
def _btrfs(place: Path) -> Iterator[Path]:
    with loop_disk(place, "btrfs") as mount:
        yield mount


@pytest.fixture(scope="session")
def _overlay(place: Path, _ext4: Path) -> Iterator[Path]:
    lower = folder_on(_ext4)
    with overlayfs(_ext4, lower) as mount:
        yield mount


@pytest.fixture(scope="session")
def _fuse(place: Path) -> Iterator[FuseDisk]:
    backing = place / "backing"
    backing.mkdir()
    with fuse_disk(place, backing) as disk:
        yield disk


@pytest.fixture(scope="session")
def _rescuer(_fuse: FuseDisk) -> Iterator[Rescuer]:
    rescuer = Rescuer(_fuse)
    yield rescuer
    rescuer.close()


@pytest.fixture(scope="session")
def _broken_ext4(place: Path, _fuse: FuseDisk) -> Iterator[Path]:
    with loop_ext4(place, 64 * MIB, read_ahead_kb=128, image=_fuse.path / "image") as mount:
        yield mount


@pytest.fixture(autouse=True)
def _nothing_stays_open(place: Path) -> Iterator[None]:
    """Every test gives back what it opened (a thread may still be busy with it)."""
    before = {*descriptors(place), *mappings(place)}
    yield
    eventually(lambda: not {*descriptors(place), *mappings(place)} - before)


@pytest.fixture(autouse=True)
def _undisturbed(
    request: pytest.FixtureRequest,
    as_long_as_it_takes: None,
    nobody_renames: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing here depends on how busy the machine is, nor on who else renames files."""
    monkeypatch.setattr(pages, "QUICK", 0)  # so no window grows
    if not {"mock_clock", "autojump_clock"} & set(request.fixturenames):
        monkeypatch.setattr(local, "FRESH", math.inf)


@contextmanager
def temporary_folder_on(mount: Path) -> Iterator[Path]:
    path = folder_on(mount)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def root(_ext4: Path) -> Iterator[Path]:
    """A folder on an ext4 with a small read-ahead."""
    with temporary_folder_on(_ext4) as path:
        yield path


@pytest.fixture
def xfs_root(_xfs: Path) -> Iterator[Path]:
    with temporary_folder_on(_xfs) as path:
        yield path


@pytest.fixture
def btrfs_root(_btrfs: Path) -> Iterator[Path]:
    with temporary_folder_on(_btrfs) as path:
        yield path


@pytest.fixture
def tmpfs_root(_tmpfs: Path) -> Iterator[Path]:
    with temporary_folder_on(_tmpfs) as path:
        yield path


@pytest.fixture(params=["ext4", "xfs", "btrfs", "tmpfs"])
def any_root(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder on each of the file systems that are local and not stacked."""
    with temporary_folder_on(request.getfixturevalue(f"_{request.param}")) as path:
        yield path


@pytest.fixture
def overlay_root(_overlay: Path) -> Iterator[Path]:
    with temporary_folder_on(_overlay) as path:
        yield path


@pytest.fixture
def fuse(_fuse: FuseDisk, _rescuer: Rescuer) -> Iterator[FuseDisk]:
    """A FUSE disk; a test that hangs it does not hang for ever."""
    with _rescuer.armed():
        try:
            yield _fuse
        finally:
            _fuse.reset()


@pytest.fixture
def fuse_root(fuse: FuseDisk) -> Path:
    return fuse.path / folder_on(fuse.backing).name


@pytest.fixture
def broken(_broken_ext4: Path, fuse: FuseDisk) -> Iterator[BrokenDisk]:
    with temporary_folder_on(_broken_ext4) as path:
        yield BrokenDisk(fuse, path)
        fuse.reset()


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock on the wall is five seconds ahead of that of the disks: no change is too young."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 5 * 10**9)


@pytest.fixture(params=["thread", "process"])
def kind(request: pytest.FixtureRequest) -> str:
    """Both kinds of helpers."""
    return str(request.param)
