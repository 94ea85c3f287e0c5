"""A process of another user, who can reach the interpreter and nothing else. Blocks."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.rig.tools import NOBODY, REPOSITORY


def as_nobody(argv: Sequence[str]) -> list[str]:
    """`argv` run by user and group 65534 without capabilities; the process id stays the same."""
    setpriv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return for_strangers([*setpriv, *argv])


def for_strangers(argv: Sequence[str]) -> list[str]:
    """`argv` where the interpreter is open to all users; the process id stays the same.

    Where the interpreter, the virtual environment or this repository are in a directory that is
    closed to strangers (/root/.pyenv), the process gets a mount namespace in which that
    directory holds only those, and is open. Without this Python *starts* (setpriv keeps root's
    rights until its exec), does not find its standard library, and takes another Python's.
    """
    hidden = _hidden_directories()
    if not hidden:
        return [*argv]
    covers = sorted({cover for cover, _ in hidden})
    script = ["umask 022"]
    script += [f"exec {fd}< {_quote(place)}" for fd, (_, place) in enumerate(hidden, 3)]
    script += [f"mount -t tmpfs -o mode=755,size=1m none {_quote(cover)}" for cover in covers]
    for fd, (_, place) in enumerate(hidden, 3):
        script += [f"mkdir -p {_quote(place)}"]
        script += [f"mount --no-canonicalize --bind /proc/self/fd/{fd} {_quote(place)}"]
        script += [f"exec {fd}<&-"]
    script += [f'umask {_umask():03o}; exec "$@"']
    private = ["unshare", "--mount", "--propagation", "slave"]
    return [*private, "sh", "-ec", "\n".join(script), "for_strangers", *argv]


def _hidden_directories() -> list[tuple[Path, Path]]:
    """The directories that Python needs and strangers cannot reach, and what hides each."""
    hidden: list[tuple[Path, Path]] = []
    needed = {Path(place).resolve() for place in (sys.base_prefix, sys.prefix, REPOSITORY)}
    for place in sorted(needed):
        for ancestor in reversed(place.parents):
            if not ancestor.stat().st_mode & 0o001:
                if not any(place.is_relative_to(other) for _, other in hidden):
                    hidden.append((ancestor, place))
                break
    # one cover may be below another: the outermost hides both
    return [
        (min((c for c, _ in hidden if cover.is_relative_to(c)), key=lambda c: len(c.parts)), place)
        for cover, place in hidden
    ]


def _quote(path: Path) -> str:
    return shlex.quote(str(path))


def _umask() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
