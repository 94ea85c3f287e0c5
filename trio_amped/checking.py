"""What would be served, by which gate, and what is odd. Looks at the files, and waits for them.

Nobody is served meanwhile: the disk may stop whoever asks.
"""

import contextlib
import dataclasses
import logging
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from .binds import Bind, Tcp
from .config import Config, Site
from .disk.kernel import owns
from .semantics.printable import printable
from .serving.router import open_router
from .stats import Stats

_MOST: Final = 100_000  # names that are looked at in each root
_SHOWN: Final = 3  # names in a line

_UNREADABLE: Final = "that the server may not read; see chmod(1)"
_OF_OTHERS: Final = "of other users, where the kernel does not say what is in memory; see chown(1)"
_WRITABLE: Final = "that anybody may write; see chmod(1)"


class Report(NamedTuple):
    """Lines for people: what would be served, and what is odd."""

    served: list[str]
    odd: list[str]


async def look(config: Config) -> Report:
    """Open the sites as a server does, and say how they would be served. Raises OSError.

    Has many checkpoints; cancelling it leaves nothing behind.
    """
    report = Report([], [])
    with _warnings_in(report.odd):
        for site in config.all_sites:  # each by itself: a router tells of equal gates once
            only = dataclasses.replace(config, sites=[site]) if config.sites else config
            async with open_router(only, Stats()) as router:
                report.served.append(f"{printable(os.fspath(site.root))} at {_url(config, site)}")
                report.served.extend(router.how)
                await router.roots[0].check_pages()
    return report


@contextlib.contextmanager
def _warnings_in(lines: list[str]) -> Iterator[None]:
    """Inside, what the server would warn of goes to these lines."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, log = Lines(logging.WARNING), logging.getLogger("trio_amped")
    log.addHandler(handler)
    log.propagate, before = False, log.propagate
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before


def _place(bind: Bind, prefix: str, scheme: str) -> str:
    address = bind.text.partition(",")[0]
    if not isinstance(bind.place, Tcp):
        return f"{address} at {prefix}"
    host, _, port = address.rpartition(":")
    return f"{scheme}://{host}:{port if bind.place.port else 'any free port'}{prefix}"


def _url(config: Config, site: Site) -> str:
    scheme = "http" if config.tls_cert is None else "https"
    at = ", ".join(_place(bind, site.prefix, scheme) for bind in config.binds)
    return f"{at} for {', '.join(site.hosts)}" if site.hosts else at


def oddities(config: Config, site: Site) -> Iterator[str]:
    """Say what is odd about the files of a site. Waits for the disk."""
    root = os.fspath(site.root)
    index = os.path.join(root, "index.html")
    if not (site.listing or site.fallback or os.path.exists(index)):
        yield f"{printable(root)} has no index.html, and no listing: its first page is 404"
    asks_kernel = config.gate in ("auto", "mincore")
    found, is_whole = _odd_names(root, site.hidden, asks_kernel=asks_kernel)
    for (noun, fault), names in sorted(found.items()):
        count = f"1 {noun}" if len(names) == 1 else f"{len(names)} {noun}s"
        shown = ", ".join(map(printable, names[:_SHOWN]))
        more = ", ..." if len(names) > _SHOWN else ""
        yield f"{printable(root)} has {count} {fault}: {shown}{more}"
    if not is_whole:
        yield f"{printable(root)} has more than {_MOST} names: the others were not looked at"


def _odd_names(
    root: str, shown: Sequence[str], *, asks_kernel: bool
) -> tuple[dict[tuple[str, str], list[str]], bool]:
    """Return the names below a root by what they are of and what is odd; whether these are all."""
    found = defaultdict[tuple[str, str], list[str]](list)
    for number, (path, entry) in enumerate(_names(root, shown)):
        if number == _MOST:
            return found, False
        name = os.path.relpath(path, root)
        is_folder = stat.S_ISDIR(entry.st_mode)
        noun = "folder" if is_folder else "file"
        needed = os.R_OK | os.X_OK if is_folder else os.R_OK
        if not os.access(path, needed, effective_ids=True):
            found[noun, _UNREADABLE].append(name)
        elif asks_kernel and not is_folder and not _is_told(path, entry):
            found[noun, _OF_OTHERS].append(name)
        if entry.st_mode & stat.S_IWOTH and not entry.st_mode & stat.S_ISVTX:
            found[noun, _WRITABLE].append(name)
    return found, True


def _is_told(path: str, entry: os.stat_result) -> bool:
    """Return whether mincore tells this process about a file; see disk/kernel.py, owns."""
    return owns(entry.st_uid) or os.access(path, os.W_OK, effective_ids=True)


def _names(root: str, shown: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
    """All folders and regular files that can be served; links are not followed.

    `shown`: the names that are served though they begin with a dot.
    """
    yield root, os.stat(root)
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name[0] != "." or name in (".well-known", *shown)]
        for name in [*folders, *(name for name in files if name[0] != "." or name in shown)]:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):  # it is gone
                entry = os.lstat(path)
                if stat.S_ISREG(entry.st_mode) or stat.S_ISDIR(entry.st_mode):
                    yield path, entry
