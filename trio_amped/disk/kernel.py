"""The Linux system calls that Python's os module lacks, by ctypes. Says of each if it can wait.

Two handles of libc, because of the GIL (measured in docs/design.md): a call that cannot wait
for a disk keeps the GIL (PyDLL), since to give it away for a microsecond is to queue behind
every helper thread; a call that can wait gives it away (CDLL), or the event loop would wait too.
"""

import ctypes
import errno
import functools
import os
import sys
import threading
from typing import Any, Final

# include/uapi/linux/openat2.h and fcntl.h
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_CACHED: Final = 0x20
AT_FDCWD: Final = -100
AT_EACCESS: Final = 0x200
AT_EMPTY_PATH: Final = 0x1000

# asm-generic/unistd.h: from number 424 on the same on every architecture that Python runs on.
_SYS_OPENAT2: Final = 437
_SYS_FACCESSAT2: Final = 439

_MADV_POPULATE_READ: Final = 22
_PROT_NONE: Final = 0
_PROT_READ: Final = 1
_MAP_SHARED: Final = 1
_CAP_FOWNER: Final = 3
_CAPABILITY_VERSION_3: Final = 0x20080522  # include/uapi/linux/capability.h
_OVERFLOW_UID: Final = 65534

# include/uapi/linux/magic.h: file systems by the first field of statfs(2).
FILE_SYSTEMS: Final = {
    0xEF53: "ext4",
    0x9123683E: "btrfs",
    0x58465342: "xfs",
    0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs",
    0x2FC12FC1: "zfs",
    0x794C7630: "overlayfs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x3153464A: "jfs",
    0x3434: "nilfs2",
    0x52654973: "reiserfs",
    0x4D44: "vfat",
    0x2011BAB0: "exfat",
    0x7366746E: "ntfs3",
    0x482B: "hfsplus",
    0x9660: "iso9660",
    0x15013346: "udf",
    0xF15F: "ecryptfs",
    0x73717368: "squashfs",
    0xE0F5E1E2: "erofs",
    0x65735546: "fuse",
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x01021997: "9p",
    0x00C36400: "ceph",
    0x5346414F: "afs",
    0x0BD00BD0: "lustre",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
    0x786F4256: "vboxsf",
}

PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_keeping_gil = ctypes.PyDLL(None, use_errno=True)
_releasing_gil = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[name]  # a new object each time, so that prototypes do not collide
    function.restype = result
    function.argtypes = arguments
    return function


_long, _int, _size, _pointer = ctypes.c_long, ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
_OPENAT2 = (_long, _long, _int, ctypes.c_char_p, ctypes.POINTER(_OpenHow), _size)
_MMAP = (_pointer, _pointer, _size, _int, _int, _int, ctypes.c_int64)
_openat2_cached = _function(_keeping_gil, "syscall", *_OPENAT2)
_openat2_waiting = _function(_releasing_gil, "syscall", *_OPENAT2)
_faccessat2 = _function(_keeping_gil, "syscall", _long, _long, _int, ctypes.c_char_p, _int, _int)
_capget = _function(
    _keeping_gil,
    "capget",
    _int,
    ctypes.POINTER(_CapabilityHeader),
    ctypes.POINTER(_CapabilityData),
)
_mincore = _function(_keeping_gil, "mincore", _int, _pointer, _size, ctypes.c_char_p)
_mmap_shadow = _function(_keeping_gil, "mmap", *_MMAP)
_munmap_shadow = _function(_keeping_gil, "munmap", _int, _pointer, _size)
_mmap_waiting = _function(_releasing_gil, "mmap", *_MMAP)
_munmap_waiting = _function(_releasing_gil, "munmap", _int, _pointer, _size)
_madvise_waiting = _function(_releasing_gil, "madvise", _int, _pointer, _size, _int)
_fstatfs_waiting = _function(_releasing_gil, "fstatfs", _int, _int, _pointer)


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


@functools.cache
def _how(flags: int, resolve: int) -> _OpenHow:
    return _OpenHow(flags | os.O_CLOEXEC, 0, resolve)


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """Open `path` below the descriptor `directory`; see openat2(2). Returns a descriptor.

    With RESOLVE_CACHED it cannot wait: it raises BlockingIOError where it would have to.
    Without, it can wait for the disk. Raises OSError.
    """
    if b"\0" in path:
        raise OSError(errno.EINVAL, "a path cannot hold a NUL")
    call = _openat2_cached if resolve & RESOLVE_CACHED else _openat2_waiting
    how = _how(flags, resolve)
    descriptor: int = call(_SYS_OPENAT2, directory, path, how, ctypes.sizeof(how))
    if descriptor < 0:
        raise _failure()
    return descriptor


@functools.cache
def has_openat2(resolve: int) -> bool:
    """Whether openat2 works here with these flags: Linux 5.6, RESOLVE_CACHED 5.12, seccomp."""
    try:
        os.close(openat2(AT_FDCWD, b".", os.O_PATH, resolve))
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EINVAL, errno.EPERM)
    return True


def may_write(descriptor: int) -> bool:
    """Whether the kernel would let this process write the file (faccessat2, Linux 5.8).

    It cannot wait: the inode is open, and its access list was read when it was opened.
    """
    found = _faccessat2(_SYS_FACCESSAT2, descriptor, b"", os.W_OK, AT_EACCESS | AT_EMPTY_PATH)
    return bool(found == 0)


