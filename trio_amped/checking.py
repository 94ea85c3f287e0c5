"""What would be served, by which gate, and what is odd. Looks at files and sockets, and waits.

Nobody is served meanwhile: the disk may stop whoever asks.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import re
import socket
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from .access_log import STDOUT
from .binds import EVERY_HOST, Bind, Tcp, Unix
from .config import Config, Site
from .disk.kernel import owns
from .listening import is_listened_at
from .places import has_tls, is_at, pairs_of
from .semantics.printable import printable
from .serving.router import open_router
from .stats import Stats

_MOST: Final = 100_000  # names that are looked at in each root
_SHOWN: Final = 3  # names in a line

_OCTAL: Final = re.compile(r"\\([0-7]{3})")

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
            async with open_router(_only(config, site), Stats()) as router:
                report.served.append(f"{printable(os.fspath(site.root))} at {_url(config, site)}")
                report.served.extend(router.how)
                await router.roots[0].check_pages()
            for place in mounts_below(os.fspath(site.root)):
                report.served.append(await _how_below(config, place))
    return report


async def _how_below(config: Config, place: str) -> str:
    """Return how the files of a mount below a root are served: its names are looked up by helpers
    (RESOLVE_NO_XDEV, openat2(2))."""
    only = Config(root=place, gate=config.gate, helpers=config.helpers)
    try:
        async with open_router(only, Stats()) as router:
            gate = router.how[0].partition("; ")[0]
    except OSError as error:
        gate = f"it cannot be opened: {error.strerror}"
    return f"{printable(place)} is a mount of its own: {gate}; files are opened by helpers"


def mounts_below(root: str, table: str = "/proc/self/mountinfo") -> list[str]:
    """Return where file systems are mounted below a root; proc(5), /proc/pid/mountinfo."""
    above = os.path.join(os.path.realpath(root), "")
    with open(table, encoding="utf-8", errors="surrogateescape") as lines:
        points = {_OCTAL.sub(lambda found: chr(int(found[1], 8)), x.split(" ")[4]) for x in lines}
    return sorted(each for each in points if each.startswith(above))


def _only(config: Config, site: Site) -> Config:
    """Return the config for one of its sites, wherever that is served."""
    if not config.sites:
        return config
    there = dataclasses.replace(site, only_at=())
    return dataclasses.replace(config, sites=[there], bind=(), redirect_http=None)


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
    address = bind.address
    if not isinstance(bind.place, Tcp):
        return f"{address} at {prefix}"
    host, _, port = address.rpartition(":")
    return f"{scheme}://{host}:{port if bind.place.port else 'any free port'}{prefix}"


def _url(config: Config, site: Site) -> str:
    binds = [bind for bind in config.binds if is_at(site, bind)]
    schemes = ["https" if has_tls(config, bind) else "http" for bind in binds]
    at = ", ".join(map(_place, binds, [site.prefix] * len(binds), schemes))
    return f"{at} for {', '.join(site.hosts)}" if site.hosts else at


def _is_told_schemes(config: Config, site: Site) -> bool:
    """Return whether a proxy may tell by fields of a request that its client has TLS."""
    is_told = any(is_at(site, bind) and not bind.proxy for bind in config.binds)
    return bool(config.trust) and is_told


def oddities(config: Config, site: Site) -> Iterator[str]:
    """Say what is odd about the files of a site. Waits for the disk."""
    root = os.fspath(site.root)
    if site.hsts and not (pairs_of(config) or _is_told_schemes(config, site)):
        yield "hsts is never sent: it is for TLS, and there is no tls_cert, nor a proxy to trust"
    has_page = any(os.path.exists(os.path.join(root, name)) for name in site.index)
    if not (site.listing or site.fallback or has_page):
        wanted = " or ".join(map(printable, site.index))
        yield f"{printable(root)} has no {wanted}, and no listing: its first page is 404"
    yield from map(printable, site.policy().redirects.oddities())
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


# ---------------------------------------------------------------- what is opened at the start


def oddities_of_start(config: Config) -> Iterator[str]:
    """Say what is odd about the access log, the keys and the binds, which are opened with the
    rights of whoever starts the server. Opens nothing for clients. Waits for the disk, and for
    names."""
    if config.access_log is not None and config.access_log != STDOUT:
        yield from _odd_log(os.fspath(config.access_log))
    for key in dict.fromkeys(key for _, key in pairs_of(config)):
        if os.stat(key).st_mode & stat.S_IROTH:
            yield f"the key {printable(key)} may be read by anybody; see chmod(1)"
    for bind in config.binds:
        if isinstance(bind.place, Tcp):
            yield from _odd_port(bind, bind.place)
        elif isinstance(bind.place, Unix):
            yield from _odd_socket(bind, bind.place.path)


def _odd_log(path: str) -> Iterator[str]:
    log, folder = f"the access log {printable(path)}", os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        yield f"{log} cannot be written: its folder does not exist; see --access-log"
        return
    if os.path.isdir(path):
        yield f"{log} is a folder; see --access-log"
    elif not os.access(path if os.path.exists(path) else folder, os.W_OK, effective_ids=True):
        yield f"{log} may not be written by uid {os.geteuid()}; see chown(1)"
    if _may_be_replaced_by_anybody(folder):
        yield f"{log} is in a folder that anybody may write; see chmod(1)"


def _may_be_replaced_by_anybody(folder: str) -> bool:
    mode = os.stat(folder).st_mode
    return bool(mode & stat.S_IWOTH and not mode & stat.S_ISVTX)


def _odd_port(bind: Bind, place: Tcp) -> Iterator[str]:
    """Try to have the port. One that is in use is not odd: the server may be running."""
    host = "0.0.0.0" if place.host == EVERY_HOST else place.host
    try:
        found = socket.getaddrinfo(host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        yield f"nothing can listen on {bind.text}: its host is no address and no name"
        return
    for family, _, _, _, name in found:
        try:
            with socket.socket(family) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(name)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EAFNOSUPPORT):
                yield f"nothing can listen on {bind.text}: {error.strerror}"


def _odd_socket(bind: Bind, path: str) -> Iterator[str]:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        yield f"nothing can listen on {bind.text}: its folder does not exist"
        return
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        yield f"nothing can listen on {bind.text}: uid {os.geteuid()} may not write its folder"
    if _may_be_replaced_by_anybody(folder):
        yield f"{bind.text} is in a folder that anybody may write; see chmod(1)"
    if os.geteuid() == 0 and bind.mode is None and not bind.owner:
        yield f"{bind.text}: root alone may connect; give it a mode and an owner (,mode=660 ...)"
    if os.geteuid() != 0 and bind.owner.partition(":")[0]:
        yield f"{bind.text}: only root can give a socket to another user"
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            yield f"nothing can listen on {bind.text}: a file is there that is no socket"
        elif not is_listened_at(path):
            yield f"{bind.text}: a socket at which nobody listens is there; a start replaces it"
