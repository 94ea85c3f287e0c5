"""Opens a path below the root and says what was opened. Waits for the disk unless told not to.

It runs in a helper, and on the event loop where it is told not to wait (`cached`) or where
nobody minds waiting (`--gate never`).
"""

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Self, TypeVar

from . import kernel

# O_NONBLOCK: a FIFO, or a file under a write lease, must not hold the open. O_NOCTTY: a
# terminal in the root must not become ours.
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_QUIETLY: Final = _FLAGS | os.O_NOATIME
_BENEATH: Final = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_MAGICLINKS
# NO_XDEV: a hung FUSE mount below the root hangs even an open from the caches.
_ON_ROOT_DEVICE: Final = _BENEATH | kernel.RESOLVE_NO_XDEV
_CACHED: Final = _ON_ROOT_DEVICE | kernel.RESOLVE_CACHED

ST_NOATIME: Final = 1024  # statvfs(3), f_flag
ST_RELATIME: Final = 4096
_DAY: Final = 86_400 * 10**9

Result = TypeVar("Result")

# ns: a change that is older shares its stamp with none that is still to come. The kernel's clock
# ticks every 10 ms, that of ext3 every second, and that of FAT every other one.
SETTLED: Final = 3 * 10**9


class Volume(NamedTuple):
    """What is known of the file system under a file: asked once, never on the event loop."""

    magic: int
    mount_flags: int

    @property
    def name(self) -> str:
        return kernel.FILE_SYSTEMS.get(self.magic, f"file system {self.magic:#x}")

    @property
    def is_remote(self) -> bool:
        """Whether open, fstat, read and close may all wait for somebody else's process.

        One that nobody here has heard of may, too.
        """
        return self.magic not in _LOCAL

    @property
    def is_stacked(self) -> bool:
        """Whether its files have other inodes below."""
        return self.magic in _STACKED

    @property
    def dates_names(self) -> bool:
        """Whether each change of the names in a directory gives it another ctime.

        On overlayfs what changes in the lower directory leaves the ctime alone, and yet is seen.
        """
        return self.magic in _DATED

    @property
    def is_memory(self) -> bool:
        return self.magic in _MEMORY

    @property
    def locks_reads(self) -> bool:
        """Whether reading pages that are in memory may wait for a writer of the file.

        The writer may wait for the disk. So it is on XFS; a stacked file system may be above one,
        and what was not measured (`python -m bench.locks`) is taken for one.
        """
        return self.magic not in _READ_WITHOUT_LOCK


def _called(*names: str) -> frozenset[int]:
    return frozenset(magic for magic, name in kernel.FILE_SYSTEMS.items() if name in names)


_STACKED: Final = _called("overlayfs", "ecryptfs")
_DATED: Final = _called("ext4", "xfs", "btrfs", "tmpfs")
_MEMORY: Final = _called("tmpfs", "ramfs")
# The last three are read-only.
_READ_WITHOUT_LOCK: Final = _MEMORY | _called("ext4", "btrfs", "iso9660", "squashfs", "erofs")
_LOCAL: Final = kernel.FILE_SYSTEMS.keys() - _called(
    *("fuse", "nfs", "cifs", "smb2", "9p", "ceph", "afs", "lustre", "gfs2", "ocfs2", "vboxsf")
)


