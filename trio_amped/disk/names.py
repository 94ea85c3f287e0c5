"""Reads all names of a directory into a file in memory. Waits for the disk: runs in a helper.

In a thread, too: what waits gives the GIL away, and what keeps it is done with a few hundred names
at a time.
"""

import ctypes
import errno
import fcntl
import os
import struct
import sys
import time
from typing import Final

from . import kernel, opening
from .messages import pack_names

# Where a name is these bytes and no others, and where each change of names moves the directory's
# ctime. (On overlayfs a change below the mount leaves the ctime alone, and yet an open sees it.)
_FILE_SYSTEMS: Final = ("ext4", "xfs", "btrfs", "tmpfs")

# linux/fs.h: FS_IOC_GETFLAGS, for which the kernel fills in an int, and two of the flags.
_GET_FLAGS: Final = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1
_ENCRYPTED: Final = 0x00000800  # the names are others as soon as there is a key
_FOLDED: Final = 0x40000000
# xfsprogs, xfs_fs.h: XFS_IOC_FSGEOMETRY_V1, and XFS_FSOP_GEOM_FLAGS_DIRV2CI (-n version=ci).
_XFS_GEOMETRY: Final = struct.Struct("=92xI16x")
_GET_XFS_GEOMETRY: Final = 2 << 30 | _XFS_GEOMETRY.size << 16 | ord("X") << 8 | 100
_XFS_FOLDED: Final = 0x1000

# linux/dirent.h: inode, offset, length of the entry, kind; then the name, which a NUL ends.
_ENTRY: Final = struct.Struct("=16xHB")
_MAY_LEAD_ON: Final = frozenset((0, 4, 10))  # DT_UNKNOWN, DT_DIR, DT_LNK; readdir(3)
_CHUNK: Final = 16 * 1024  # bytes


def read(directory: int, most: int) -> tuple[int, bytes]:
    """A memfd with the names, and what messages.pack_names says of it.

    Each name has a slash behind it; those that may lead to a folder come first. They are all its
    names for as long as its ctime is the same. Raises OSError: EOPNOTSUPP where that can never be
    said, EBUSY where it cannot be said now, E2BIG for more than `most` names.
    """
    descriptor = opening.open_to_read(directory)
    try:
        if not _has_exact_names(descriptor):
            raise _failure(errno.EOPNOTSUPP)
        ctime_ns = os.fstat(descriptor).st_ctime_ns
        if time.time_ns() - ctime_ns < opening.SETTLED:
            raise _failure(errno.EBUSY)
        folders, others = _read(descriptor, most)
        if os.fstat(descriptor).st_ctime_ns != ctime_ns:
            raise _failure(errno.EBUSY)
    finally:
        os.close(descriptor)
    memory = _in_memory(folders, others)
    return memory, pack_names(ctime_ns, len(folders), len(folders) + len(others))


def _failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _has_exact_names(directory: int) -> bool:
    """Whether a name leads to an entry if, and only if, it is the same bytes."""
    name = opening.volume_of(directory).name
    if name not in _FILE_SYSTEMS or _flags(directory, name) & (_ENCRYPTED | _FOLDED):
        return False
    return name != "xfs" or not _xfs_flags(directory) & _XFS_FOLDED


def _flags(directory: int, file_system: str) -> int:
    """What lsattr(1) shows."""
    try:
        flags = fcntl.ioctl(directory, _GET_FLAGS, bytes(struct.calcsize("i")))
    except OSError as error:
        if file_system == "tmpfs" and error.errno == errno.ENOTTY:  # before Linux 6.0
            return 0
        raise
    return int.from_bytes(flags, sys.byteorder)


def _xfs_flags(directory: int) -> int:
    geometry = fcntl.ioctl(directory, _GET_XFS_GEOMETRY, bytes(_XFS_GEOMETRY.size))
    flags: int
    (flags,) = _XFS_GEOMETRY.unpack(geometry)
    return flags


def _read(directory: int, most: int) -> tuple[bytearray, bytearray]:
    """The names of what may lead to a folder, and the others."""
    folders, others = bytearray(), bytearray()
    buffer = ctypes.create_string_buffer(_CHUNK)
    while entries := kernel.getdents64(directory, buffer):
        offset = 0
        while offset < len(entries):
            length, kind = _ENTRY.unpack_from(entries, offset)
            start = offset + _ENTRY.size
            name = entries[start : entries.index(0, start)]
            names = folders if kind in _MAY_LEAD_ON else others
            names += name + b"/"
            offset += length
            most -= 1
        if most < 0:
            raise _failure(errno.E2BIG)
    return folders, others


def _in_memory(*parts: bytearray) -> int:
    memory = os.memfd_create("names")
    try:
        with open(memory, "wb", closefd=False) as file:
            for part in parts:
                file.write(part)
    except BaseException:
        os.close(memory)
        raise
    return memory
