"""Brings parts of files into memory: threads read them, processes touch a mapping; and makes
digests of what is there. Blocks.

Why two ways, when both fill the page cache? A process has an address space of its own. A thread
shares ours, and may not fault a page of a file: where the disk has failed to read the page, the
kernel reads again while it holds mmap_lock, and the event loop's next mmap, munmap or malloc waits
for that disk (2.0 s measured for a read that takes 2 s and fails).
"""

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Final

from . import kernel

Load = Callable[[int, int, int], None]
"""Brings so many bytes at an offset of a descriptor into memory.

Bytes past the end of the file are no error. Raises OSError (EIO) where the disk cannot read.
"""

BLOCK: Final = 64 * 1024  # bytes: whole ones are loaded, so that they can be remembered
DIGEST_SIZE: Final = 16  # bytes
_SCRATCH: Final = 64 * 1024  # bytes; stays in the CPU's cache
_AT_ONCE: Final = 512 * 1024  # bytes for one system call
# EFAULT: a truncated file or an unreadable page, which read(2) tells apart. EINVAL: a kernel before
# 5.14. ENODEV, EACCES: a file that cannot be mapped.
_NOT_BY_TOUCH: Final = (errno.EFAULT, errno.EINVAL, errno.ENODEV, errno.EACCES)


def widened(offset: int, end: int, size: int) -> tuple[int, int]:
    """The start and the end of the blocks that hold a part of a file of this size."""
    return offset - offset % BLOCK, min(size, -(-end // BLOCK) * BLOCK)


def touch(descriptor: int, offset: int, length: int) -> None:
    """Load a part of a file by mappings that are not kept. A `Load` for processes."""
    _load(_touch, descriptor, offset, length)


class Reader:
    """Reads parts of files into the same small scratch again and again; for one thread."""

    def __init__(self) -> None:
        # Written here, so that the kernel's copy into the scratch meets no page that is not there:
        # such a fault takes mmap_lock as well.
        self._scratch = memoryview(bytearray(b"\1") * _SCRATCH)

    def load(self, descriptor: int, offset: int, length: int) -> None:
        """Load a part of a file. A `Load` for threads: os.preadv gives the GIL away."""
        _load(self._read, descriptor, offset, length)

    def _read(self, descriptor: int, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            blocks, rest = divmod(end - offset, _SCRATCH)
            buffers = [self._scratch] * blocks + [self._scratch[:rest]]
            count = os.preadv(descriptor, buffers, offset)
            if count == 0:
                return
            offset += count


def _touch(descriptor: int, offset: int, length: int) -> None:
    try:
        kernel.populate(descriptor, offset, length)
    except OSError as error:
        if error.errno not in _NOT_BY_TOUCH:
            raise
        Reader()._read(descriptor, offset, length)


def _load(use: Load, descriptor: int, offset: int, length: int) -> None:
    """Have the disk begin with a part of a file, and wait until it is there.

    To wait for a page is to `use` it, and the kernel takes a page that was used twice, here and
    when it is sent, for one of those that are used often: a scan would evict the hot set. So of
    what the disk reads in one go only the last page is used, if mincore then says that the others
    are there as well.
    """
    end = offset + _announce(descriptor, offset, length)
    for start in range(offset, end, _AT_ONCE):
        stop = min(end, start + _AT_ONCE)
        use(descriptor, stop - 1, 1)
        if not _is_in_memory(descriptor, start, stop):
            use(descriptor, start, stop - start)


def _is_in_memory(descriptor: int, start: int, stop: int) -> bool:
    """Return whether mincore says so, and knows. Asks nothing of the disk.

    Only for a part that was used before: mmap as well writes an access time that is due, and that
    is a wait for the journal with mmap_lock in our hands.
    """
    if not kernel.owns(os.fstat(descriptor).st_uid):
        return False
    try:
        mapping = kernel.ShadowMapping(descriptor, stop)
    except OSError:
        return False
    try:
        return mapping.resident(start, stop - start) == stop - start
    except OSError:
        return False
    finally:
        mapping.close()


def digest(descriptor: int, size: int, load: Load) -> bytes:
    """Return a digest of the first `size` bytes of a file, which are loaded. Raises OSError."""
    # Imported by who needs it alone: a helper process starts sooner without.
    from hashlib import blake2b

    load(descriptor, 0, size)
    made = blake2b(digest_size=DIGEST_SIZE)
    # Written here for the reason that `Reader` has. A large one: each step may have to wait for the
    # GIL of a busy event loop.
    scratch = memoryview(bytearray(b"\1") * min(size, _AT_ONCE))
    offset = 0
    while count := os.preadv(descriptor, [scratch[: size - offset]], offset):
        made.update(scratch[:count])
        offset += count
    return made.digest()


def _announce(descriptor: int, offset: int, length: int) -> int:
    """Have the disk begin with all of a part of a file; return how much of the part there is.

    Exactly this part, and all of it at once: a page fault reads as much as the disk's read-ahead
    around itself (8 MiB on some), one fault after the other. And what read-ahead by read(2) brings
    in marks a page at which the next read-ahead begins: it would be the event loop that comes to
    that page, and may have to wait for the file's extent blocks.
    """
    if offset < 0 or length < 0:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    end = min(offset + length, os.fstat(descriptor).st_size)
    # The kernel cuts one advice off at what the disk takes in one request.
    for start in range(offset, end, _AT_ONCE):
        with contextlib.suppress(OSError):  # a file system may not take advice
            count = min(end - start, _AT_ONCE)
            os.posix_fadvise(descriptor, start, count, os.POSIX_FADV_WILLNEED)
    return max(0, end - offset)
