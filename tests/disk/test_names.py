"""All names of a directory, where they can be trusted, and never two changes in one tick."""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import trio

from tests.disk.support import a_tick_later, as_stranger, descriptors, in_thread, loop_turns
from tests.rig import FuseDisk, loop_disk, needs
from trio_amped.disk import kernel, names
from trio_amped.disk.messages import unpack_names

pytestmark = needs("root", "loop", "xfs", "btrfs")

# linux/fs.h and xfs_fs.h
FS_IOC_GETFLAGS: Final = 0x80086601
FS_ENCRYPT_FL: Final = 0x800
FS_EXTENT_FL: Final = 0x80000
FS_CASEFOLD_FL: Final = 0x40000000
XFS_IOC_FSGEOMETRY_V1: Final = 0x80705864
XFS_FSOP_GEOM_FLAGS_DIRV2CI: Final = 1 << 12
XFS_FSOP_GEOM_FLAGS_V5SB: Final = 1 << 15

SECOND: Final = 10**9  # ns
DOTS: Final = {b".", b".."}


class Found(NamedTuple):
    folders: set[bytes]
    others: set[bytes]
    ctime_ns: int


def read(directory: Path, most: int = 1000) -> Found:
    """As the event loop understands what a helper reads."""
    fd = os.open(directory, os.O_PATH)
    try:
        memory, facts = names.read(fd, most)
    finally:
        os.close(fd)
    try:
        ctime_ns, middle, end = unpack_names(facts)
        content = os.pread(memory, end + 1, 0)
    finally:
        os.close(memory)
    assert len(content) == end
    return Found(_cut(content[:middle]), _cut(content[middle:]), ctime_ns)


def _cut(content: bytes) -> set[bytes]:
    *found, rest = content.split(b"/")
    assert rest == b""
    assert len(set(found)) == len(found)
    return set(found)


