"""Real disks and real servers for the tests and the benchmark, as context managers (blocks).

Slow, broken, hung and strange disks, made of loop devices, FUSE, overlayfs, tmpfs and cgroups;
the page cache as a test wants it; a server as a process, as another user if need be. Everything
is undone on leaving, also when a test fails. `missing` says what this machine cannot do.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import json
import mmap
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
NOBODY = 65534
GUARD = 30.0  # seconds: a wait that takes this long has failed (no test waits for it to pass)

Feature = Literal[
    "root", "nobody", "loop", "overlay", "tmpfs", "fuse", "blkio", "strace", "nginx", "curl"
]
Operation = Literal[
    "getattr",
    "readdir",
    "readlink",
    "statfs",
    "open",
    "create",
    "read",
    "write",
    "truncate",
    "fsync",
    "flush",
    "release",
    "unlink",
    "rename",
    "mkdir",
    "rmdir",
]


def identity(argv: list[str]) -> list[str]:
    """The wrapper that wraps nothing."""
    return argv


def _run(*argv: str | Path) -> str:
    """Run a tool and return what it printed; RuntimeError with its complaint if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        command = shlex.join(map(str, argv))
        raise RuntimeError(f"{command}: {(done.stderr or done.stdout).strip() or done.returncode}")
    return done.stdout.strip()