class Status(NamedTuple):
    """The part of fstat(2) that matters here; the times in ns since the epoch."""

    mode: int
    uid: int
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    gid: int = 0
    links: int = 1

    @property
    def access(self) -> tuple[int, ...]:
        """What moves the ctime, and is no change of the content: chmod, chown, link, unlink."""
        return self.mode, self.uid, self.gid, self.links

    @property
    def version(self) -> tuple[int, ...]:
        """What differs between two files, and two states of one."""
        return self.device, self.inode, self.size, self.mtime_ns, self.ctime_ns

    @classmethod
    def of(cls, descriptor: int) -> Self:
        return cls.read(os.fstat(descriptor))

    @classmethod
    def read(cls, found: os.stat_result) -> Self:
        return cls(
            found.st_mode,
            found.st_uid,
            found.st_dev,
            found.st_ino,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_atime_ns,
            found.st_gid,
            found.st_nlink,
        )

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Opened(NamedTuple):
    """An open descriptor and all that is known of it: opened once, and then only that."""

    descriptor: int
    status: Status
    volume: Volume
    noatime: bool  # O_NOATIME was granted: reading never writes an access time

    @property
    def each_read_writes(self) -> bool:
        """Whether every read updates the access time (strictatime), and so may wait."""
        return not self.noatime and not self.volume.mount_flags & (ST_NOATIME | ST_RELATIME)

    def atime_is_due(self, now_ns: int) -> bool:
        """Whether the next read updates the access time, and so may wait for a journal.

        The rule of relatime: at most once a day, unless the file changed since (mount(8)).
        """
        status = self.status
        if self.noatime or self.volume.mount_flags & ST_NOATIME:
            return False
        if self.each_read_writes:
            return True
        newest_change = max(status.mtime_ns, status.ctime_ns)
        return status.atime_ns <= newest_change or now_ns - status.atime_ns >= _DAY


_STATUS: Final = struct.Struct("!IIQQqqqqIQ")
_FACTS: Final = struct.Struct(_STATUS.format + "IQ?")


FACTS_SIZE: Final = _FACTS.size


def pack_read(status: Status, data: bytes) -> bytes:
    """The reply to READ and DIGEST: the status after the bytes were read, and they or a digest."""
    return _STATUS.pack(*status) + data


def unpack_read(content: bytes) -> tuple[Status, bytes]:
    """The same again, from a reply. Raises struct.error."""
    return Status(*_STATUS.unpack_from(content)), content[_STATUS.size :]


def pack_facts(opened: Opened) -> bytes:
    return _FACTS.pack(*opened.status, *opened.volume, opened.noatime)


def unpack_facts(descriptor: int, facts: bytes) -> Opened:
    *status, magic, mount_flags, noatime = _FACTS.unpack(facts)
    return Opened(descriptor, Status(*status), Volume(magic, mount_flags), noatime)


class Part(NamedTuple):
    """A part of one of the files that were opened together: `number` counts them from 0."""

    number: int
    offset: int
    length: int


_ERRNO: Final = struct.Struct("!i")
_PART: Final = struct.Struct("!Bqq")


def pack_fetched(found: Sequence[Opened | OSError], part: Part | None) -> bytes:
    """What is said of files that were opened together, and of the part that is being loaded."""
    entries = []
    for each in found:
        if isinstance(each, OSError):
            entries.append(_ERRNO.pack(each.errno or errno.EIO))
        else:
            entries.append(_ERRNO.pack(0) + pack_facts(each))
    packed = bytes([len(entries)]) + b"".join(entries)
    return packed + _PART.pack(*part) if part else packed


def unpack_fetched(
    content: bytes, descriptors: Sequence[int]
) -> tuple[list[Opened | OSError], Part | None]:
    """The same again; the descriptors are those of the files that could be opened, in this order.

    Some may have been dropped on the way (EMFILE). Raises struct.error, IndexError for nonsense.
    """
    left = iter(descriptors)
    found: list[Opened | OSError] = []
    place = 1
    for _ in range(content[0]):
        (number,) = _ERRNO.unpack_from(content, place)
        place += _ERRNO.size
        if number:
            found.append(OSError(number, os.strerror(number)))
            continue
        facts = content[place : place + FACTS_SIZE]
        place += FACTS_SIZE
        descriptor = next(left, None)
        if descriptor is None:
            found.append(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        else:
            found.append(unpack_facts(descriptor, facts))
    part = Part(*_PART.unpack_from(content, place)) if place < len(content) else None
    return found, part


def volume_of(descriptor: int) -> Volume:
    """Can wait, on a network. Raises OSError."""
    return Volume(kernel.file_system(descriptor), os.fstatvfs(descriptor).f_flag)


def _open_beneath(root: int, path: bytes, resolve: int, tries: int) -> tuple[int, bool]:
    """Open a path by openat2(2), and quietly if that can be; whether it can.

    It says EAGAIN also when a rename or a mount anywhere raced with the walk.
    """
    flags = _QUIETLY
    while True:
        try:
            return kernel.openat2(root, path, flags, resolve), flags == _QUIETLY
        except BlockingIOError:
            tries -= 1
            if not tries:
                raise
        except PermissionError as error:
            if error.errno != errno.EPERM or flags != _QUIETLY:
                raise
            flags = _FLAGS


def _opened_quietly(open: Callable[[int], int]) -> tuple[int, bool]:
    """Without the access time being written, if that can be; whether it can."""
    try:
        return open(_QUIETLY), True
    except PermissionError as error:
        if error.errno != errno.EPERM:  # O_NOATIME is only for the owner and CAP_FOWNER
            raise
    return open(_FLAGS), False


def _open_without_links(root: int, path: bytes, flags: int = _FLAGS) -> tuple[int, bool]:
    """Where openat2 is missing: name by name, and no symbolic link is followed at all."""
    *parents, name = path.split(b"/")
    if b".." in (*parents, name):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    if b"\0" in path:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    directory = os.dup(root)
    try:
        for parent in parents:
            below = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = below
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory), False
    finally:
        os.close(directory)


