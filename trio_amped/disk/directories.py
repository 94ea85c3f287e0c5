"""Reads a directory and renders it into a file in memory. Waits for the disk: runs in a helper.

Always in a process: a thread would hold the GIL for as long as 100 000 names take.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Final

from ..semantics.listing import NOTHING, Entry, View
from . import opening

# Names that are shown at most: what bounds the memory of a listing, here and in the answer.
_MOST: Final = 200_000
_CHUNK: Final = 256 * 1024  # bytes
_DIGEST_SIZE: Final = 15


def render(root: int, path: bytes, view: View) -> tuple[int, bytes]:
    """A memfd that shows the directory at `path` below `root`, and the digest of its content.

    Raises OSError.
    """
    directory = opening.open_directory(root, path)
    try:
        entries, is_cut = ([], False) if view == NOTHING else _read(root, path, directory, view)
    finally:
        os.close(directory)
    rendered = os.memfd_create("listing")
    try:
        return rendered, _write(rendered, view.render(path, view.arranged(entries), is_cut))
    except BaseException:
        os.close(rendered)
        raise


def _read(root: int, path: bytes, directory: int, view: View) -> tuple[list[Entry], bool]:
    """Return the entries of a view that the server would serve, and whether there are more."""
    entries: list[Entry] = []
    with os.scandir(directory) as found:
        for each in found:
            name = os.fsencode(each.name)
            if view.hides(name):
                continue
            # It may be gone, or be a link that leads nowhere or out of the root.
            with contextlib.suppress(OSError):
                entry = _entry(name, _status(root, path, each, name))
                if entry and len(entries) == _MOST:
                    return entries, True
                if entry:
                    entries.append(entry)
    return entries, False


def _status(root: int, path: bytes, entry: "os.DirEntry[str]", name: bytes) -> os.stat_result:
    if not entry.is_symlink():
        return entry.stat(follow_symlinks=False)
    return opening.status_beneath(root, path + b"/" + name if path else name)


def _entry(name: bytes, status: os.stat_result) -> Entry | None:
    """None for what is neither a file nor a directory."""
    is_directory = stat.S_ISDIR(status.st_mode)
    if not is_directory and not stat.S_ISREG(status.st_mode):
        return None
    return Entry(name, is_directory, status.st_size, status.st_mtime_ns // 10**9)


def _write(descriptor: int, pieces: Iterator[bytes]) -> bytes:
    """Write all pieces, many at a time; returns their digest."""
    digest = hashlib.blake2s(digest_size=_DIGEST_SIZE)
    buffer = bytearray()
    for piece in pieces:
        digest.update(piece)
        buffer += piece
        if len(buffer) >= _CHUNK:
            _flush(descriptor, buffer)
    _flush(descriptor, buffer)
    return digest.digest()


def _flush(descriptor: int, buffer: bytearray) -> None:
    while buffer:
        del buffer[: os.write(descriptor, buffer)]