def _tool(name: str) -> str | None:
    """The path of a program; administrators' programs are not in every user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


# ---------------------------------------------------------------- what this machine can do


def needs(*features: Feature) -> pytest.MarkDecorator:
    """Skip a test, with the reason, where one of these features is missing."""
    reasons = [reason for feature in features if (reason := missing(feature)) is not None]
    return pytest.mark.skipif(bool(reasons), reason="; ".join(reasons) or "everything is there")


@functools.cache
def missing(feature: Feature) -> str | None:
    """Why `feature` cannot be used on this machine, or None if it can: it was tried."""
    try:
        _PROBES[feature]()
    except (RuntimeError, OSError, ImportError) as error:
        return f"no {feature}: {error}"
    return None


def _probe_root() -> None:
    if os.geteuid() != 0:
        raise RuntimeError("not root")


def _probe_nobody() -> None:
    _probe_root()
    program = "import os, sys, trio; print(os.geteuid(), sys.base_prefix)"
    answer = _run(*as_nobody([sys.executable, "-c", program]))
    if answer != f"{NOBODY} {sys.base_prefix}":
        raise RuntimeError(f"the interpreter does not work for user {NOBODY}: {answer}")


def _probe_mount(script: str) -> None:
    """Try a mount in a mount namespace of its own, which nobody else sees and which goes away."""
    _probe_root()
    with tempfile.TemporaryDirectory() as directory:
        private = ["unshare", "--mount", "--propagation", "private"]
        _run(*private, "sh", "-ec", f'cd "$0"; PATH=$PATH:/usr/sbin:/sbin; {script}', directory)


def _probe_fuse() -> None:
    os.close(os.open("/dev/fuse", os.O_RDWR))
    if os.geteuid() != 0 and _tool("fusermount3") is None:
        raise RuntimeError("neither root nor fusermount3")
    importlib.import_module("mfusepy")  # OSError if there is no libfuse
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "backing").mkdir()
        with fuse_disk(directory, directory / "backing") as disk:
            disk.path.stat()


def _probe_blkio() -> None:
    _probe_root()
    with _cgroup():
        pass


def _probe_strace() -> None:
    _probe_tool("strace")
    _run("strace", "-qq", "-e", "trace=none", "-o", "/dev/null", "true")


def _probe_tool(name: str) -> None:
    if _tool(name) is None:
        raise RuntimeError("not installed")


_PROBES: dict[Feature, Callable[[], None]] = {
    "root": _probe_root,
    "nobody": _probe_nobody,
    "tmpfs": lambda: _probe_mount("mount -t tmpfs none ."),
    "overlay": lambda: _probe_mount(
        "mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m"
    ),
    "loop": lambda: _probe_mount(
        "mkdir m; truncate -s 1M i; mkfs.ext4 -q -F -O ^has_journal i; mount -o loop i m"
    ),
    "fuse": _probe_fuse,
    "blkio": _probe_blkio,
    "strace": _probe_strace,
    "nginx": lambda: _probe_tool("nginx"),
    "curl": lambda: _probe_tool("curl"),
}


# ---------------------------------------------------------------- directories and mounts


@contextmanager
def public_directory() -> Iterator[Path]:
    """A new directory on the machine's own disk that every user may enter.

    pytest's `tmp_path` is closed to strangers (0700 further up), and /tmp may be a tmpfs.
    """
    with tempfile.TemporaryDirectory(prefix="trio-amped-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def _new_directory(parent: Path, kind: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=parent))
    path.chmod(0o755)
    return path


@contextmanager
def _mount_point(parent: Path, kind: str) -> Iterator[Path]:
    """A new directory; on leaving, whatever is mounted there is unmounted and it is removed."""
    path = _new_directory(parent, kind)
    try:
        yield path
    finally:
        _unmount(path)
        with suppress(OSError):
            path.rmdir()


def _mounted(path: Path) -> bool:
    escaped = re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", str(path.resolve()))
    return any(line.split()[4] == escaped for line in _mountinfo())


def _mountinfo() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _unmount(path: Path) -> None:
    """Unmount now; what is still in use is detached, and goes when its last user does."""
    root = os.geteuid() == 0
    commands = [["umount"], ["umount", "-l"]] if root else [["fusermount3", "-u"]]
    commands += [] if root else [["fusermount3", "-u", "-z"]]
    for command in commands:
        if not _mounted(path):
            return
        with suppress(RuntimeError):
            _run(*command, path)


@contextmanager
def tmpfs(directory: Path, size: int = 64 << 20) -> Iterator[Path]:
    """A tmpfs: its pages are always in memory, and RWF_NOWAIT is not supported."""
    with _mount_point(directory, "tmpfs") as path:
        _run("mount", "-t", "tmpfs", "-o", f"mode=755,size={size}", "none", path)
        yield path


@contextmanager
def overlayfs(directory: Path, lower: Path) -> Iterator[Path]:
    """An overlay over `lower`; what is written goes to a directory below `directory`."""
    with _mount_point(directory, "overlay") as path:
        scratch = _new_directory(directory, "overlay-upper")
        upper, work = scratch / "upper", scratch / "work"
        upper.mkdir()
        work.mkdir()
        upper.chmod(lower.stat().st_mode & 0o7777)  # the merged root is the upper one
        options = ",".join(
            f"{name}dir={place}"
            for name, place in (("lower", lower), ("upper", upper), ("work", work))
        )
        try:
            _run("mount", "-t", "overlay", "-o", options, "none", path)
            yield path
        finally:
            _unmount(path)
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def loop_ext4(
    directory: Path,
    size: int,
    read_ahead_kb: int | None = None,
    *,
    image: Path | None = None,
    options: str = "defaults",
) -> Iterator[Path]:
    """An ext4 file system of its own, in a sparse file on a loop device.

    `image`: where the file is, instead of in `directory`. It is kept, and one that exists is
    mounted as it is: the same files with cold caches. `image=disk.path / "image"` on a
    `fuse_disk` is an ext4 whose reads are slow, fail and hang as the FUSE file system is told;
    that is let go of all faults before we unmount.
    The loop device does direct I/O where the file's file system can, so that there is one page
    cache, not two, and a page that was evicted is read from the place below.
    """
    with ExitStack() as cleanup:
        if image is None:
            image = _new_directory(directory, "image") / "ext4.img"
            cleanup.callback(shutil.rmtree, image.parent, ignore_errors=True)
        path = cleanup.enter_context(_mount_point(directory, "ext4"))
        cleanup.callback(_calm_disks, image)
        if not image.exists():
            with image.open("xb") as file:
                file.truncate(size)
            # no initialisation in the background: it would read and write behind a test's back
            eager = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
            _run(_tool("mkfs.ext4") or "mkfs.ext4", "-q", "-F", "-m", "0", "-E", eager, image)
        device = _attach(image)
        try:
            if read_ahead_kb is not None:
                read_ahead(device).write_text(str(read_ahead_kb))
            _run("mount", "-t", "ext4", "-o", options, device, path)
        finally:
            # In use, so it is detached by the last unmount, whoever does that
            _run(_tool("losetup") or "losetup", "--detach", device)
        yield path


def _attach(image: Path) -> Path:
    losetup = _tool("losetup") or "losetup"
    try:
        return Path(_run(losetup, "--find", "--show", "--direct-io=on", image))
    except RuntimeError:
        return Path(_run(losetup, "--find", "--show", image))


def block_device(path: Path) -> Path:
    """The block device that holds `path` (/dev/loop3); the whole disk if it is a partition."""
    st = path.stat()
    number = f"{os.major(st.st_dev)}:{os.minor(st.st_dev)}"
    node = Path("/sys/dev/block", number)
    if not node.exists():
        raise RuntimeError(f"{path} is not on a block device (device {number}): use loop_ext4")
    node = node.resolve()
    return Path("/dev", node.parent.name if (node / "partition").exists() else node.name)


def read_ahead(device: Path) -> Path:
    """The file that holds the read-ahead of a block device, in KiB (read when a file is opened)."""
    return Path("/sys/block", device.name, "queue", "read_ahead_kb")


# ---------------------------------------------------------------- FUSE


class FuseDisk:
    """A FUSE file system and what can be done to it. See `fuse_disk`.

    Calls are the kernel's, not a program's: a lookup of a name and an fstat are both "getattr",
    one read of a program may be several "read" calls (read-ahead), and close waits for "flush"
    ("release" comes later, and nobody waits for it).
    """

    def __init__(self, path: Path, backing: Path, line: socket.socket) -> None:
        self.path = path
        self.backing = backing
        self._line = line

    def hang(self, *operations: Operation) -> None:
        """From now on calls of these operations do not return, until `release`."""
        self._ask("hang", operations)

    def release(self, *operations: Operation) -> None:
        """Let hung calls go, and hang no more of them. Without arguments: all operations."""
        self._ask("release", operations)

    def delay(self, operation: Operation, seconds: float) -> None:
        """Each call of this operation takes so much longer from now on (0: no longer)."""
        self._ask("delay", operation, seconds)

    def fail(self, operation: Operation, errno: int) -> None:
        """Calls fail with this error from now on (0: no longer); hung ones after their release."""
        self._ask("fail", operation, errno)

    def reset(self) -> None:
        """No hangs, delays or errors, also for calls that are in the middle of one."""
        self._ask("reset")

    def counts(self) -> dict[str, int]:
        """How many calls of each operation have arrived."""
        answer = self._ask("counts")
        assert isinstance(answer, dict)
        return {str(operation): int(calls) for operation, calls in answer.items()}

    def hanging(self) -> int:
        """How many calls are hung at the moment."""
        answer = self._ask("hanging")
        assert isinstance(answer, int)
        return answer

    def wait_hanging(self, calls: int = 1, timeout: float = GUARD) -> None:
        """Wait until at least so many calls are hung."""
        if not self._ask("wait_hanging", calls, timeout):
            raise TimeoutError(f"{self.hanging()} calls hang after {timeout} s, not {calls}")

    def wait_counted(self, operation: Operation, calls: int, timeout: float = GUARD) -> None:
        """Wait until so many calls of this operation have arrived since the mount."""
        if not self._ask("wait_counted", operation, calls, timeout):
            raise TimeoutError(f"{self.counts()} after {timeout} s, not {calls} {operation}")

    def _ask(self, *question: object) -> object:
        """One question on a connection of its own, so that any threads may ask at any time."""
        ours, theirs = socket.socketpair()
        with ours, ours.makefile("rwb") as stream:
            with theirs:
                socket.send_fds(self._line, [b"?"], [theirs.fileno()])
            stream.write(json.dumps(question).encode() + b"\n")
            stream.flush()
            answer: object = json.loads(stream.read() or b'"gone"')
            if answer == "gone":
                raise RuntimeError("the FUSE process did not answer")
            return answer


_disks: list[FuseDisk] = []  # those that are mounted


def _calm_disks(path: Path | None = None) -> None:
    """Reset the FUSE disks (that hold `path`): what waits for them cannot be ended before."""
    for disk in _disks:
        if path is None or path.is_relative_to(disk.path):
            with suppress(RuntimeError, OSError):
                disk.reset()


@contextmanager
def fuse_disk(
    directory: Path,
    backing: Path,
    *,
    attr_timeout: float = 0,
    entry_timeout: float = 0,
    options: Sequence[str] = (),
) -> Iterator[FuseDisk]:
    """The files of `backing` on a FUSE file system that waits, fails and hangs as it is told.

    It is a process of its own with a thread for each call, so that the hung ones do not stop
    the others (up to 100). With timeouts of 0 each lookup and each fstat asks it. As root, other
    users may use it, within the files' permissions. `options`: more mount options, for example
    "kernel_cache" (pages survive a new open) or "direct_io" (no page cache).
    """
    chosen = [f"attr_timeout={attr_timeout}", f"entry_timeout={entry_timeout}"]
    chosen += ["negative_timeout=0", "default_permissions", *options]
    chosen += ["allow_other"] if os.geteuid() == 0 else []
    with ExitStack() as cleanup:
        path = cleanup.enter_context(_mount_point(directory, "fuse"))
        line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        cleanup.enter_context(line)
        errors = cleanup.enter_context(tempfile.TemporaryFile())
        with theirs:
            argv = [sys.executable, str(REPOSITORY / "tests" / "fuse_disk.py")]
            argv += ["--line", str(theirs.fileno())]
            argv += [f"-o{option}" for option in chosen]
            argv += [str(backing.resolve()), str(path)]
            process = subprocess.Popen(
                argv,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,  # control-C is for us; we end it
                env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")},
            )
        cleanup.callback(_end_disk, process, line, path)
        line.settimeout(GUARD)
        if not line.recv(1):
            errors.seek(0)
            raise RuntimeError(f"FUSE did not start: {errors.read().decode().strip()}")
        disk = FuseDisk(path, backing, line)
        _disks.append(disk)
        cleanup.callback(_disks.remove, disk)
        yield disk


def _end_disk(process: subprocess.Popen[bytes], line: socket.socket, path: Path) -> None:
    """Let every call go, unmount, and see the process off."""
    with suppress(RuntimeError, OSError):
        FuseDisk(path, path, line).reset()
    _unmount(path)
    line.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()  # this ends the connection as well: calls fail with ENOTCONN
        process.wait()


# ---------------------------------------------------------------- the page cache

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_MAP_FAILED = ctypes.c_void_p(-1).value
_PROT_NONE = 0


def _error() -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def resident_pages(path: Path) -> int:
    """How many pages of a file are in memory (mincore lies to strangers: be owner or root)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        if size == 0:
            return 0
        address = _libc.mmap(None, size, _PROT_NONE, mmap.MAP_PRIVATE, fd, 0)
        if address == _MAP_FAILED:
            raise _error()
        try:
            pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
            if _libc.mincore(address, size, pages) != 0:
                raise _error()
        finally:
            _libc.munmap(address, size)
    finally:
        os.close(fd)
    return sum(page & 1 for page in pages.raw)


