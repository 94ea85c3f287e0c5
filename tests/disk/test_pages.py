"""The page gate: who answers for a file, what the answer is, and that "don't know" means no."""

import errno
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disk.support import KIB, MIB, as_stranger, mappings, opened_at
from tests.rig import NOBODY, REPOSITORY, evict, load, needs, resident_pages
from trio_amped.config import GateMode
from trio_amped.disk import kernel, pages
from trio_amped.disk.descriptors import Descriptor
from trio_amped.disk.kernel import PAGE
from trio_amped.disk.loading import widened
from trio_amped.disk.opening import Opened, Status, Volume
from trio_amped.disk.pages import WINDOW, FileChanged, Gate, OpenFile, PageGate

pytestmark = needs("root", "loop")

EXT4, TMPFS, RAMFS, OVERLAY, FUSE, NFS = (
    0xEF53,
    0x01021994,
    0x858458F6,
    0x794C7630,
    0x65735546,
    0x6969,
)


def close(file: OpenFile) -> None:
    if file.mapping:
        file.mapping.close()
    file.descriptor.release()


@contextmanager
def open_file(path: Path, gate: Gate) -> Iterator[OpenFile]:
    fd = os.open(path, os.O_RDONLY)
    file = OpenFile(Descriptor(fd), Status.of(fd), gate)
    try:
        yield file
    finally:
        close(file)


@pytest.fixture
def path(root: Path) -> Path:
    path = root / "file"
    path.write_bytes(os.urandom(MIB))
    os.utime(path, (1, 10**9))
    evict(path)
    return path


# ---------------------------------------------------------------- who answers


def a_file(magic: int, uid: int) -> Opened:
    status = Status(stat.S_IFREG | 0o644, uid, 77, 1, 100, 0, 0, 0)
    return Opened(-1, status, Volume(magic, 0), noatime=True)


OWNER = {"uid": 1000, "fowner": False, "may_write": False}
WRITER = {"uid": 0, "fowner": False, "may_write": True}
FOWNER = {"uid": 0, "fowner": True, "may_write": False}
STRANGER = {"uid": 0, "fowner": False, "may_write": False}


