"""What every benchmark beside other servers needs of the machine, and how it is named. Blocks."""

import os
import platform
import re
import resource
from pathlib import Path

from tests.rig.tools import REPOSITORY, require, run_tool
from trio_amped import __version__


def processor() -> str:
    """Return the name of the processor, as the kernel has it."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def cores() -> tuple[int, int]:
    """Return a core for the load and another one for the servers. Raises RuntimeError."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        raise RuntimeError("two cores are needed, one for the server and one for the load")
    return found[0], found[-1]


def check_machine(descriptors: int) -> None:
    """Raise RuntimeError, in words, where nothing can be measured; allow so many descriptors."""
    cores()
    require("wrk", "nginx", "taskset", "openssl")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < descriptors:
        raise RuntimeError(f"{descriptors} open files are needed, {most} are allowed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def commit() -> str:
    """Return the last commit that changed the server; "+" behind it: it was changed since.

    What changes nothing but documents, tests or benches leaves it as it is. Where there is no
    clone: the version. Raises RuntimeError where git fails.
    """
    if not (REPOSITORY / ".git").exists():
        return __version__
    git = ("git", "-C", REPOSITORY)
    found = run_tool(*git, "log", "-1", "--format=%H", "--", "trio_amped")[:12]
    return found + "+" * bool(run_tool(*git, "status", "--porcelain", "--", "trio_amped"))