def errno_of(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None


@pytest.fixture(autouse=True)
def _no_memory_is_left() -> Iterator[None]:
    yield
    assert descriptors(Path("/memfd:names")) == []


# ---------------------------------------------------------------- what is read


def test_all_names(aged: None, any_root: Path) -> None:
    """Only what is certainly no folder, nor a link, is said to be none."""
    (any_root / "folder").mkdir()
    (any_root / "link").symlink_to("folder")
    (any_root / "broken").symlink_to("nothing")
    (any_root / ".hidden").touch()
    (any_root / "file").touch()
    (any_root / "same").hardlink_to(any_root / "file")
    os.mkfifo(any_root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(any_root / "socket"))
    odd = [b"\xff\xfe", b" ", b"a\nb", "é".encode(), b"\\", b"x" * 255]
    for name in odd:
        os.close(os.open(os.fsencode(any_root) + b"/" + name, os.O_CREAT))
    found = read(any_root)
    assert found.folders == {*DOTS, b"folder", b"link", b"broken"}
    assert found.others == {b".hidden", b"file", b"same", b"fifo", b"socket", *odd}
    assert found.ctime_ns == any_root.stat().st_ctime_ns


def test_a_disk_that_does_not_say_what_is_a_folder(aged: None, place: Path) -> None:
    """Then anything may be one."""
    with loop_disk(place, "ext4", make=["-O", "^filetype"]) as mount:
        (mount / "file").touch()
        assert read(mount) == (
            {*DOTS, b"lost+found", b"file"},
            set(),
            mount.stat().st_ctime_ns,
        )


def test_many_names(aged: None, any_root: Path) -> None:
    """More than the kernel gives at a time."""
    expected = {b"%06d" % number + b"-" * (number % 200) for number in range(3000)}
    for name in expected:
        os.close(os.open(os.fsencode(any_root) + b"/" + name, os.O_CREAT))
    assert read(any_root, 3002).others == expected


def test_an_empty_folder(aged: None, any_root: Path) -> None:
    assert read(any_root) == (DOTS, set(), any_root.stat().st_ctime_ns)


def test_not_too_many(aged: None, root: Path) -> None:
    for number in range(600):  # one part of what the kernel gives, and a bit
        (root / str(number)).touch()
    assert len(read(root, 602).others) == 600
    assert errno_of(lambda: read(root, 601)) == errno.E2BIG


def test_what_is_no_folder(root: Path) -> None:
    (root / "file").touch()
    assert errno_of(lambda: read(root / "file")) == errno.ENOTDIR


def test_a_libc_without_getdents64(aged: None, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_releasing_gil", {})
    monkeypatch.setattr(kernel, "_function", lambda *_: (_ for _ in ()).throw(AttributeError))
    kernel._getdents64.cache_clear()
    try:
        assert errno_of(lambda: read(root)) == errno.ENOSYS
    finally:
        kernel._getdents64.cache_clear()


def test_a_disk_that_fails(aged: None, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(kernel, "getdents64", fail)
    assert errno_of(lambda: read(root)) == errno.EIO


def test_no_room_for_the_answer(aged: None, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory: what is there already is given back."""
    (root / "file").touch()
    create = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda name: _full(create(name)))
    assert errno_of(lambda: read(root)) == errno.EBADF


def _full(memory: int) -> int:
    """It can be read, and no more."""
    again = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY)
    os.close(memory)
    return again


@needs("fuse")
async def test_the_gil_is_given_away(fuse: FuseDisk, fuse_root: Path) -> None:
    """Else the loop would wait for the disk as well, and the rescuer come."""
    (fuse.backing / fuse_root.name / "file").touch()
    fd = os.open(fuse_root, os.O_RDONLY)
    fuse.hang("readdir")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            in_thread, lambda: kernel.getdents64(fd, ctypes.create_string_buffer(99))
        )
        await in_thread(fuse.wait_hanging)
        await loop_turns(100)
        fuse.release()
    os.close(fd)


# ---------------------------------------------------------------- where names can be trusted


@needs("nobody")
def test_a_folder_that_may_not_be_read(root: Path) -> None:
    (root / "closed").mkdir(mode=0o711)
    (root / "open").mkdir()
    assert as_stranger("names_errno", root / "closed") == errno.EACCES
    assert as_stranger("names_errno", root / "open") == 0


@needs("overlay")
def test_a_stacked_file_system(aged: None, overlay_root: Path) -> None:
    """What is written into the lower directory is seen, and changes no stamp."""
    assert errno_of(lambda: read(overlay_root)) == errno.EOPNOTSUPP


@needs("fuse")
def test_a_file_system_of_others(aged: None, fuse_root: Path) -> None:
    assert errno_of(lambda: read(fuse_root)) == errno.EOPNOTSUPP


def test_encrypted_names(aged: None, place: Path) -> None:
    """They are others as soon as the key is there, and no stamp says so."""
    options = "test_dummy_encryption"  # what is made from now on is encrypted
    with loop_disk(place, "ext4", make=["-O", "encrypt"], options=options) as mount:
        read(mount)
        (mount / "folder").mkdir()
        assert errno_of(lambda: read(mount / "folder")) == errno.EOPNOTSUPP


# Many kernels cannot mount disks that fold names, also those of CI, which misses no test of the
# others: so these two are long ones. What is read there is simulated further below.


@pytest.mark.long
@needs("casefold")
def test_folded_names_on_ext4(aged: None, place: Path) -> None:
    with loop_disk(place, "ext4", make=["-O", "casefold"]) as mount:
        (mount / "folded").mkdir()
        (mount / "plain").mkdir()
        subprocess.run(["chattr", "+F", mount / "folded"], check=True)
        (mount / "folded/Name").touch()
        assert (mount / "folded/nAME").exists()
        assert errno_of(lambda: read(mount / "folded")) == errno.EOPNOTSUPP
        assert read(mount / "plain").folders == DOTS


@pytest.mark.long
@needs("ascii-ci")
def test_folded_names_on_xfs(aged: None, place: Path) -> None:
    with loop_disk(place, "xfs", make=["-n", "version=ci"]) as mount:
        (mount / "Name").touch()
        assert (mount / "nAME").exists()
        assert errno_of(lambda: read(mount)) == errno.EOPNOTSUPP


class Ioctls:
    """What the kernel says of a directory and its file system, but for what a test says."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, number: int, answer: bytes | OSError
    ) -> None:
        self._ioctl, self._number, self._answer = fcntl.ioctl, number, answer
        monkeypatch.setattr(fcntl, "ioctl", self)

    def __call__(self, fd: int, number: int, buffer: bytes) -> bytes:
        if number != self._number:
            return self._ioctl(fd, number, buffer)
        if isinstance(self._answer, OSError):
            raise self._answer
        assert len(buffer) == len(self._answer)
        return self._answer


@pytest.mark.parametrize("flag", [FS_CASEFOLD_FL, FS_ENCRYPT_FL])
def test_flags_that_say_so(
    flag: int, aged: None, any_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ioctls(monkeypatch, FS_IOC_GETFLAGS, (flag | FS_EXTENT_FL).to_bytes(4, sys.byteorder))
    assert errno_of(lambda: read(any_root)) == errno.EOPNOTSUPP


def test_other_flags_say_nothing(
    aged: None, any_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ~(FS_CASEFOLD_FL | FS_ENCRYPT_FL) & 0xFFFFFFFF
    Ioctls(monkeypatch, FS_IOC_GETFLAGS, others.to_bytes(4, sys.byteorder))
    assert read(any_root).folders == DOTS


def test_no_flags_at_all(aged: None, any_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old tmpfs has none, and folds no names; elsewhere nobody knows."""
    Ioctls(monkeypatch, FS_IOC_GETFLAGS, OSError(errno.ENOTTY, ""))
    if "tmpfs" in str(any_root):
        assert read(any_root).folders == DOTS
    else:
        assert errno_of(lambda: read(any_root)) == errno.ENOTTY


def test_an_xfs_that_folds_names(
    aged: None, xfs_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the kernel's answer is changed by one bit; see xfs_fs.h."""
    fd = os.open(xfs_root, os.O_RDONLY)
    geometry = fcntl.ioctl(fd, XFS_IOC_FSGEOMETRY_V1, bytes(112))
    os.close(fd)
    block_size, _, _, _, flags = struct.unpack_from("=IIII76xI", geometry)
    assert block_size == os.statvfs(xfs_root).f_bsize
    assert flags & XFS_FSOP_GEOM_FLAGS_V5SB, "this is where the flags are"
    assert not flags & XFS_FSOP_GEOM_FLAGS_DIRV2CI
    folding = struct.pack("=I", flags | XFS_FSOP_GEOM_FLAGS_DIRV2CI)
    Ioctls(monkeypatch, XFS_IOC_FSGEOMETRY_V1, geometry[:92] + folding + geometry[96:])
    assert errno_of(lambda: read(xfs_root)) == errno.EOPNOTSUPP


# ---------------------------------------------------------------- two changes in one tick


def test_a_change_must_be_three_seconds_old(
    any_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctime_ns = any_root.stat().st_ctime_ns
    for age, is_old in ((3 * SECOND, True), (3 * SECOND - 1, False), (-SECOND, False)):
        monkeypatch.setattr(time, "time_ns", lambda age=age: ctime_ns + age)
        if is_old:
            assert read(any_root).ctime_ns == ctime_ns
        else:
            assert errno_of(lambda: read(any_root)) == errno.EBUSY


def test_two_changes_in_one_tick(place: Path) -> None:
    """Small inodes have no room for more than seconds, as ext3 had none."""
    with loop_disk(place, "ext4", make=["-I", "128"]) as mount:
        for number in range(100):
            (mount / f"{number}-first").touch()
            before = mount.stat().st_ctime_ns
            assert before % SECOND == 0
            error = errno_of(lambda: read(mount))
            (mount / f"{number}-second").touch()
            if mount.stat().st_ctime_ns == before:  # so what was read would be taken to hold
                assert error == errno.EBUSY
                return
    pytest.fail("never two changes in one second")


def test_a_change_while_the_names_are_read(
    aged: None, any_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any point: after the first part of them, in between, and after the last."""
    for number in range(2000):
        (any_root / str(number)).touch()
    getdents64 = kernel.getdents64
    done, change_at = 0, 0

    def changing(*arguments: Any) -> bytes:
        nonlocal done
        part = getdents64(*arguments)
        done += 1
        if done == change_at:
            a_tick_later(any_root)
            (any_root / "change").touch()
        return part

    monkeypatch.setattr(kernel, "getdents64", changing)
    read(any_root, 3000)
    last, change_at = done, 1
    assert last >= 3, "two parts, and the end"
    while change_at <= last:
        done = 0
        assert errno_of(lambda: read(any_root, 3000)) == errno.EBUSY
        (any_root / "change").unlink()
        change_at += 1
