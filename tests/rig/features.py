"""What this machine can do, found out by trying. Blocks."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from tests.rig.fuse import fuse_disk
from tests.rig.slow_disk import cgroup
from tests.rig.tools import NOBODY, run_tool, tool
from tests.rig.users import as_nobody

Feature = Literal[
    "root", "nobody", "loop", "xfs", "btrfs", "casefold", "ascii-ci", "overlay", "tmpfs", "fuse",
    "blkio", "strace", "nginx", "curl",
]  # fmt: skip


def needs(*features: Feature) -> pytest.MarkDecorator:
    """Skip a test, with the reason, where one of these features is missing."""
    reasons = [reason for feature in features if (reason := missing(feature)) is not None]
    return pytest.mark.skipif(bool(reasons), reason="; ".join(reasons) or "everything is there")


@functools.cache
def missing(feature: Feature) -> str | None:
    """Why `feature` cannot be used on this machine, or None if it can: it was tried."""
    try:
        _PROBES[feature]()
    except (RuntimeError, OSError, ImportError) as error:
        return f"no {feature}: {error}"
    return None


def _probe_root() -> None:
    if os.geteuid() != 0:
        raise RuntimeError("not root")


def _probe_nobody() -> None:
    _probe_root()
    program = "import os, sys, trio; print(os.geteuid(), sys.base_prefix)"
    answer = run_tool(*as_nobody([sys.executable, "-c", program]))
    if answer != f"{NOBODY} {sys.base_prefix}":
        raise RuntimeError(f"the interpreter does not work for user {NOBODY}: {answer}")


def _probe_mount(script: str) -> None:
    """Try a mount in a mount namespace of its own, which nobody else sees and which goes away."""
    _probe_root()
    with tempfile.TemporaryDirectory() as directory:
        private = ["unshare", "--mount", "--propagation", "private"]
        run_tool(*private, "sh", "-ec", f'cd "$0"; PATH=$PATH:/usr/sbin:/sbin; {script}', directory)


def _probe_fuse() -> None:
    os.close(os.open("/dev/fuse", os.O_RDWR))
    if os.geteuid() != 0 and tool("fusermount3") is None:
        raise RuntimeError("neither root nor fusermount3")
    importlib.import_module("mfusepy")  # OSError if there is no libfuse
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "backing").mkdir()
        with fuse_disk(directory, directory / "backing") as disk:
            disk.path.stat()


def _probe_blkio() -> None:
    _probe_root()
    with cgroup():
        pass


def _probe_strace() -> None:
    _probe_tool("strace")
    run_tool("strace", "-qq", "-e", "trace=none", "-o", "/dev/null", "true")


def _probe_tool(name: str) -> None:
    if tool(name) is None:
        raise RuntimeError("not installed")


_PROBES: dict[Feature, Callable[[], None]] = {
    "root": _probe_root,
    "nobody": _probe_nobody,
    "tmpfs": lambda: _probe_mount("mount -t tmpfs none ."),
    "overlay": lambda: _probe_mount(
        "mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m"
    ),
    "loop": lambda: _probe_mount(
        "mkdir m; truncate -s 1M i; mkfs.ext4 -q -F -O ^has_journal i; mount -o loop i m"
    ),
    "xfs": lambda: _probe_mount("mkdir m; truncate -s 300M i; mkfs.xfs -q i; mount -o loop i m"),
    "btrfs": lambda: _probe_mount(
        "mkdir m; truncate -s 128M i; mkfs.btrfs -q i; mount -o loop i m"
    ),
    "casefold": lambda: _probe_mount(
        "mkdir m; truncate -s 16M i; mkfs.ext4 -q -F -O casefold i; mount -o loop i m"
    ),
    "ascii-ci": lambda: _probe_mount(
        "mkdir m; truncate -s 300M i; mkfs.xfs -q -n version=ci i; mount -o loop i m"
    ),
    "fuse": _probe_fuse,
    "blkio": _probe_blkio,
    "strace": _probe_strace,
    "nginx": lambda: _probe_tool("nginx"),
    "curl": lambda: _probe_tool("curl"),
}
