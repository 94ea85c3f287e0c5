"""The system calls do what their docstrings say, on real files."""

import builtins
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.disk.support import MIB, as_stranger, elsewhere, mappings
from tests.rig import NOBODY, evict, load, needs, resident_pages
from trio_amped.disk import kernel
from trio_amped.disk.kernel import PAGE, ShadowMapping

pytestmark = needs("root", "loop")


@pytest.fixture
def file(root: Path) -> Path:
    """16 pages and a bit, none of them in memory."""
    path = root / "file"
    path.write_bytes(os.urandom(16 * PAGE + 100))
    evict(path)
    return path


@pytest.fixture
def fd(file: Path) -> Iterator[int]:
    fd = os.open(file, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
    yield fd
    os.close(fd)


def touch(fd: int, *pages: int) -> None:
    """Bring these pages into memory, and no others."""
    for page in pages:
        os.pread(fd, 1, page * PAGE)


# ---------------------------------------------------------------- openat2


def test_openat2_opens_and_says_why_not(root: Path) -> None:
    (root / "file").touch()
    directory = os.open(root, os.O_PATH)
    try:
        fd = kernel.openat2(directory, b"file", os.O_RDONLY, kernel.RESOLVE_BENEATH)
        assert not os.get_inheritable(fd)
        os.close(fd)
        with pytest.raises(FileNotFoundError) as caught:
            kernel.openat2(directory, b"none", os.O_RDONLY, 0)
        assert caught.value.strerror == os.strerror(errno.ENOENT)
        for path in (b"\0", b"file\0", b"file\0name"):
            with pytest.raises(OSError, match="NUL") as caught_nul:
                kernel.openat2(directory, path, os.O_RDONLY, 0)
            assert caught_nul.value.errno == errno.EINVAL
    finally:
        os.close(directory)


@pytest.fixture
def asked_again() -> Iterator[None]:
    """Answers that are remembered for the life of the process are asked for anew."""
    questions = (kernel.has_openat2, kernel.all_owners_are_mapped)
    for question in questions:
        question.cache_clear()
    yield
    for question in questions:
        question.cache_clear()


@pytest.mark.usefixtures("asked_again")
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, True),
        (errno.EAGAIN, True),  # RESOLVE_CACHED, and "." is not in the caches
        (errno.EACCES, True),
        (errno.ENOSYS, False),  # before Linux 5.6
        (errno.EINVAL, False),  # before 5.12, of RESOLVE_CACHED
        (errno.EPERM, False),  # a seccomp filter
    ],
)
def test_has_openat2(number: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
        asked.append(resolve)
        if number:
            raise OSError(number, os.strerror(number))
        return os.open(path, flags)

    monkeypatch.setattr(kernel, "openat2", openat2)
    assert kernel.has_openat2(kernel.RESOLVE_CACHED) is expected
    assert kernel.has_openat2(kernel.RESOLVE_CACHED) is expected
    assert asked == [kernel.RESOLVE_CACHED], "it is asked once"


# ---------------------------------------------------------------- who is told the truth


@needs("nobody")
def test_may_write(root: Path, file: Path) -> None:
    with file.open("rb") as opened:
        assert kernel.may_write(opened.fileno())
    assert not kernel.may_write(-1)
    assert as_stranger("may_write", file) is False
    file.chmod(0o666)
    assert as_stranger("may_write", file) is True


@needs("nobody")
def test_has_fowner() -> None:
    assert kernel.has_fowner()
    assert as_stranger("has_fowner") is False
    without = ["setpriv", "--bounding-set=-fowner", "--inh-caps=-fowner"]
    assert elsewhere(lambda argv: [*without, *argv], "has_fowner") is False, "root without it"
    assert elsewhere(lambda argv: argv, "drop_fowner") == [True, False], (
        "asked each time: a server may drop it"
    )


def test_has_fowner_when_the_kernel_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_capget", lambda *_: -1)
    assert not kernel.has_fowner()


@pytest.mark.usefixtures("asked_again")
def test_all_owners_are_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel.all_owners_are_mapped()
    user_namespace = ["unshare", "--user", "--map-root-user"]
    facts = elsewhere(lambda argv: [*user_namespace, *argv], "namespace")
    assert facts == {"all": False, "fowner": True, "own": True, "overflow": False, "mapped": True}

    kernel.all_owners_are_mapped.cache_clear()

    def open_nothing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(builtins, "open", open_nothing)
    assert kernel.all_owners_are_mapped(), "a kernel without user namespaces"


@pytest.mark.parametrize(
    ("uid", "euid", "fowner", "all_mapped", "expected"),
    [
        (1000, 1000, False, True, True),
        (1000, 1001, False, True, False),
        (0, 1001, False, True, False),
        (1000, 0, False, True, False),  # root in a container without the capability
        (1000, 0, True, True, True),
        (1000, 0, True, False, True),
        (NOBODY, NOBODY, False, True, True),
        (NOBODY, 0, True, True, True),
        (NOBODY, NOBODY, False, False, False),  # anybody at all from outside of the namespace
        (NOBODY, 0, True, False, False),
    ],
)
def test_owns(
    uid: int,
    euid: int,
    fowner: bool,
    all_mapped: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(kernel, "has_fowner", lambda: fowner)
    monkeypatch.setattr(kernel, "all_owners_are_mapped", lambda: all_mapped)
    assert kernel.owns(uid) is expected


# ---------------------------------------------------------------- file systems


@needs("tmpfs", "overlay", "fuse")
def test_file_system(root: Path, request: pytest.FixtureRequest) -> None:
    expected = {
        "root": "ext4",
        "tmpfs_root": "tmpfs",
        "overlay_root": "overlayfs",
        "fuse_root": "fuse",
    }
    for fixture, name in expected.items():
        fd = os.open(request.getfixturevalue(fixture), os.O_PATH)
        try:
            assert kernel.FILE_SYSTEMS[kernel.file_system(fd)] == name
        finally:
            os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.file_system(-1)


# ---------------------------------------------------------------- the mapping that is never read


def test_resident_is_the_prefix_without_a_gap(fd: int) -> None:
    size = os.fstat(fd).st_size
    mapping = ShadowMapping(fd, size)
    try:
        assert mapping.resident(0, size) == 0
        touch(fd, 0, 1, 2, 4, 16)
        assert mapping.resident(0, size) == 3 * PAGE
        assert mapping.resident(0, 3 * PAGE) == 3 * PAGE
        assert mapping.resident(0, 1) == 1
        assert mapping.resident(PAGE + 100, size) == 2 * PAGE - 100
        assert mapping.resident(PAGE + 100, 50) == 50
        assert mapping.resident(3 * PAGE, PAGE) == 0
        assert mapping.resident(3 * PAGE + 1, PAGE) == 0
        assert mapping.resident(3 * PAGE - 1, 2) == 1
        assert mapping.resident(4 * PAGE, 2 * PAGE) == PAGE
        assert mapping.resident(16 * PAGE, 100) == 100, "the last page is not a whole one"
        assert mapping.resident(16 * PAGE + 50, 50) == 50
        assert mapping.resident(15 * PAGE, PAGE + 100) == 0
    finally:
        mapping.close()


def test_looking_brings_nothing_into_memory(file: Path, fd: int) -> None:
    for _ in range(3):
        mapping = ShadowMapping(fd, 16 * PAGE)
        mapping.resident(0, 16 * PAGE)
        mapping.close()
    assert resident_pages(file) == 0


def test_eviction_is_seen(file: Path, fd: int) -> None:
    """The mapping must not keep pages from being evicted (those that are mapped are)."""
    mapping = ShadowMapping(fd, 16 * PAGE)
    try:
        load(file)
        assert mapping.resident(0, 16 * PAGE) == 16 * PAGE
        evict(file)
        assert mapping.resident(0, 16 * PAGE) == 0
    finally:
        mapping.close()


def test_the_mapping_cannot_be_read(file: Path, fd: int) -> None:
    mapping = ShadowMapping(fd, 16 * PAGE)
    (line,) = mappings(file)
    assert line.split()[1] == "---s"
    mapping.close()
    assert not mappings(file)
    program = (
        "import ctypes, os, sys; from trio_amped.disk.kernel import ShadowMapping; "
        "mapping = ShadowMapping(os.open(sys.argv[1], os.O_RDONLY), 4096); "
        "mapping.resident(0, 4096); ctypes.string_at(mapping._address, 1)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)])
    assert done.returncode == -signal.SIGSEGV


def test_what_cannot_be_mapped(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="No such device"):
            ShadowMapping(fd, PAGE)
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        ShadowMapping(-1, PAGE)


def test_mincore_can_fail(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = ShadowMapping(fd, PAGE)
    mapping.close()
    monkeypatch.setattr(mapping, "_address", 1 << 46)  # where nothing is mapped
    with pytest.raises(OSError, match="Cannot allocate memory"):
        mapping.resident(0, PAGE)


@needs("nobody")
def test_mincore_lies_to_strangers(file: Path) -> None:
    """What the whole page gate is about: this file is not in memory at all."""
    assert resident_pages(file) == 0
    size = file.stat().st_size
    assert as_stranger("raw_mincore", file) == size
    assert resident_pages(file) == 0
    file.chmod(0o666)
    assert as_stranger("raw_mincore", file) == 0, "it may be written: mincore says the truth"


# ---------------------------------------------------------------- bringing pages into memory


@pytest.mark.parametrize(
    ("offset", "length", "pages"),
    [
        (0, 16 * PAGE, range(16)),
        (0, 1, range(1)),
        (4 * PAGE, 2 * PAGE, range(4, 6)),
        (4 * PAGE - 1, 2, range(3, 5)),
        (16 * PAGE, 100, range(16, 17)),
    ],
)
def test_populate(fd: int, file: Path, offset: int, length: int, pages: range) -> None:
    kernel.populate(fd, offset, length)
    mapping = ShadowMapping(fd, file.stat().st_size)
    assert all(mapping.resident(page * PAGE, 1) for page in pages)
    mapping.close()
    assert not mappings(file), "pages that stay mapped are hard to evict"
    evict(file)


@pytest.mark.parametrize(
    ("damage", "offset", "length", "number"),
    [
        (lambda path: os.truncate(path, PAGE), 0, 16 * PAGE, errno.EFAULT),  # no SIGBUS
        (lambda path: os.truncate(path, 0), 0, PAGE, errno.EFAULT),
        (lambda path: None, 0, 0, errno.EINVAL),
    ],
)
def test_populate_reports_what_would_be_sigbus(
    fd: int,
    file: Path,
    damage: Callable[[Path], None],
    offset: int,
    length: int,
    number: int,
) -> None:
    damage(file)
    with pytest.raises(OSError) as caught:  # noqa: PT011 (its number says which)
        kernel.populate(fd, offset, length)
    assert caught.value.errno == number
    assert not mappings(file)


def test_populate_wants_a_file() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError, match="No such device"):
        kernel.populate(ours.fileno(), 0, MIB)
