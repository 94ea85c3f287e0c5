"""tmpfs, overlayfs, and file systems on loop devices, as context managers. Blocks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Literal

from tests.rig.fuse import calm_disks
from tests.rig.mount_points import mount_point, new_directory, unmount
from tests.rig.tools import run_tool, tool


@contextmanager
def tmpfs(directory: Path, size: int = 64 << 20) -> Iterator[Path]:
    """A tmpfs: its pages are always in memory, and RWF_NOWAIT is not supported."""
    with mount_point(directory, "tmpfs") as path:
        run_tool("mount", "-t", "tmpfs", "-o", f"mode=755,size={size}", "none", path)
        yield path


@contextmanager
def overlayfs(directory: Path, lower: Path) -> Iterator[Path]:
    """An overlay over `lower`; what is written goes to a directory below `directory`."""
    with mount_point(directory, "overlay") as path:
        scratch = new_directory(directory, "overlay-upper")
        upper, work = scratch / "upper", scratch / "work"
        upper.mkdir()
        work.mkdir()
        upper.chmod(lower.stat().st_mode & 0o7777)  # the merged root is the upper one
        options = ",".join(
            f"{name}dir={place}"
            for name, place in (("lower", lower), ("upper", upper), ("work", work))
        )
        try:
            run_tool("mount", "-t", "overlay", "-o", options, "none", path)
            yield path
        finally:
            unmount(path)
            shutil.rmtree(scratch, ignore_errors=True)


# Nothing is left to be initialised later, behind a test's back.
_MAKE: Final = {
    "ext4": ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
    "xfs": ["-q", "-K"],
    "btrfs": ["-q", "-K"],
}
_LEAST: Final = {"ext4": 16 << 20, "xfs": 300 << 20, "btrfs": 128 << 20}  # bytes


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
    with _loop(directory, "ext4", size, read_ahead_kb, image, options) as path:
        yield path


@contextmanager
def loop_disk(
    directory: Path,
    kind: Literal["ext4", "xfs", "btrfs"],
    *,
    make: Sequence[str] = (),
    options: str = "defaults",
    image: Path | None = None,
) -> Iterator[Path]:
    """A small file system of this kind, in a sparse file on a loop device.

    `make`: more options for mkfs. `image`: as with `loop_ext4`.
    """
    size = _LEAST[kind]
    with _loop(directory, kind, size, image=image, options=options, make=make) as path:
        yield path


@contextmanager
def _loop(
    directory: Path,
    kind: str,
    size: int,
    read_ahead_kb: int | None = None,
    image: Path | None = None,
    options: str = "defaults",
    make: Sequence[str] = (),
) -> Iterator[Path]:
    with ExitStack() as cleanup:
        if image is None:
            image = new_directory(directory, "image") / f"{kind}.img"
            cleanup.callback(shutil.rmtree, image.parent, ignore_errors=True)
        path = cleanup.enter_context(mount_point(directory, kind))
        cleanup.callback(calm_disks, image)
        if not image.exists():
            with image.open("xb") as file:
                file.truncate(size)
            run_tool(tool(f"mkfs.{kind}") or f"mkfs.{kind}", *_MAKE[kind], *make, image)
        device = _attach(image)
        try:
            if read_ahead_kb is not None:
                read_ahead(device).write_text(str(read_ahead_kb))
            run_tool("mount", "-t", kind, "-o", options, device, path)
        finally:
            # In use, so it is detached by the last unmount, whoever does that
            run_tool(tool("losetup") or "losetup", "--detach", device)
        yield path


def _attach(image: Path) -> Path:
    losetup = tool("losetup") or "losetup"
    try:
        return Path(run_tool(losetup, "--find", "--show", "--direct-io=on", image))
    except RuntimeError:
        return Path(run_tool(losetup, "--find", "--show", image))


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
