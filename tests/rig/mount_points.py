"""Directories to mount on, and how they are let go of. Blocks."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.rig.tools import run_tool


@contextmanager
def public_directory() -> Iterator[Path]:
    """A new directory on the machine's own disk that every user may enter.

    pytest's `tmp_path` is closed to strangers (0700 further up), and /tmp may be a tmpfs.
    """
    with tempfile.TemporaryDirectory(prefix="trio-amped-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def new_directory(parent: Path, kind: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=parent))
    path.chmod(0o755)
    return path


@contextmanager
def mount_point(parent: Path, kind: str) -> Iterator[Path]:
    """A new directory; on leaving, whatever is mounted there is unmounted and it is removed."""
    path = new_directory(parent, kind)
    try:
        yield path
    finally:
        unmount(path)
        with suppress(OSError):
            path.rmdir()


def mounted(path: Path) -> bool:
    escaped = re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", str(path.resolve()))
    return any(line.split()[4] == escaped for line in mountinfo())


def mountinfo() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def unmount(path: Path) -> None:
    """Unmount now; what is still in use is detached, and goes when its last user does."""
    root = os.geteuid() == 0
    commands = [["umount"], ["umount", "-l"]] if root else [["fusermount3", "-u"]]
    commands += [] if root else [["fusermount3", "-u", "-z"]]
    for command in commands:
        if not mounted(path):
            return
        with suppress(RuntimeError):
            run_tool(*command, path)
