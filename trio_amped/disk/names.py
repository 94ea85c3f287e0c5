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

# linux/fs.h: FS_IOC_GETFLAGS, for which the kernel fills in an int, and two flags.
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
    said, EBUSY where it cannot be said now, E2BIG for more than `most` entries.
    """
    descriptor = opening.open_to_read(directory)
    try:
        volume = opening.volume_of(descriptor)
        if not volume.dates_names or _has_other_spellings(descriptor, volume.name):
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


def _has_other_spellings(directory: int, file_system: str) -> bool:
    """Whether an entry may also be found by a name that is not the same bytes."""
    try:
        flags = fcntl.ioctl(directory, _GET_FLAGS, bytes(struct.calcsize("i")))
    except OSError as error:
        if file_system != "tmpfs" or error.errno != errno.ENOTTY:
            raise
        return False  # of a kernel whose tmpfs has no flags yet
    if int.from_bytes(flags, sys.byteorder) & (_ENCRYPTED | _FOLDED):
        return True
    return file_system == "xfs" and _xfs_folds(directory)


def _xfs_folds(directory: int) -> bool:
    geometry = fcntl.ioctl(directory, _GET_XFS_GEOMETRY, bytes(_XFS_GEOMETRY.size))
    (flags,) = _XFS_GEOMETRY.unpack(geometry)
    return bool(flags & _XFS_FOLDED)


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
