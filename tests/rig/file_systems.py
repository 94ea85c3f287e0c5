"""tmpfs, overlayfs, and an ext4 on a loop device, as context managers. Blocks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

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
            image = new_directory(directory, "image") / "ext4.img"
            cleanup.callback(shutil.rmtree, image.parent, ignore_errors=True)
        path = cleanup.enter_context(mount_point(directory, "ext4"))
        cleanup.callback(calm_disks, image)
        if not image.exists():
            with image.open("xb") as file:
                file.truncate(size)
            # no initialisation in the background: it would read and write behind a test's back
            eager = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
            run_tool(tool("mkfs.ext4") or "mkfs.ext4", "-q", "-F", "-m", "0", "-E", eager, image)
        device = _attach(image)
        try:
            if read_ahead_kb is not None:
                read_ahead(device).write_text(str(read_ahead_kb))
            run_tool("mount", "-t", "ext4", "-o", options, device, path)
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
