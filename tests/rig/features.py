"""What this machine can do, found out by trying. Blocks."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.cgroups import Controller, cgroup
from tests.rig.fuse import fuse_disk
from tests.rig.tools import NOBODY, require, run_tool
from tests.rig.users import as_nobody
from trio_amped.privileges import landlock_version


def needs(*features: str) -> pytest.MarkDecorator:
    """Skip a test, with the reason, where one of these features or programs is missing."""
    reasons = [reason for feature in features if (reason := missing(feature)) is not None]
    return pytest.mark.skipif(bool(reasons), reason="; ".join(reasons) or "everything is there")


@functools.cache
def missing(feature: str) -> str | None:
    """Why `feature` cannot be used on this machine, or None if it can: it was tried.

    What has no probe here is a program, which is there or not.
    """
    try:
        if feature in _PROBES:
            _PROBES[feature]()
        else:
            require(feature)
    except (RuntimeError, OSError, ImportError) as error:
        return f"no {feature}: {error}"
    return None


def _probe_root() -> None:
    if os.geteuid() != 0:
        raise RuntimeError("not root")


def _probe_nobody() -> None:
    _probe_root()
    require("mount", "setpriv", "unshare")
    program = "import os, sys, trio; print(os.geteuid(), sys.base_prefix)"
    answer = run_tool(*as_nobody([sys.executable, "-c", program]))
    if answer != f"{NOBODY} {sys.base_prefix}":
        raise RuntimeError(f"the interpreter does not work for user {NOBODY}: {answer}")


def _probe_mount(script: str) -> None:
    """Try a mount in a mount namespace of its own, which nobody else sees and which goes away."""
    _probe_root()
    require("mount", "unshare")
    with tempfile.TemporaryDirectory() as directory:
        private = ["unshare", "--mount", "--propagation", "private"]
        run_tool(*private, "sh", "-ec", f'cd "$0"; PATH=$PATH:/usr/sbin:/sbin; {script}', directory)


def _probe_image(size: str, makes: str, options: str) -> None:
    """Try a file system in a file: `makes` is the program that makes it."""
    require(makes)
    _probe_mount(f"mkdir m; truncate -s {size} i; {makes} {options} i; mount -o loop i m")


def _probe_fuse() -> None:
    os.close(os.open("/dev/fuse", os.O_RDWR))
    require("fusermount3")  # its package brings the libfuse3 that mfusepy loads
    importlib.import_module("mfusepy")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "backing").mkdir()
        with fuse_disk(directory, directory / "backing") as disk:
            disk.path.stat()


def _probe_cgroup(controller: Controller | None) -> None:
    _probe_root()
    with cgroup(controller):
        pass


def _probe_strace() -> None:
    require("strace")
    run_tool("strace", "-qq", "-e", "trace=none", "-o", "/dev/null", "true")


def _probe_landlock() -> None:
    if not landlock_version():
        raise RuntimeError("the kernel is before Linux 5.13, or has it disabled")


def _probe_font() -> None:
    if not any(Path("/usr/share/fonts").rglob("*.ttf")):
        raise RuntimeError("not installed: apt-get install fonts-dejavu-core")


_PROBES: dict[str, Callable[[], None]] = {
    "root": _probe_root,
    "nobody": _probe_nobody,
    "tmpfs": lambda: _probe_mount("mount -t tmpfs none ."),
    "overlay": lambda: _probe_mount(
        "mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m"
    ),
    "loop": lambda: _probe_image("1M", "mkfs.ext4", "-q -F -O ^has_journal"),
    "xfs": lambda: _probe_image("300M", "mkfs.xfs", "-q"),
    "btrfs": lambda: _probe_image("128M", "mkfs.btrfs", "-q"),
    "casefold": lambda: _probe_image("16M", "mkfs.ext4", "-q -F -O casefold"),
    "ascii-ci": lambda: _probe_image("300M", "mkfs.xfs", "-q -n version=ci"),
    "fuse": _probe_fuse,
    "blkio": lambda: _probe_cgroup("blkio"),
    "memory": lambda: _probe_cgroup("memory"),
    "pids": lambda: _probe_cgroup("pids"),
    "cgroup2": lambda: _probe_cgroup(None),
    "strace": _probe_strace,
    "landlock": _probe_landlock,
    "font": _probe_font,
}
