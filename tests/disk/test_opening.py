"""Paths are opened below the root or not at all, and never wait for what is not a file."""

import builtins
import contextlib
import errno
import io
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disk.support import as_stranger, descriptors, make_link, opened_at
from tests.rig import FuseDisk, forget_names, needs
from trio_amped.disk import kernel, opening
from trio_amped.disk.opening import ST_NOATIME, ST_RELATIME, Opened, Status, Volume

EXT4, TMPFS, FUSE = 0xEF53, 0x01021994, 0x65735546
SECOND = 10**9
DAY = 86_400 * SECOND

pytestmark = needs("root", "loop")


@pytest.fixture
def tree(root: Path) -> Path:
    """A root with all kinds of names in it, and a secret beside it."""
    (root / "secret").write_text("secret")
    inside = root / "inside"
    (inside / "folder" / "below").mkdir(parents=True)
    (inside / "file").write_text("file")
    (inside / "folder" / "below" / "file").write_text("below")
    links = {
        "link": "file",
        "link_below": "folder/below/file",
        "link_to_folder": "folder",
        "folder/up": "../file",
        "absolute": str(inside / "file"),
        "out": "../secret",
        "out_by_detour": "folder/../../secret",
        "out_folder": "..",
        "loop": "loop",
        "dangling": "nothing",
        "magic": "/proc/self/cwd",
    }
    for name, target in links.items():
        make_link(inside / name, target)
    return inside


@pytest.fixture
def fd(tree: Path) -> Iterator[int]:
    fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def in_caches(root: int, path: bytes) -> Opened:
    """Where the kernel says EAGAIN a few times, it means it: a rename or a mount anywhere on the
    machine, and another process that drops the caches, make it say so now and then."""
    for _ in range(3):
        with contextlib.suppress(BlockingIOError):
            return opening.open_cached(root, path, Volume(EXT4, 0))
    return opening.open_cached(root, path, Volume(EXT4, 0))


def without_openat2(root: int, path: bytes) -> Opened:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "has_openat2", lambda resolve: False)
        patch.setattr(kernel, "openat2", None)
        return opening.open_waiting(root, path)


Opener = Callable[[int, bytes], Opened]
EVERY_WAY = pytest.mark.parametrize("way", [in_caches, opening.open_waiting, without_openat2])
BY_OPENAT2 = pytest.mark.parametrize("way", [in_caches, opening.open_waiting])


def content(found: Opened) -> bytes:
    try:
        return os.read(found.descriptor, 100)
    finally:
        os.close(found.descriptor)


