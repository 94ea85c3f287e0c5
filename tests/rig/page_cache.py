"""The page cache as a test wants it: which pages are in memory. Blocks."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED = ctypes.c_void_p(-1).value
_PROT_NONE = 0
_PROT_READ = 1


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
            _free_packets()
    finally:
        os.close(fd)
    raise AssertionError(f"{resident} pages of {path} stay in memory")


def _free_packets() -> None:
    """Have each CPU free the packets that it sent and another one received.

    They hold the pages of a file that `sendfile` sent, and are kept for the CPU that made them
    until it next takes a packet (skb_attempt_defer_free, Linux 5.19).
    """
    usual = os.sched_getaffinity(0)
    try:
        for cpu in usual:
            os.sched_setaffinity(0, {cpu})
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to_itself:
                to_itself.bind(("127.0.0.1", 0))
                to_itself.sendto(b"a packet", to_itself.getsockname())
                to_itself.recv(16)
    finally:
        os.sched_setaffinity(0, usual)


def load(path: Path) -> None:
    """Read a file, so that its pages are in memory."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


@contextmanager
def held_in_memory(path: Path) -> Iterator[None]:
    """Load a file, and let the kernel evict none of its pages, nor its name.

    Pages that were only read may go at any time: a virtual machine's host asks for memory back.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        address = _libc.mmap(None, size, _PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == _MAP_FAILED:
        raise _error()
    try:
        if _libc.mlock(address, size) != 0:
            raise _error()
        yield
    finally:
        _libc.munmap(address, size)


def forget_names() -> None:
    """Drop the kernel's cache of names and inodes that nobody uses (of the whole machine)."""
    Path("/proc/sys/vm/drop_caches").write_text("2")
