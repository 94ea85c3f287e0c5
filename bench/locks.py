"""Which calls wait for whoever writes a file, all of whose wanted pages are in memory. Blocks.

    python -m bench.locks [--seconds 0.5]

Somebody writes 10 bytes to a page that is not in memory, punches a hole that begins within one, or
cuts the file off within one; the disk below takes so many seconds to read that page. Meanwhile each
call is made for other pages of the file, which are in memory. The table has the milliseconds that
it took, and the age of the file's ctime when it was made. The disk is a FUSE file system below a
loop device; a tmpfs has none, so its writer does not wait. As root.
"""

import argparse
import ctypes
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests import rig
from trio_amped.disk import kernel

SIZE: Final = 1 << 20
CACHED: Final = 256 << 10
PLACE: Final = 768 << 10  # what is written; not in memory
KINDS: Final = ("ext4", "xfs", "btrfs", "overlayfs on xfs", "tmpfs")
_KEEP_SIZE_PUNCH_HOLE: Final = 3
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _write(fd: int) -> None:
    os.pwrite(fd, b"0123456789", PLACE + 5)


def _punch(fd: int) -> None:
    offset, length = ctypes.c_int64(PLACE + 5), ctypes.c_int64(100_000)
    if _libc.fallocate(fd, _KEEP_SIZE_PUNCH_HOLE, offset, length) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def _truncate(fd: int) -> None:
    os.ftruncate(fd, PLACE + 5)


DEEDS: Final[dict[str, Callable[[int], None]]] = {
    "write": _write,
    "punch a hole": _punch,
    "truncate": _truncate,
}


def _open(path: Path, fd: int) -> None:
    os.close(kernel.openat2(kernel.AT_FDCWD, os.fsencode(path), os.O_RDONLY, 0))


def _mincore(path: Path, fd: int) -> None:
    mapping = kernel.ShadowMapping(fd, SIZE)
    mapping.resident(0, CACHED)
    mapping.close()


def _sendfile(path: Path, fd: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.sendfile(ours.fileno(), fd, 0, 16 << 10)


CALLS: Final[dict[str, Callable[[Path, int], object]]] = {
    "open": _open,
    "fstat": lambda path, fd: os.fstat(fd),
    "mincore": _mincore,
    "pread": lambda path, fd: os.pread(fd, 16 << 10, 0),
    "preadv2 nowait": lambda path, fd: os.preadv(fd, [bytearray(16 << 10)], 0, os.RWF_NOWAIT),
    "sendfile": _sendfile,
}


def load_start(fd: int) -> None:
    """Read the first CACHED bytes of a file into memory, and no page behind them."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, CACHED, 0)


def measure(
    path: Path,
    deed: Callable[[int], None],
    call: Callable[[Path, int], object],
    seconds: float,
    disk: rig.FuseDisk | None,
) -> str:
    """Milliseconds that a call took while somebody writes, with what it raised."""
    path.write_bytes(b"\1" * SIZE)
    old = path.stat().st_ctime_ns
    if disk:
        rig.evict(path)
    with path.open("rb", buffering=0) as file, path.open("r+b", buffering=0) as written:
        load_start(file.fileno())
        writer = threading.Thread(target=deed, args=[written.fileno()])
        timer = threading.Timer(seconds, disk.release) if disk else None
        if disk:
            disk.hang("read")
        try:
            writer.start()
            if disk and timer:
                timer.start()
                disk.wait_hanging(timeout=seconds / 2)
            is_told = os.fstat(file.fileno()).st_ctime_ns != old
            begin, error = time.perf_counter(), ""
            try:
                call(path, file.fileno())
            except OSError as failure:
                error = f" {os.strerror(failure.errno or 0)}"
            taken = 1000 * (time.perf_counter() - begin)
        except TimeoutError:
            return "the writer does not wait"
        finally:
            if disk:
                disk.release()
            writer.join()
            if timer:
                timer.join()
    return f"{taken:.2f}{error}{'' if is_told or not disk else ' (old ctime)'}"


@contextmanager
def place_on(kind: str, scratch: Path, disk: rig.FuseDisk) -> Iterator[Path]:
    """A folder on a file system of this kind, whose disk is slow."""
    with ExitStack() as stack:
        if kind == "tmpfs":
            yield stack.enter_context(rig.tmpfs(scratch))
            return
        below = "xfs" if kind.startswith("overlayfs") else kind
        image = disk.path / f"{kind.replace(' ', '-')}.img"
        root = stack.enter_context(rig.loop_disk(scratch, below, image=image))  # type: ignore[arg-type]
        if kind.startswith("overlayfs"):
            lower = root / "lower"
            lower.mkdir()
            root = stack.enter_context(rig.overlayfs(root, lower))
        yield root


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="that the disk takes")
    seconds = parser.parse_args().seconds
    for feature in ("root", "loop", "xfs", "btrfs", "overlay", "tmpfs", "fuse"):
        if reason := rig.missing(feature):
            print(reason, file=sys.stderr)
            return 2
    print(f"| file system | writer | {' | '.join(CALLS)} |")
    print(f"|---|---|{'---:|' * len(CALLS)}")
    with rig.public_directory() as scratch:
        (scratch / "backing").mkdir()
        with rig.fuse_disk(scratch, scratch / "backing") as disk:
            for kind in KINDS:
                with place_on(kind, scratch, disk) as root:
                    for name, deed in DEEDS.items():
                        slow = None if kind == "tmpfs" else disk
                        row = [
                            measure(root / "file", deed, call, seconds, slow)
                            for call in CALLS.values()
                        ]
                        print(f"| {kind} | {name} | {' | '.join(row)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