def refuses(way: Opener, fd: int, path: bytes, number: int) -> None:
    """It fails with this errno; the caches alone may say EAGAIN to anything."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the number is what is asked for)
        os.close(way(fd, path).descriptor)
    if way is not in_caches or caught.value.errno != errno.EAGAIN:
        assert caught.value.errno == number


# ---------------------------------------------------------------- files


@EVERY_WAY
def test_a_file_and_all_that_is_known_of_it(way: Opener, fd: int, tree: Path) -> None:
    found = way(fd, b"folder/below/file")
    st_result = os.stat(tree / "folder/below/file")
    try:
        assert os.fstat(found.descriptor) == st_result
        assert not os.get_inheritable(found.descriptor)
        assert not os.get_blocking(found.descriptor)
        status = found.status
        assert status.is_regular
        assert not status.is_directory
        assert (status.device, status.inode) == (st_result.st_dev, st_result.st_ino)
        assert (status.mode, status.uid) == (st_result.st_mode, st_result.st_uid)
        assert status.size == 5
        assert status.mtime_ns == st_result.st_mtime_ns
        assert status.ctime_ns == st_result.st_ctime_ns
        assert status.atime_ns == st_result.st_atime_ns
        assert found.volume.magic == EXT4
    finally:
        os.close(found.descriptor)


@EVERY_WAY
@pytest.mark.parametrize("path", [b"", b"."])
def test_the_root_itself(way: Opener, path: bytes, fd: int, tree: Path) -> None:
    found = way(fd, path)
    os.close(found.descriptor)
    assert found.status.is_directory
    assert found.status.inode == tree.stat().st_ino


@EVERY_WAY
@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"nothing", errno.ENOENT),
        (b"nothing/below", errno.ENOENT),
        (b"file/below", errno.ENOTDIR),
        (b"x" * 300, errno.ENAMETOOLONG),
        (b"folder/" + b"x" * 300, errno.ENAMETOOLONG),
        (b"x/" * 3000, errno.ENAMETOOLONG),
        (b"loop", errno.ELOOP),
    ],
)
def test_no_such_file(way: Opener, path: bytes, number: int, fd: int) -> None:
    if way is without_openat2 and path == b"x/" * 3000:
        number = errno.ENOENT  # it is walked name by name
    refuses(way, fd, path, number)


# ---------------------------------------------------------------- nothing outside of the root


@BY_OPENAT2
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"link", b"file"),
        (b"link_below", b"below"),
        (b"link_to_folder/below/file", b"below"),
        (b"folder/up", b"file"),
        (b"folder/../file", b"file"),
    ],
)
def test_links_inside_are_followed(way: Opener, path: bytes, expected: bytes, fd: int) -> None:
    os.close(opening.open_waiting(fd, path).descriptor)  # the names are in the caches now
    assert content(way(fd, path)) == expected


@BY_OPENAT2
@pytest.mark.parametrize(
    "path",
    [
        b"..",
        b"../secret",
        b"folder/../../secret",
        b"../inside/file",
        b"/etc/passwd",
        b"/",
        b"out",
        b"out_by_detour",
        b"out_folder/secret",
        b"absolute",  # even though it leads back inside
        b"magic",
        b"dangling/../../secret",
    ],
)
def test_nothing_outside_is_opened(way: Opener, path: bytes, fd: int) -> None:
    expected = errno.ENOENT if path.startswith(b"dangling") else errno.EXDEV
    refuses(way, fd, path, expected)


@BY_OPENAT2
@pytest.mark.parametrize("path", [b"self/fd/0", b"self/cwd", b"self/root/etc/passwd"])
def test_magic_links_are_not_followed(way: Opener, path: bytes) -> None:
    """With /proc for a root, RESOLVE_NO_MAGICLINKS is what refuses them."""
    proc = os.open("/proc", os.O_PATH)
    try:
        path = path.replace(b"self", b"%d" % os.getpid())
        refuses(way, proc, path, errno.ELOOP)
    finally:
        os.close(proc)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"link", errno.ELOOP),
        (b"absolute", errno.ELOOP),
        (b"out", errno.ELOOP),
        (b"link_to_folder/below/file", errno.ENOTDIR),
        (b"out_folder/secret", errno.ENOTDIR),
        (b"/etc/passwd", errno.ENOENT),
        (b"folder//below/file", errno.ENOENT),
    ],
)
def test_without_openat2_no_link_is_followed(path: bytes, number: int, fd: int) -> None:
    refuses(without_openat2, fd, path, number)
    assert content(without_openat2(fd, b"folder/below/file")) == b"below"


@pytest.mark.parametrize(
    "path", [b"link", b"link_to_folder/below", b"out_folder/secret", b"../inside"]
)
def test_without_openat2_nothing_is_known_of_what_links_lead_to(
    path: bytes, fd: int, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "has_openat2", lambda resolve: False)
    with pytest.raises(OSError):  # noqa: PT011 (any will do)
        opening.identify_waiting(fd, path, True)
    found = (tree / "folder/below/file").stat()
    assert opening.identify_waiting(fd, b"folder/below/file", True) == (found.st_dev, found.st_ino)


@pytest.mark.parametrize("path", [b"../secret", b"folder/../../secret"])
def test_without_openat2_nothing_outside_is_opened(path: bytes, fd: int) -> None:
    with pytest.raises(OSError, match="cross-device"):
        os.close(without_openat2(fd, path).descriptor)


def test_without_openat2_a_nul_is_an_error_like_others(fd: int) -> None:
    refuses(without_openat2, fd, b"file\0", errno.EINVAL)


def test_without_openat2_no_descriptor_is_left(fd: int, tree: Path) -> None:
    before = descriptors(tree)
    for path in (b"folder/below/nothing", b"folder/nothing/file", b"nothing/file"):
        refuses(without_openat2, fd, path, errno.ENOENT)
    assert descriptors(tree) == before


# ---------------------------------------------------------------- what is not a file


@EVERY_WAY
def test_fifos_sockets_and_devices_do_not_hold_the_open(way: Opener, fd: int, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(tree / "nobody", stat.S_IFCHR | 0o600, os.makedev(240, 255))
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(tree, os.O_PATH)
        listener.bind(f"/proc/self/fd/{directory}/socket")  # a short name for a long one
        os.close(directory)
        for name in (b"fifo", b"null"):
            found = way(fd, name)
            os.close(found.descriptor)
            assert not found.status.is_regular
            assert not found.status.is_directory
        for name in (b"socket", b"nobody"):
            refuses(way, fd, name, errno.ENXIO)


# ---------------------------------------------------------------- only from the caches


def test_a_name_that_was_not_looked_up_is_not_in_the_caches(fd: int) -> None:
    os.close(in_caches(fd, b"file").descriptor)
    forget_names()
    with pytest.raises(BlockingIOError):
        in_caches(fd, b"folder/below/file")
    os.close(opening.open_waiting(fd, b"folder/below/file").descriptor)
    os.close(in_caches(fd, b"folder/below/file").descriptor)


def test_can_open_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opening.can_open_cached()
    asked: list[int] = []
    monkeypatch.setattr(kernel, "has_openat2", asked.append)
    assert not opening.can_open_cached()
    (resolve,) = asked
    needed = (
        kernel.RESOLVE_CACHED
        | kernel.RESOLVE_NO_XDEV
        | kernel.RESOLVE_BENEATH
        | kernel.RESOLVE_NO_MAGICLINKS
    )
    assert resolve == needed


@needs("tmpfs", "fuse")
def test_a_mount_below_the_root_is_for_a_helper(tmpfs_root: Path, fuse_root: Path) -> None:
    for mount, name in ((tmpfs_root, "tmpfs"), (fuse_root, "fuse")):
        (mount / "file").write_text("other")
        fd = os.open(mount.parent.parent, os.O_PATH)
        path = os.fsencode(mount.relative_to(mount.parent.parent) / "file")
        try:
            refuses(in_caches, fd, path, errno.EXDEV)
            found = opening.open_waiting(fd, path)
            assert found.volume.name == name
            assert content(found) == b"other"
            refuses(in_caches, fd, path, errno.EXDEV)
        finally:
            os.close(fd)


# ---------------------------------------------------------------- O_NOATIME


@BY_OPENAT2
def test_noatime_is_granted_to_the_owner(way: Opener, fd: int) -> None:
    found = way(fd, b"file")
    os.close(found.descriptor)
    assert found.noatime


@needs("nobody")
def test_noatime_is_refused_to_strangers(tree: Path) -> None:
    assert as_stranger("open_facts", tree / "file") == {
        "gate": "nowait",
        "noatime": False,
        "is_due": True,
    }
    os.chown(tree / "file", 65534, 65534)
    assert as_stranger("open_facts", tree / "file") == {
        "gate": "mincore",
        "noatime": True,
        "is_due": False,
    }
    (tree / "file").chmod(0)
    assert as_stranger("open_error", tree, "file", "auto") == errno.EACCES
    assert as_stranger("open_error", tree, "file", "always") == errno.EACCES


@BY_OPENAT2
def test_a_refusal_that_is_not_about_noatime_is_final(
    way: Opener, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def openat2(root: int, path: bytes, flags: int, resolve: int) -> int:
        asked.append(flags)
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(kernel, "openat2", openat2)
    refuses(way, fd, b"file", errno.EACCES)
    assert len(asked) == 1
    assert asked[0] & os.O_NOATIME


@BY_OPENAT2
def test_a_stranger_asks_again_without_noatime(
    way: Opener, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = kernel.openat2

    def openat2(root: int, path: bytes, flags: int, resolve: int) -> int:
        if flags & os.O_NOATIME:
            raise PermissionError(errno.EPERM, "not the owner")
        return real(root, path, flags, resolve)

    os.close(opening.open_waiting(fd, b"file").descriptor)  # its name is in the caches
    monkeypatch.setattr(kernel, "openat2", openat2)
    found = way(fd, b"file")
    assert not found.noatime
    assert content(found) == b"file"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("name", ["of", "volume_of"])
def test_a_descriptor_is_not_lost_on_an_error(
    name: str, fd: int, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors(tree)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(Status if name == "of" else opening, name, fail)
    with pytest.raises(OSError, match="broken"):
        opening.open_waiting(fd, b"file")
    with pytest.raises(OSError, match="broken"):
        opening.open_root_waiting(os.fsencode(tree))
    assert descriptors(tree) == before


@pytest.mark.parametrize("races", [0, 1, 8, 9])
def test_a_race_with_a_rename_is_tried_again(
    races: int, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = kernel.openat2, races

    def openat2(*arguments: object) -> int:
        nonlocal left
        left -= 1
        if left >= 0:
            raise BlockingIOError(errno.EAGAIN, "raced")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel, "openat2", openat2)
    if races == 9:
        with pytest.raises(BlockingIOError):
            opening.open_waiting(fd, b"file")
    else:
        assert content(opening.open_waiting(fd, b"file")) == b"file"


# ---------------------------------------------------------------- the root


def test_the_root_is_opened_through_links(tree: Path) -> None:
    link = tree.parent / "current"
    make_link(link, "inside")
    found = opening.open_root_waiting(os.fsencode(link))
    os.close(found.descriptor)
    cached = opening.open_root_cached(os.fsencode(link))
    assert os.fstat(cached).st_ino == found.status.inode == tree.stat().st_ino
    os.close(cached)
    for path, error in ((tree / "file", NotADirectoryError), (tree / "none", FileNotFoundError)):
        for way in (opening.open_root_waiting, opening.open_root_cached):
            with pytest.raises(error):
                way(os.fsencode(path))
    forget_names()
    with pytest.raises(BlockingIOError):
        opening.open_root_cached(os.fsencode(tree.parent / "never looked up"))


@needs("fuse")
def test_the_identity_of_a_directory_is_known_without_asking_its_disk(
    tree: Path, fuse: FuseDisk
) -> None:
    directories = [os.open(path, os.O_PATH) for path in (tree, tree / ".", tree.parent, fuse.path)]
    fuse.hang("getattr")
    try:
        one, same, *others = map(opening.identity, directories)
        assert one == same
        assert None not in (one, *others)
        assert one not in others
        assert len(set(others)) == 2
        assert fuse.hanging() == 0
    finally:
        fuse.release()
        for directory in directories:
            os.close(directory)


def test_a_kernel_that_does_not_show_the_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"pos:\t0\nflags:\t010000000\nmnt_id:\t29\n"  # before Linux 5.15
    monkeypatch.setattr(builtins, "open", lambda *_, **__: io.BytesIO(text))
    assert opening.identity(0) is None


def test_a_read_of_proc_that_cannot_be_now(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    monkeypatch.setattr(file, "read", lambda _: None)  # EAGAIN
    monkeypatch.setattr(builtins, "open", lambda *_, **__: file)
    assert opening.identity(0) is None


def test_without_proc_nothing_is_known_of_a_descriptor() -> None:
    assert opening.identity(1_000_000) is None


# ---------------------------------------------------------------- values

UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
STATUS = st.builds(
    Status, UINT32, UINT32, UINT64, UINT64, INT64, INT64, INT64, INT64, UINT32, UINT64
)


@given(STATUS, UINT32, UINT64, st.booleans())
def test_facts_survive(status: Status, magic: int, flags: int, noatime: bool) -> None:
    found = Opened(7, status, Volume(magic, flags), noatime)
    again = opening.unpack_facts(7, opening.pack_facts(found))
    assert again == found
    assert isinstance(again.status, Status)
    assert isinstance(again.volume, Volume)


NOW = 20_000 * DAY


@pytest.mark.parametrize(
    ("noatime", "mount", "atime", "mtime", "ctime", "expected"),
    [
        # granted, or nobody on this mount writes access times
        (True, ST_RELATIME, 0, NOW, NOW, False),
        (True, 0, 0, NOW, NOW, False),
        (False, ST_NOATIME, 0, NOW, NOW, False),
        (False, ST_NOATIME | ST_RELATIME, 0, NOW, NOW, False),
        # strictatime
        (False, 0, NOW, 0, 0, True),
        # relatime: read since the last change, and within a day
        (False, ST_RELATIME, NOW - SECOND, NOW - 2 * SECOND, NOW - 2 * SECOND, False),
        (False, ST_RELATIME, NOW - SECOND, NOW - SECOND, NOW - 2 * SECOND, True),
        (False, ST_RELATIME, NOW - SECOND, NOW - 2 * SECOND, NOW - SECOND, True),
        (False, ST_RELATIME, NOW - 2 * SECOND, NOW - SECOND, 0, True),
        (False, ST_RELATIME, NOW - 2 * SECOND, 0, NOW - SECOND, True),
        (False, ST_RELATIME, NOW - DAY + 1, 0, 0, False),
        (False, ST_RELATIME, NOW - DAY, 0, 0, True),
        (False, ST_RELATIME, NOW + DAY, 0, 0, False),
    ],
)
def test_atime_is_due(
    noatime: bool, mount: int, atime: int, mtime: int, ctime: int, expected: bool
) -> None:
    status = Status(stat.S_IFREG, 0, 1, 1, 1, mtime, ctime, atime)
    assert Opened(0, status, Volume(EXT4, mount), noatime).atime_is_due(NOW) is expected


def test_atime_is_due_as_the_kernel_does_it(tree: Path) -> None:
    """Read it without O_NOATIME: its access time changes exactly where we say so."""
    path = tree / "file"
    changed = path.stat().st_mtime_ns
    times = [changed - DAY, changed, changed + SECOND]
    for atime in times:
        os.utime(path, ns=(atime, changed))
        with opened_at(path) as found:
            stranger = found._replace(noatime=False)
            newest = max(found.status.mtime_ns, found.status.ctime_ns)
            expected = stranger.atime_is_due(newest)
        path.read_bytes()
        assert (path.stat().st_atime_ns != atime) is expected


@pytest.mark.parametrize(
    ("magic", "name", "is_remote", "is_memory"),
    [
        (EXT4, "ext4", False, False),
        (0x794C7630, "overlayfs", False, False),
        (TMPFS, "tmpfs", False, True),
        (0x858458F6, "ramfs", False, True),
        (FUSE, "fuse", True, False),
        (0x6969, "nfs", True, False),
        (0xFF534D42, "cifs", True, False),
        (0x01021997, "9p", True, False),
        (0x1234, "file system 0x1234", True, False),  # never heard of: it may wait
    ],
)
def test_volumes(magic: int, name: str, is_remote: bool, is_memory: bool) -> None:
    volume = Volume(magic, 0)
    assert (volume.name, volume.is_remote, volume.is_memory) == (name, is_remote, is_memory)