def evict(path: Path) -> None:
    """Drop a file's pages from memory, and prove it. (On a tmpfs nothing can be evicted.)"""
    fd = os.open(path, os.O_RDONLY)
    try:
        for _ in range(5):  # a page that is being looked at by someone else is skipped
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if (resident := resident_pages(path)) == 0:
                return
    finally:
        os.close(fd)
    raise AssertionError(f"{resident} pages of {path} stay in memory")


def load(path: Path) -> None:
    """Read a file, so that its pages are in memory."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def forget_names() -> None:
    """Drop the kernel's cache of names and inodes that nobody uses (of the whole machine)."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


# ---------------------------------------------------------------- a slow disk


class SlowDisk:
    """A cgroup whose processes read one block device slowly. See `slow_cgroup`."""

    def __init__(self, directory: Path, device: Path) -> None:
        self.directory = directory
        self.device = device

    def limit(self, bytes_per_second: int) -> None:
        """Another speed from now on."""
        number = (Path("/sys/block") / self.device.name / "dev").read_text().strip()
        v1 = self.directory / "blkio.throttle.read_bps_device"
        if v1.exists():
            v1.write_text(f"{number} {bytes_per_second}")
        else:
            (self.directory / "io.max").write_text(f"{number} rbps={bytes_per_second}")

    def add(self, pid: int) -> None:
        """Move a process (all its threads) into the cgroup."""
        (self.directory / "cgroup.procs").write_text(str(pid))

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` in the cgroup from its first instruction on; the process id stays the same."""
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return ["sh", "-c", enter, str(self.directory), *argv]


@contextmanager
def slow_cgroup(device_path: Path, bytes_per_second: int) -> Iterator[SlowDisk]:
    """A cgroup that reads the disk that holds `device_path` at this speed.

    On a loop device only the reads of that device are slow: nothing else is disturbed.
    """
    device = block_device(device_path)
    with _cgroup() as directory:
        slow = SlowDisk(directory, device)
        slow.limit(bytes_per_second)
        yield slow


_cgroup_numbers = itertools.count()


@contextmanager
def _cgroup() -> Iterator[Path]:
    """A new cgroup that can limit block devices; whoever is in it at the end is moved out."""
    parent = _cgroup_parent()
    directory = parent / f"trio-amped-{os.getpid()}-{next(_cgroup_numbers)}"
    directory.mkdir()
    try:
        yield directory
    finally:
        deadline = time.monotonic() + 5
        while True:
            for pid in (directory / "cgroup.procs").read_text().split():
                with suppress(OSError):
                    (parent / "cgroup.procs").write_text(pid)
            try:
                directory.rmdir()
                break
            except OSError:  # a process that is just exiting
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def _cgroup_parent() -> Path:
    """Where block devices can be limited: cgroup v1 if it is there, or else v2."""
    unified = None
    for line in _mountinfo():
        before, after = line.split(" - ")
        kind, _, options = after.split(" ", 2)
        place = Path(before.split()[4])
        if kind == "cgroup" and "blkio" in options.split(","):
            if not (place / "blkio.throttle.read_bps_device").exists():
                raise RuntimeError(f"{place} cannot limit the speed of a disk")
            return place
        if kind == "cgroup2":
            unified = place
    if unified is None or "io" not in (unified / "cgroup.controllers").read_text().split():
        raise RuntimeError("no cgroup has the blkio (v1) or io (v2) controller")
    (unified / "cgroup.subtree_control").write_text("+io")
    return unified


# ---------------------------------------------------------------- another user


def as_nobody(argv: Sequence[str]) -> list[str]:
    """`argv` run by user and group 65534 without capabilities; the process id stays the same.

    Where the interpreter, the virtual environment or this repository are in a directory that is
    closed to strangers (/root/.pyenv), the process gets a mount namespace in which that
    directory holds only those, and is open. Without this Python *starts* (setpriv keeps root's
    rights until its exec), does not find its standard library, and takes another Python's.
    """
    stranger = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *argv]
    hidden = _hidden_directories()
    if not hidden:
        return stranger
    covers = sorted({cover for cover, _ in hidden})
    script = ["umask 022"]
    script += [f"exec {fd}< {_quote(place)}" for fd, (_, place) in enumerate(hidden, 3)]
    script += [f"mount -t tmpfs -o mode=755,size=1m none {_quote(cover)}" for cover in covers]
    for fd, (_, place) in enumerate(hidden, 3):
        script += [f"mkdir -p {_quote(place)}"]
        script += [f"mount --no-canonicalize --bind /proc/self/fd/{fd} {_quote(place)}"]
        script += [f"exec {fd}<&-"]
    script += [f'umask {_umask():03o}; exec "$@"']
    private = ["unshare", "--mount", "--propagation", "slave"]
    return [*private, "sh", "-ec", "\n".join(script), "as_nobody", *stranger]


def _hidden_directories() -> list[tuple[Path, Path]]:
    """The directories that Python needs and strangers cannot reach, and what hides each."""
    hidden: list[tuple[Path, Path]] = []
    needed = {Path(place).resolve() for place in (sys.base_prefix, sys.prefix, REPOSITORY)}
    for place in sorted(needed):
        for ancestor in reversed(place.parents):
            if not ancestor.stat().st_mode & 0o001:
                if not any(place.is_relative_to(other) for _, other in hidden):
                    hidden.append((ancestor, place))
                break
    # one cover may be below another: the outermost hides both
    return [
        (min((c for c, _ in hidden if cover.is_relative_to(c)), key=lambda c: len(c.parts)), place)
        for cover, place in hidden
    ]


def _quote(path: Path) -> str:
    return shlex.quote(str(path))


def _umask() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


# ---------------------------------------------------------------- a server


class ServerProcess:
    """A running server and what it has said. See `running_server`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self.url = ""
        self.port = 0
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    @property
    def log(self) -> list[str]:
        """The lines that the server has written so far, to stderr or stdout."""
        with self._changed:
            return list(self._lines)

    def wait_for_log(self, pattern: str, timeout: float = GUARD) -> re.Match[str]:
        """Wait for a line in which this regular expression is found (or was, earlier)."""
        seen = 0
        found: re.Match[str] | None = None

        def look() -> bool:
            nonlocal seen, found
            while found is None and seen < len(self._lines):
                found = re.search(pattern, self._lines[seen])
                seen += 1
            return found is not None or self._ended

        with self._changed:
            self._changed.wait_for(look, timeout)
        if found is None:
            why = "the server has ended" if self._ended else f"nothing after {timeout} s"
            raise AssertionError(f"{pattern!r}: {why}; its log:\n" + "\n".join(self.log))
        return found

    def stop(self, signal: int = signal.SIGTERM, timeout: float = 10) -> int:
        """Send a signal, wait for the end, and return the exit status (-N: killed by signal N)."""
        self.process.send_signal(signal)
        return self.process.wait(timeout)

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            with self._changed:
                self._lines.append(line.decode(errors="backslashreplace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def end(self, patience: float = 10) -> None:
        """Whatever it takes: afterwards the server and its helpers are no more."""
        try:
            if self.process.poll() is None:
                self.stop(timeout=patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
        try:
            self.process.wait(min(patience, 2))
        except subprocess.TimeoutExpired:
            _calm_disks()  # not even SIGKILL ends a process that waits for a hung disk
            self.process.wait(GUARD)
        finally:
            with suppress(ProcessLookupError):  # its helpers, if it was killed
                os.killpg(self.pid, signal.SIGKILL)
            self._reader.join(2)
            if self._reader.is_alive():  # a helper waits for a hung disk
                _calm_disks()
                self._reader.join(GUARD)
            if self.process.stdout is not None and not self._reader.is_alive():
                self.process.stdout.close()


@contextmanager
def running_server(
    *options: str,
    root: Path,
    wrap: Callable[[list[str]], list[str]] = identity,
    program: Sequence[str] = (sys.executable, "-m", "trio_amped"),
    timeout: float = GUARD,
) -> Iterator[ServerProcess]:
    """A server for `root` on a free port of 127.0.0.1, in a process and a process group of its own.

    `wrap` puts other programs in front, such as `as_nobody` or `slow.command`; they must `exec`,
    so that `pid` is the server's. The server is listening when this is entered.
    """
    argv = [*program, "--root", str(root), "--host", "127.0.0.1", "--port", "0", *options]
    with _server_environment() as environment:
        process = subprocess.Popen(
            wrap(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        server = ServerProcess(process)
        try:
            found = server.wait_for_log(r"(https?://[^ ]+:(\d+))/", timeout)
            server.url, server.port = found[1], int(found[2])
            yield server
        finally:
            server.end()


@contextmanager
def _server_environment() -> Iterator[dict[str, str]]:
    """Our environment, in which the package is found, and strangers can save their coverage."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if "COVERAGE_PROCESS_CONFIG" not in environment:
        yield environment
        return
    ours = Path(os.environ.get("COVERAGE_FILE", REPOSITORY / ".coverage"))
    with public_directory() as scratch:
        scratch.chmod(0o1777)
        yield environment | {"COVERAGE_FILE": str(scratch / ours.name)}
        for saved in scratch.iterdir():
            shutil.move(saved, ours.parent / saved.name)