@pytest.mark.parametrize(
    ("mode", "magic", "who", "expected"),
    [
        # auto: mincore where it is true, else nowait
        ("auto", EXT4, OWNER, Gate.MINCORE),
        ("auto", EXT4, WRITER, Gate.MINCORE),
        ("auto", EXT4, FOWNER, Gate.MINCORE),
        ("auto", EXT4, STRANGER, Gate.NOWAIT),
        ("auto", OVERLAY, OWNER, Gate.MINCORE),
        ("auto", OVERLAY, STRANGER, Gate.NOWAIT),  # until it is refused
        ("auto", TMPFS, STRANGER, Gate.MEMORY),
        ("auto", RAMFS, OWNER, Gate.MEMORY),
        ("auto", FUSE, OWNER, Gate.ALWAYS),
        ("auto", NFS, FOWNER, Gate.ALWAYS),
        # mincore: never nowait, and never a lie
        ("mincore", EXT4, OWNER, Gate.MINCORE),
        ("mincore", EXT4, STRANGER, Gate.ALWAYS),
        ("mincore", TMPFS, STRANGER, Gate.MEMORY),
        ("mincore", FUSE, OWNER, Gate.ALWAYS),
        # nowait: never mincore
        ("nowait", EXT4, OWNER, Gate.NOWAIT),
        ("nowait", EXT4, FOWNER, Gate.NOWAIT),
        ("nowait", EXT4, STRANGER, Gate.NOWAIT),
        ("nowait", TMPFS, OWNER, Gate.MEMORY),
        ("nowait", FUSE, OWNER, Gate.ALWAYS),
        # the two rivals
        ("always", EXT4, FOWNER, Gate.ALWAYS),
        ("always", TMPFS, OWNER, Gate.ALWAYS),
        ("always", FUSE, OWNER, Gate.ALWAYS),
        ("never", EXT4, STRANGER, Gate.NEVER),
        ("never", TMPFS, STRANGER, Gate.NEVER),
        ("never", FUSE, STRANGER, Gate.NEVER),
    ],
)
def test_choose(
    mode: GateMode,
    magic: int,
    who: dict[str, int],
    expected: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(kernel, "has_fowner", lambda: bool(who["fowner"]))
    monkeypatch.setattr(kernel, "may_write", lambda fd: bool(who["may_write"]))
    assert PageGate(mode).choose(a_file(magic, who["uid"])) is expected


@pytest.mark.parametrize("mode", get_args(GateMode))
@pytest.mark.parametrize("magic", [FUSE, NFS, TMPFS])
def test_nobody_asks_whose_file_it_is_where_that_does_not_matter(
    mode: GateMode, magic: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """may_write could wait, on a file system of somebody else's."""
    monkeypatch.setattr(kernel, "may_write", None)
    monkeypatch.setattr(kernel, "owns", None)
    PageGate(mode).choose(a_file(magic, 0))


@needs("nobody", "overlay", "tmpfs", "fuse")
@pytest.mark.parametrize(
    ("where", "ours", "strangers"),
    [
        ("root", "mincore", "nowait"),
        ("overlay_root", "mincore", "nowait"),  # tried, and then not again: see below
        ("tmpfs_root", "memory", "memory"),
        ("fuse_root", "always", "always"),
    ],
)
def test_choose_on_real_disks(
    where: str, ours: str, strangers: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(where) / "file"
    path.write_bytes(bytes(MIB))
    with opened_at(path) as found:
        assert PageGate("auto").choose(found) == ours
    facts = as_stranger("open_facts", path)
    assert isinstance(facts, dict)
    assert facts["gate"] == strangers
    if where == "overlay_root":  # the file below may be another's, or read-only
        path.chmod(0o666)
        facts = as_stranger("open_facts", path)
        assert isinstance(facts, dict)
        assert facts["gate"] == strangers
    elif where != "fuse_root":  # ours has no chmod
        path.chmod(0o666)
        facts = as_stranger("open_facts", path)
        assert isinstance(facts, dict)
        assert facts["gate"] == ours


# ---------------------------------------------------------------- mincore


def test_mincore_answers_with_the_prefix(path: Path) -> None:
    gate = PageGate("auto")
    with open_file(path, Gate.MINCORE) as file:
        assert gate.resident(file, 0, WINDOW) == 0
        assert gate.is_known_cold(file, 0, WINDOW)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fd, 5 * PAGE, 0)
        assert gate.resident(file, 0, WINDOW) == 5 * PAGE
        assert gate.resident(file, 2 * PAGE + 1, PAGE) == PAGE
        assert gate.resident(file, 5 * PAGE, WINDOW) == 0
        load(path)
        assert gate.resident(file, 0, WINDOW) == WINDOW
        assert gate.resident(file, MIB - 100, 100) == 100
        assert not gate.is_known_cold(file, 0, WINDOW)
        assert len(mappings(path)) == 1, "it is mapped once, and kept"
        assert mappings(path)[0].split()[1] == "---s"
    assert resident_pages(path) == MIB // PAGE


def test_asking_mincore_loads_nothing(path: Path) -> None:
    with open_file(path, Gate.MINCORE) as file:
        for offset in range(0, MIB, 64 * KIB):
            assert PageGate("auto").resident(file, offset, 64 * KIB) == 0
    assert resident_pages(path) == 0


# ---------------------------------------------------------------- RWF_NOWAIT


class Asked:
    """A spy on os.preadv: which offsets were asked about with RWF_NOWAIT."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offsets: list[int] = []
        self.error: OSError | None = None
        self.short: int | None = None
        self._preadv = os.preadv
        monkeypatch.setattr(os, "preadv", self._spy)

    def _spy(self, fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        assert flags == os.RWF_NOWAIT
        self.offsets.append(offset)
        if self.error:
            raise self.error
        if self.short is not None:
            return self.short
        return self._preadv(fd, buffers, offset, flags)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def test_nowait_is_asked_only_about_what_a_helper_has_loaded(path: Path, asked: Asked) -> None:
    gate = PageGate("nowait")
    load(path)
    with open_file(path, Gate.NOWAIT) as file:
        assert gate.resident(file, 0, WINDOW) == 0
        assert gate.is_known_cold(file, 0, WINDOW)
        assert asked.offsets == []
        gate.note_loaded(file, 0, WINDOW)
        assert not gate.is_known_cold(file, 0, WINDOW)
        assert asked.offsets == [], "that costs a copy: it is not worth it for a hint"
        assert gate.resident(file, 0, WINDOW) == WINDOW
        assert gate.resident(file, 1000, 1000) == 1000
        assert asked.offsets == [0, 1000]
        assert gate.resident(file, WINDOW, WINDOW) == 0
        assert gate.resident(file, WINDOW - PAGE, 2 * PAGE) == 0, "half of it nobody loaded"
        assert asked.offsets == [0, 1000]
        gate.note_loaded(file, WINDOW, 64 * KIB)
        assert gate.resident(file, WINDOW, 64 * KIB) == 64 * KIB
        assert gate.resident(file, WINDOW, 64 * KIB + 1) == 0
    with open_file(path, Gate.NOWAIT) as file:
        assert gate.resident(file, 0, WINDOW) == WINDOW, "the version is what is remembered"
    path.write_bytes(bytes(MIB))
    with open_file(path, Gate.NOWAIT) as file:
        assert gate.resident(file, 0, WINDOW) == 0, "another version, which nobody has loaded"


def test_nowait_answers_with_the_prefix_and_eagain_is_a_miss(path: Path) -> None:
    gate = PageGate("nowait")
    with open_file(path, Gate.NOWAIT) as file:
        gate.note_loaded(file, 0, MIB)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fd, 5 * PAGE, 0)
        assert gate.resident(file, 10, 100) == 100
        assert gate.resident(file, 0, WINDOW) == 5 * PAGE
        evict(path)
        assert gate.resident(file, 0, WINDOW) == 0, "it has been evicted since"


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EIO])
def test_other_answers_of_nowait(path: Path, asked: Asked, number: int) -> None:
    gate = PageGate("nowait")
    with open_file(path, Gate.NOWAIT) as file:
        gate.note_loaded(file, 0, MIB)
        asked.error = OSError(number, os.strerror(number))
        if number == errno.EAGAIN:
            assert gate.resident(file, 0, WINDOW) == 0
        else:
            with pytest.raises(OSError, match="Input/output error"):
                gate.resident(file, 0, WINDOW)
        assert file.gate is Gate.NOWAIT
        asked.error, asked.short = None, 0
        assert gate.resident(file, 0, WINDOW) == 0, "0 before the end: Linux 5.9 and 5.10"


def test_a_refusal_of_nowait_is_remembered_for_the_device(path: Path, asked: Asked) -> None:
    gate = PageGate("nowait")
    with open_file(path, Gate.NOWAIT) as file:
        gate.note_loaded(file, 0, MIB)
        asked.error = OSError(errno.EOPNOTSUPP, "not here")
        assert gate.resident(file, 0, WINDOW) == 0
        assert file.gate is Gate.ALWAYS
        assert gate.resident(file, 0, WINDOW) == 0
        assert asked.offsets == [0], "asked once"
        found = Opened(file.fd, file.status, Volume(EXT4, 0), noatime=True)
        assert gate.choose(found) is Gate.ALWAYS
        elsewhere = found._replace(status=found.status._replace(device=file.status.device + 1))
        assert gate.choose(elsewhere) is Gate.NOWAIT


@needs("overlay")
def test_overlayfs_refuses_nowait(overlay_root: Path) -> None:
    path = overlay_root / "file"
    path.write_bytes(bytes(MIB))
    gate = PageGate("nowait")
    with open_file(path, Gate.NOWAIT) as file:
        gate.note_loaded(file, 0, MIB)
        assert gate.resident(file, 0, WINDOW) == 0
        assert file.gate is Gate.ALWAYS


def test_the_memory_of_what_was_loaded_is_bounded(
    path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_BLOCKS", 3)
    load(path)
    gate = PageGate("nowait")
    block = 64 * KIB
    with open_file(path, Gate.NOWAIT) as file:
        gate.note_loaded(file, 0, 3 * block)
        gate.note_loaded(file, 0, block)  # again: it is the youngest now
        gate.note_loaded(file, 5 * block, block)
        loaded = [index for index in range(6) if gate.resident(file, index * block, block)]
        assert loaded == [0, 2, 5]


# ---------------------------------------------------------------- the other gates


@pytest.mark.parametrize(
    ("kind", "expected"), [(Gate.ALWAYS, 0), (Gate.MEMORY, WINDOW), (Gate.NEVER, WINDOW)]
)
def test_gates_that_ask_nobody(path: Path, kind: Gate, expected: int, asked: Asked) -> None:
    gate = PageGate("auto")
    with open_file(path, kind) as file:
        assert gate.resident(file, 0, WINDOW) == expected
        assert gate.is_known_cold(file, 0, WINDOW) is (kind is Gate.ALWAYS)
        gate.note_loaded(file, 0, WINDOW)
        assert gate.resident(file, 0, WINDOW) == expected
        assert gate.resident(file, MIB - 10, 100) == min(expected, 10)
        assert file.mapping is None
    assert asked.offsets == []


@pytest.mark.parametrize("kind", [Gate.MINCORE, Gate.NOWAIT, Gate.ALWAYS])
def test_the_first_window_is_a_helpers_where_the_access_time_is_due(
    path: Path, kind: Gate, asked: Asked
) -> None:
    gate = PageGate("auto")
    load(path)
    with open_file(path, kind) as file:
        file.must_load_first = True
        assert gate.resident(file, 0, WINDOW) == 0
        assert gate.resident(file, WINDOW, WINDOW) == 0
        assert asked.offsets == []
        assert file.mapping is None, "mmap touches the access time"
        gate.note_loaded(file, 0, WINDOW)
        assert not file.must_load_first
        assert gate.resident(file, 0, WINDOW) == (0 if kind is Gate.ALWAYS else WINDOW)


# ---------------------------------------------------------------- a file that changes


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def replace(path: Path) -> None:
    (path.parent / "new").write_bytes(b"new")
    (path.parent / "new").rename(path)


EVERY_GATE = pytest.mark.parametrize("kind", list(Gate))


@EVERY_GATE
def test_a_file_that_changed_is_noticed(path: Path, kind: Gate) -> None:
    for change in (rewrite, lambda path: os.truncate(path, 0), lambda path: os.truncate(path, 9)):
        path.write_bytes(bytes(MIB))
        os.utime(path, (1, 10**9))
        with open_file(path, kind) as file:
            gate = PageGate("auto")
            gate.resident(file, 0, WINDOW)
            change(path)
            with pytest.raises(FileChanged):
                gate.resident(file, 0, WINDOW)
            with pytest.raises(FileChanged):
                gate.clamp(file, 0, WINDOW)


@EVERY_GATE
@pytest.mark.parametrize("change", [append, replace, os.unlink])
def test_a_log_that_grows_and_a_file_that_is_replaced_go_on(
    path: Path, kind: Gate, change: object
) -> None:
    with open_file(path, kind) as file:
        file.is_settled = False
        gate = PageGate("auto")
        change(path)  # type: ignore[operator]
        assert gate.clamp(file, 0, WINDOW) == WINDOW
        assert gate.clamp(file, MIB - 100, 100) == 100
        gate.resident(file, 0, WINDOW)


def rewrite_secretly(path: Path) -> None:
    """With the date that it had; until its ctime shows that."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        with path.open("r+b") as file:
            file.write(b"x")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def link(path: Path) -> None:
    path.with_name("link").hardlink_to(path)


def forbid(path: Path) -> None:
    path.chmod(0o640)


@EVERY_GATE
@pytest.mark.parametrize("harmless", [link, forbid, replace, os.unlink])
def test_what_moves_the_ctime_alone_is_no_change(
    path: Path, kind: Gate, harmless: Callable[[Path], object]
) -> None:
    """A write whose date was put back moves nothing else; what a chmod explains, it does once."""
    other = path.with_name("other")
    other.hardlink_to(path)  # leads there whatever happens to the other name
    with open_file(path, kind) as file:
        gate = PageGate("auto")
        harmless(path)
        assert gate.clamp(file, 0, WINDOW) == WINDOW
        shared = file.shared()
        try:
            rewrite_secretly(other)
            for each in (file, shared, file):
                with pytest.raises(FileChanged):
                    gate.clamp(each, 0, WINDOW)
        finally:
            close(shared)


def test_nothing_is_said_past_the_end_that_the_file_has_now(path: Path) -> None:
    """mincore may still report the old pages, so it is not asked about them."""
    gate = PageGate("auto")
    load(path)
    with open_file(path, Gate.MINCORE) as file:
        assert gate.resident(file, MIB - PAGE, 2 * PAGE) == PAGE
        with pytest.raises(FileChanged):
            gate.resident(file, MIB, PAGE)
        os.truncate(path, 10 * PAGE)
        os.utime(path, ns=(1, file.status.mtime_ns))  # somebody hides it
        with pytest.raises(FileChanged):
            gate.resident(file, 0, MIB)


@EVERY_GATE
def test_a_file_with_a_strong_validator_may_not_even_grow(path: Path, kind: Gate) -> None:
    """`cp` of a larger file over it looks like that, and its answer would be of two versions."""
    with open_file(path, kind) as file:
        gate = PageGate("auto")
        append(path)
        with pytest.raises(FileChanged):
            gate.clamp(file, 0, WINDOW)


def test_what_cannot_be_mapped_is_for_helpers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No address space, or a file system that cannot map: "don't know", and no error."""
    gate = PageGate("auto")
    monkeypatch.setattr(kernel, "_mmap_shadow", lambda *_: 2**64 - 1)
    with open_file(path, Gate.MINCORE) as file:
        assert gate.resident(file, 0, WINDOW) == 0
        assert file.gate is Gate.ALWAYS


def test_what_was_loaded_long_ago_is_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By then even the file's extents may be gone, which RWF_NOWAIT would wait for."""
    gate = PageGate("nowait")
    load(path)
    with open_file(path, Gate.NOWAIT) as file:
        gate.note_loaded(file, 0, MIB)
        assert gate.resident(file, 0, WINDOW) == WINDOW
        monkeypatch.setattr(pages, "_REMEMBERED", -1.0)
        assert gate.resident(file, 0, WINDOW) == 0


# ---------------------------------------------------------------- arithmetic

SIZES = st.integers(1, 10 * MIB)


@given(SIZES, st.data())
def test_what_helpers_load_is_what_was_asked_for_in_whole_blocks(
    size: int, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(offset + 1, size))
    start, stop = widened(offset, end, size)
    assert start <= offset < end <= stop <= size
    assert start % (64 * KIB) == 0
    assert stop % (64 * KIB) == 0 or stop == size
    assert stop - start < end - offset + 2 * 64 * KIB
    loaded = pages._Loaded()
    loaded.add("version", start, stop - start)
    assert loaded.holds("version", offset, end - offset)
    assert not loaded.holds("other", offset, end - offset)


# ---------------------------------------------------------------- what the log says


@pytest.mark.parametrize(
    ("mode", "magic", "who", "expected"),
    [
        ("never", EXT4, OWNER, "never: the event loop itself waits"),
        ("always", EXT4, OWNER, "always: a helper reads every window first"),
        ("auto", TMPFS, STRANGER, "memory: tmpfs"),
        ("auto", EXT4, FOWNER, "mincore: .* by CAP_FOWNER .ext4."),
        ("auto", EXT4, OWNER, "mincore: the kernel tells uid 1000 about the files it owns"),
        ("auto", FUSE, OWNER, "always: any call may wait on fuse"),
        ("auto", EXT4, STRANGER, "nowait after a helper's first touch: .*uid 0.*chown .* uid 1000"),
        ("auto", OVERLAY, STRANGER, "always: .*uid 0.* no other gate on overlayfs; .*chown"),
        ("mincore", EXT4, STRANGER, "always: .*uid 0.* --gate mincore asks for no other; .*chown"),
        (
            "nowait",
            EXT4,
            OWNER,
            "nowait after a helper's first touch, as --gate nowait asks",
        ),
        ("nowait", OVERLAY, OWNER, "always: overlayfs has no reads that refuse to wait"),
    ],
)
def test_explain(
    mode: GateMode,
    magic: int,
    who: dict[str, int],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(kernel, "has_fowner", lambda: bool(who["fowner"]))
    monkeypatch.setattr(kernel, "may_write", lambda fd: bool(who["may_write"]))
    found = PageGate(mode).explain(a_file(magic, who["uid"]))
    assert "\n" not in found
    assert re.match(expected, found), found


@pytest.mark.parametrize(
    ("mode", "magic", "gate", "expected"),
    [
        ("auto", EXT4, Gate.NOWAIT, "nowait after a helper's first touch: {} .ext4.; .* allow it"),
        ("auto", OVERLAY, Gate.NOWAIT, "always: {}, and there is no other gate .* allow it"),
        ("mincore", EXT4, Gate.ALWAYS, "always: {}, and --gate mincore asks .* allow it"),
        ("auto", TMPFS, Gate.MEMORY, "memory: tmpfs"),
    ],
)
def test_where_mincore_is_forbidden_another_gate_answers(
    mode: GateMode, magic: int, gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by SystemCallFilter=@system-service of systemd; also to the owner."""
    monkeypatch.setattr(kernel, "may_ask_mincore", lambda: False)
    monkeypatch.setattr(kernel, "may_write", lambda fd: True)
    opened = a_file(magic, os.geteuid())
    assert PageGate(mode).choose(opened) is gate
    said = expected.format("a filter of system calls forbids mincore")
    assert re.match(said, PageGate(mode).explain(opened))


@needs("strace")
def test_a_filter_that_forbids_mincore_is_noticed() -> None:
    program = "from trio_amped.disk.kernel import may_ask_mincore as may; print(may())"
    argv = [sys.executable, "-c", program]
    forbids = ["strace", "-qq", "-o/dev/null", "-einject=mincore:error=EPERM"]
    for before, expected in (([], "True\n"), (forbids, "False\n")):
        done = subprocess.run([*before, *argv], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.stdout == expected, done.stderr


def test_nobody_is_the_overflow_user() -> None:
    assert kernel._OVERFLOW_UID == NOBODY
    assert Path("/proc/sys/kernel/overflowuid").read_text().strip() == str(NOBODY)


@pytest.mark.parametrize(("seconds", "holds"), [(0.0, True), (600.0, True), (600.1, False)])
def test_what_was_loaded_is_remembered_for_ten_minutes(
    seconds: float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that the kernel may have let go of more than the pages; a new load counts from then."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    loaded = pages._Loaded()
    for _ in range(2):
        loaded.add("version", 0, 200_000)
        now += seconds
        assert loaded.holds("version", 0, 200_000) == holds
        assert not loaded.holds("another", 0, 1)
        assert not loaded.holds("version", 200_000, 100_000)
