"""A systemd that runs two units of ours, as process 1 of namespaces of its own. Blocks.

It sees this machine's files, but for the folders that it would change or take units from: empty
ones are mounted over those. It has a control group and a table of processes of its own; the network
is ours, so its sockets can be reached.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.real.support import children
from tests.rig import GUARD, for_strangers
from tests.rig.cgroups import cgroup, inside

PROGRAM: Final = Path("/lib/systemd/systemd")
_COVERED: Final = ("/run", "/etc/systemd/system", "/lib/systemd/system", "/opt", "/srv")
# Those that units need by default, without what the machine starts for them.
_TARGETS: Final = ("sysinit", "basic", "sockets", "shutdown", "multi-user")
_NAMESPACES: Final = ("--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--cgroup")


class Systemd:
    """A running systemd; `said`: the file to which it writes."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self._process = process
        self.said = said

    def control(self, *words: str) -> str:
        """Return what systemctl says; AssertionError if it fails."""
        (first,) = children(self._process.pid)
        enter = ["nsenter", f"--target={first}", "--mount", "--pid"]
        done = subprocess.run(
            [*enter, "systemctl", *words], capture_output=True, text=True, timeout=GUARD
        )
        said = self.said.read_text(errors="replace")
        assert done.returncode == 0, (words, done.stdout, done.stderr, said)
        return done.stdout.strip()


@contextmanager
def running_systemd(place: Path, setup: list[str]) -> Iterator[Systemd]:
    """A systemd that starts what multi-user.target wants, of the units in its folder.

    place: a folder for what it says. setup: commands for the shell that run before it does, in its
    namespaces, with the variable `units` for the folder of its units.
    """
    said = place / "systemd.log"
    said.touch()
    script = [f"mount -t tmpfs -o mode=755 none {each}" for each in _COVERED]
    script += ["mount -t cgroup2 none /sys/fs/cgroup"]
    script += [f"mount --bind {shlex.quote(str(said))} /dev/console"]
    script += ["units=/run/systemd/system; mkdir -p $units"]
    lines = r"[Unit]\nDefaultDependencies=no\n"
    script += [f"printf '{lines}' > $units/{each}.target" for each in _TARGETS]
    script += setup
    variables = "container=test SYSTEMD_LOG_TARGET=console"
    script += [f'exec env -i PATH="$PATH" {variables} {PROGRAM} --unit=multi-user.target']
    argv = for_strangers(["unshare", *_NAMESPACES, "sh", "-euc", "\n".join(script)])
    with cgroup(None) as group, said.open("ab") as output:
        process = subprocess.Popen(
            inside(group, argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            yield Systemd(process, said)
        finally:
            process.kill()  # and by --kill-child all that are in its namespace
            process.wait(GUARD)