def has_fowner() -> bool:
    """Whether CAP_FOWNER is effective; root in a container may well be without it.

    Asked each time (capget(2), 1 us): a program may drop its privileges after it has started.
    """
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)()
    if _capget(header, data) < 0:
        return False
    return bool(data[0].effective >> _CAP_FOWNER & 1)


@functools.cache
def all_owners_are_mapped() -> bool:
    """Whether this user namespace knows every user: elsewhere CAP_FOWNER ends at its border."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as ranges:
            return ranges.read().split() == ["0", "0", "4294967295"]
    except OSError:
        return True  # a kernel without user namespaces


def owns(uid: int) -> bool:
    """Whether mincore tells this process the truth about a file of that user.

    mm/mincore.c, can_do_mincore (Linux 5.2): the owner, or CAP_FOWNER over a mapped owner.
    (The third way, a file that it may write, is `may_write`.) An owner from outside of the
    user namespace shows as the overflow uid, which then proves nothing.
    """
    if uid == _OVERFLOW_UID and not all_owners_are_mapped():
        return False
    return uid == os.geteuid() or has_fowner()


def max_mappings() -> int:
    """How many mappings a process may have: vm.max_map_count; proc(5). Cannot wait."""
    try:
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65_530  # the default


def file_system(descriptor: int) -> int:
    """The magic number of the descriptor's file system; fstatfs(2). Can wait on a network."""
    answer = ctypes.create_string_buffer(256)
    if _fstatfs_waiting(descriptor, answer) < 0:
        raise _failure()
    # f_type is the first field: a long, of which only 32 bits matter (cifs sets the sign).
    return int.from_bytes(answer.raw[:4], sys.byteorder)


@functools.cache
def _getdents64() -> Any:
    try:
        return _function(_releasing_gil, "getdents64", ctypes.c_ssize_t, _int, _pointer, _size)
    except AttributeError:  # glibc has it since 2.30
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None


def getdents64(descriptor: int, buffer: ctypes.Array[ctypes.c_char]) -> bytes:
    """The next entries of an open directory, as the kernel packs them; none at the end.

    Waits for the disk. Raises OSError. (os.scandir takes and gives the GIL for each name, and a
    loop in another thread waits as many times.)
    """
    length = _getdents64()(descriptor, buffer, len(buffer))
    if length < 0:
        raise _failure()
    return ctypes.string_at(buffer, length)


class _Answer:
    """Room for an answer of mincore(2): a byte for each page."""

    def __init__(self, pages: int) -> None:
        self.bytes = bytearray(pages)
        self.array = (ctypes.c_char * pages).from_buffer(self.bytes)


class _OfThread(threading.local):
    """One that is used again and again, since to make one takes longer than to ask."""

    def __init__(self) -> None:
        self.answer = _Answer(_ANSWER_PAGES)


_ANSWER_PAGES: Final = 2048  # 8 MiB of a file
_of_thread: Final = _OfThread()


@functools.cache
def may_ask_mincore() -> bool:
    """Return whether this process may call mincore(2): a filter of system calls can forbid that.

    systemd's group @system-service does not have it. Asked about no memory at all, which is allowed
    at address 0.
    """
    return bool(_mincore(0, 0, b"") == 0)


class ShadowMapping:
    """A mapping of a file that asks which pages are in memory, and can never be read.

    PROT_NONE: to dereference a mapping is to wait for the disk, or SIGBUS after a truncation;
    mincore(2) answers all the same. mmap itself reads nothing (it touches the atime, which is
    why pages.py has a helper go first where an update is due).
    """

    __slots__ = ("_address", "_length")

    def __init__(self, descriptor: int, length: int) -> None:
        self._length = length
        self._address: int = _mmap_shadow(None, length, _PROT_NONE, _MAP_SHARED, descriptor, 0)
        if self._address == _pointer(-1).value:
            raise _failure()

    def resident(self, offset: int, length: int) -> int:
        """How many bytes from `offset` on, at most `length`, are in memory without a gap.

        Costs about 2 us for 64 KiB; linear in `length`. Cannot wait. Raises OSError.
        """
        start = offset - offset % PAGE
        pages = (offset + length - start + PAGE - 1) // PAGE
        answer = _of_thread.answer if pages <= _ANSWER_PAGES else _Answer(pages)
        if _mincore(self._address + start, pages * PAGE, answer.array) < 0:
            raise _failure()
        gap = answer.bytes.find(b"\0", 0, pages)
        if gap < 0:
            return length
        return max(0, min(length, start + gap * PAGE - offset))

    def close(self) -> None:
        _munmap_shadow(self._address, self._length)


def populate(descriptor: int, offset: int, length: int) -> None:
    """Map a part of the file, have the kernel touch its pages, unmap it. Waits for the disk.

    MADV_POPULATE_READ (Linux 5.14) reports where a touch by hand would be SIGBUS: raises
    OSError with EFAULT for pages past the end of the file and for pages that cannot be read,
    EINVAL where it is missing. The mapping is transient: what stays mapped is hard to evict.
    """
    start = offset - offset % PAGE
    length += offset - start
    address = _mmap_waiting(None, length, _PROT_READ, _MAP_SHARED, descriptor, start)
    if address == _pointer(-1).value:
        raise _failure()
    try:
        if _madvise_waiting(address, length, _MADV_POPULATE_READ) < 0:
            raise _failure()
    finally:
        _munmap_waiting(address, length)