def can_open_cached() -> bool:
    """Whether this kernel can open from its caches alone (Linux 5.12)."""
    return kernel.has_openat2(_CACHED)


def open_cached(root: int, path: bytes, volume: Volume) -> Opened:
    """Open what the kernel's caches hold, on the root's own file system. Cannot wait.

    Raises OSError: EAGAIN and EXDEV where a helper must look; the others are answers.
    """
    # All of tmpfs is in memory, but for the names that are not there: those it never caches.
    resolve = _ON_ROOT_DEVICE if volume.is_memory else _CACHED
    descriptor, noatime = _open_beneath(root, path or b".", resolve, tries=3)
    return Opened(descriptor, Status.of(descriptor), volume, noatime)


def identify_cached(root: int, path: bytes, volume: Volume, follow: bool) -> tuple[int, int]:
    """Device and inode of what `open_cached` would open. Cannot wait; raises OSError.

    ELOOP where a symbolic link is met that is not to be followed.
    """
    found = _status_cached(root, path, volume, os.O_PATH, follow)
    return found.st_dev, found.st_ino


def identify_waiting(root: int, path: bytes, follow: bool) -> tuple[int, int]:
    """The same, whatever it takes. Raises OSError."""
    found = status_beneath(root, path or b".", follow)
    return found.st_dev, found.st_ino


def directory_cached(root: int, path: bytes, volume: Volume) -> os.stat_result:
    """The status of a directory that no symbolic link leads to. Cannot wait; raises OSError."""
    return _status_cached(root, path, volume, os.O_PATH | os.O_DIRECTORY, False)


def _status_cached(
    root: int, path: bytes, volume: Volume, flags: int, follow: bool
) -> os.stat_result:
    descriptor = _open_path_cached(root, path, volume, flags, follow)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _open_path_cached(root: int, path: bytes, volume: Volume, flags: int, follow: bool) -> int:
    """O_PATH: it opens nothing, so there is nothing whose closing could wait."""
    resolve = _ON_ROOT_DEVICE if volume.is_memory else _CACHED
    resolve |= 0 if follow else kernel.RESOLVE_NO_SYMLINKS
    return kernel.openat2(root, path or b".", flags, resolve)


def open_folder_cached(root: int, path: bytes, volume: Volume) -> int:
    """A directory that no symbolic link leads to, opened to be asked about and no more (O_PATH).

    Cannot wait; raises OSError.
    """
    return _open_path_cached(root, path, volume, os.O_PATH | os.O_DIRECTORY, False)


def open_to_read(directory: int) -> int:
    """The same directory, whose names can be read. Can wait; raises OSError."""
    descriptor, _ = _opened_quietly(
        lambda flags: os.open(b".", flags | os.O_DIRECTORY, dir_fd=directory)
    )
    return descriptor


class LeadsAway(OSError):
    """A path leads to another mount, or out of the root; `filename` is how far it does not."""


