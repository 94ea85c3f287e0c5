"""Look at the processes of a server from outside, for what they hold. Blocks."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple, cast

from tests.rig import GUARD, ServerProcess

HELPERS = 16  # --max-helpers
MOST = HELPERS + 2  # with the processes that make listings
GROWTH = 32.0  # MiB of RSS that a process may have more than when it was warm


class Process(NamedTuple):
    """What a process of the server holds; descriptors for helpers and listings are apart."""

    links: list[str]
    helper_links: int
    listings: int  # which are kept, up to 64 MiB of them
    files: int  # places where served files are mapped
    maps: int
    threads: int
    children: int
    rss: float  # MiB

    @classmethod
    def of(cls, pid: int, base: Path) -> "Process":
        """Look at a process; `base` is above all that is served. Raises OSError if it is gone."""
        proc, links = Path(f"/proc/{pid}"), links_of(pid)
        unix = re.findall(r" 0[1-6] +(\d+)", (proc / "net/unix").read_text())
        helpers = {"anon_inode:[pidfd]", *(f"socket:[{inode}]" for inode in unix)}
        listings = [link for link in links if link.startswith("/memfd:listing")]
        own = [link for link in links if link not in helpers and link not in listings]
        maps = (proc / "maps").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", (proc / "status").read_text())
        if not found:
            raise ProcessLookupError(f"process {pid} has just ended")
        helper_links = len(links) - len(own) - len(listings)
        counts = helper_links, len(listings), maps.count(str(base)), len(maps.splitlines())
        threads = len(os.listdir(proc / "task"))
        return cls(own, *counts, threads, len(children(pid)), int(found[1]) / 1024)

    def excess(self, start: "Process", warm: "Process", helpers: int, looks: int = 0) -> list[str]:
        """Return what there is more of than may remain: than at the start, or when it was warm.

        `looks`: tasks that look at files every ten seconds, for each of which trio keeps a thread.
        A thread has its stack and its guard page, and may have an arena of malloc with two more.
        """
        most = {
            "files": 0,
            "listings": helpers,
            "helper_links": start.helper_links + 2 * helpers,
            "maps": warm.maps + 4 * helpers,
            "threads": start.threads + helpers + looks,
            "children": start.children + helpers,
            "rss": warm.rss + GROWTH,
        }
        found = [
            f"{name}: {getattr(self, name)}" for name in most if getattr(self, name) > most[name]
        ]
        if len(self.links) > len(start.links):
            found.append(f"descriptors: {sorted(self.links)}")
        return found

    def __str__(self) -> str:
        return (
            f"RSS {self.rss:.1f} MiB, fds {len(self.links)} + {self.helper_links} for helpers "
            f"+ {self.listings} of listings, "
            f"{self.maps} mappings, {self.files} of files, {self.threads} threads, "
            f"{self.children} children"
        )


def links_of(pid: int) -> list[str]:
    """Return what the open descriptors of a process are."""
    links = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return links


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    found = ""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += (task / "children").read_text()
    return [int(each) for each in found.split()]


def workers(server: ServerProcess) -> list[int]:
    """Return the processes that serve: the workers of a supervisor, or the one that there is."""
    if "--workers" not in cast(list[str], server.process.args):
        return [server.pid]
    found = []
    for pid in children(server.pid):
        with contextlib.suppress(OSError):  # one that starts, or ends, has no event loop
            if "anon_inode:[eventpoll]" in links_of(pid):
                found.append(pid)
    return found


def ports_of_clients(pid: int, port: int) -> frozenset[int]:
    """Return the ports of the clients whose connections a process has accepted."""
    links, found = set(links_of(pid)), set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1][-4:], 16) == port and f"socket:[{fields[9]}]" in links:
            found.add(int(fields[2][-4:], 16))
    return frozenset(found)


def stop(pid: int) -> None:
    """Have a process do nothing more, from when this returns."""
    os.kill(pid, signal.SIGSTOP)
    while not re.search(r"State:\s+[TZ]", Path(f"/proc/{pid}/status").read_text()):
        time.sleep(0.001)


def tasks(server: ServerProcess, pid: int) -> int:
    """Return how many trio tasks a process has, which it tells itself (inside/sitecustomize.py)."""
    told = re.compile(rf"{pid} has (\d+) tasks")
    before, deadline = len(told.findall("\n".join(server.log))), time.monotonic() + GUARD
    os.kill(pid, signal.SIGRTMIN)
    while len(found := told.findall("\n".join(server.log))) == before:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not tell its tasks")
        time.sleep(0.02)
    return int(found[-1])