def open_waiting(root: int, path: bytes, crosses: bool = True) -> Opened:
    """Open a path below the root, whatever it takes. Raises OSError; EXDEV: it leads outside.

    Unless it `crosses`, no other mount is asked anything: raises LeadsAway.
    """
    path = path or b"."
    if kernel.has_openat2(_BENEATH):
        resolve = _BENEATH if crosses else _ON_ROOT_DEVICE
        try:
            descriptor, noatime = _open_beneath(root, path, resolve, tries=9)
        except OSError as error:
            if crosses or error.errno != errno.EXDEV:
                raise
            raise LeadsAway(errno.EXDEV, error.strerror, _way_out(root, path)) from None
    else:
        descriptor, noatime = _open_without_links(root, path)
    with _closed_on_error(descriptor):
        return Opened(descriptor, Status.of(descriptor), volume_of(descriptor), noatime)


def _way_out(root: int, path: bytes) -> bytes:
    """The first part of a path that leaves the mount of the root."""
    for end in (place for place, byte in enumerate(path) if byte == b"/"[0]):
        try:
            os.close(kernel.openat2(root, path[:end], os.O_PATH, _ON_ROOT_DEVICE))
        except OSError as error:
            if error.errno == errno.EXDEV:
                return path[:end]
    return path


def open_directory(root: int, path: bytes) -> int:
    """A directory below the root, to be read. Can wait; raises OSError."""
    descriptor = open_waiting(root, path).descriptor
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return descriptor


def status_beneath(root: int, path: bytes, follow: bool = True) -> os.stat_result:
    """What a path below the root leads to, which is not opened. Can wait; raises OSError."""
    if kernel.has_openat2(_BENEATH):
        resolve = _BENEATH if follow else _BENEATH | kernel.RESOLVE_NO_SYMLINKS
        descriptor = kernel.openat2(root, path, os.O_PATH, resolve)
    else:
        descriptor, _ = _open_without_links(root, path, os.O_PATH)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if stat.S_ISLNK(found.st_mode):  # O_PATH and O_NOFOLLOW open the link itself
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found


def open_file_waiting(path: bytes) -> Opened:
    """Any file, links followed. Can wait; raises OSError."""
    if b"\0" in path:
        raise OSError(errno.EINVAL, "a path cannot hold a NUL")
    descriptor, noatime = _opened_quietly(lambda flags: os.open(path, flags))
    with _closed_on_error(descriptor):
        return Opened(descriptor, Status.of(descriptor), volume_of(descriptor), noatime)


def open_root_cached(path: bytes) -> int:
    """The root directory, from the kernel's caches. Cannot wait; raises OSError."""
    flags = os.O_PATH | os.O_DIRECTORY
    for _ in range(2):  # as in `_open_beneath`
        with contextlib.suppress(BlockingIOError):
            return kernel.openat2(kernel.AT_FDCWD, path, flags, kernel.RESOLVE_CACHED)
    return kernel.openat2(kernel.AT_FDCWD, path, flags, kernel.RESOLVE_CACHED)


class Identity(NamedTuple):
    """What a descriptor is of, as proc(5) says it."""

    mount: bytes
    inode: bytes


def identity(descriptor: int) -> Identity | None:
    """Which mount and inode a descriptor is on, without asking its file system. Cannot wait.

    fstat would ask the daemon of a FUSE mount that the path leads to by now. See proc(5), fdinfo;
    None where the kernel (before 5.15) does not show the inode.
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb", buffering=0) as fdinfo:
            fields = dict(line.split(b":", 1) for line in (fdinfo.read(4096) or b"").splitlines())
        return Identity(fields[b"mnt_id"], fields[b"ino"])
    except (OSError, KeyError):  # no /proc here, or no such field
        return None


def open_root_waiting(path: bytes) -> Opened:
    """The root directory, links followed. Can wait; raises OSError."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
    with _closed_on_error(descriptor):
        return Opened(descriptor, Status.of(descriptor), volume_of(descriptor), noatime=True)


@contextlib.contextmanager
def _closed_on_error(descriptor: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise
