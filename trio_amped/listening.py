"""Opens the sockets that a config's binds ask for. Awaits look-ups of names, and threads.

A socket of ours is opened, one of systemd or of whoever has started us is inherited.
"""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import trio

from .binds import DUAL, EVERY_HOST, Activated, Bind, Descriptor, Tcp, Unix
from .semantics.printable import printable

log = logging.getLogger("trio_amped")

_BACKLOG: Final = 0xFFFF  # as trio does; the kernel takes what it allows
_FIRST_PASSED: Final = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_TRIES: Final = 60  # for the lock of a folder, which a server holds for a moment
_PAUSE: Final = 0.05  # seconds between two of them


class CannotListen(OSError):
    """Nothing can listen at a bind: `errno` and `strerror` say why, `advice` what could help."""

    def __init__(self, bind: Bind, number: int | None, reason: str, advice: str = "") -> None:
        super().__init__(number, reason)
        self.bind = bind
        self.advice = advice

    def __str__(self) -> str:
        advice = self.advice or "choose another address with --bind, or --host and --port"
        return f"cannot listen on {self.bind.text}: {self.strerror}; {advice}"


class SocketFile(NamedTuple):
    """The file of a UNIX socket that we have made: at `path`, and this inode."""

    path: str
    device: int
    inode: int


class Opened(NamedTuple):
    """A socket that listens for a bind, which is the one of this `number` in the config.

    `is_ours`: it was opened here, and not inherited.
    """

    sock: socket.socket
    bind: Bind
    number: int
    is_ours: bool
    file: SocketFile | None = None

    def listener(self) -> "BindListener":
        """Return the listener of this socket, which has the socket from now on."""
        return BindListener(self.sock, self.bind)


class BindListener(trio.abc.Listener[trio.SocketStream]):
    """The listener of a bind, which says how connections begin: by PROXY protocol, by TLS."""

    def __init__(self, sock: socket.socket, bind: Bind) -> None:
        self.socket = trio.socket.from_stdlib_socket(sock)
        self.bind = bind
        self._listener = trio.SocketListener(self.socket)

    async def accept(self) -> trio.SocketStream:
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


async def open_binds(binds: Sequence[Bind]) -> list[Opened]:
    """Listen at all binds. Raises CannotListen, also (EAGAIN) where no thread can start.

    A name is looked up in a thread, since getaddrinfo(3) waits, and a UNIX socket is made in one.
    """
    passed = _inherited(binds, passed_by_systemd(os.environ, os.getpid()))
    with contextlib.ExitStack() as undo:
        opened: list[Opened] = []
        for number, bind in enumerate(binds):
            new = await open_bind(number, bind, passed.get(number, ()))
            undo.callback(close_all, new)
            opened += new
        undo.pop_all()
    return opened


async def open_bind(number: int, bind: Bind, passed: Sequence[int] = ()) -> list[Opened]:
    """Listen at one bind, or at the descriptors that were `passed` for it. Raises CannotListen."""
    with _blamed(bind):
        return await _open(number, bind, passed)


def close_all(opened: Sequence[Opened]) -> None:
    """Close sockets, and remove the files of those that are UNIX sockets of ours."""
    for each in opened:
        each.sock.close()
    remove_files(opened)


def remove_files(opened: Sequence[Opened]) -> None:
    """Remove the files of UNIX sockets, but for those that are a successor's by now.

    It does not ask whether the disk waits: these files are in memory (/run), and this is the end.
    """
    for each in opened:
        if each.file is not None and _file_at(each.file.path) == each.file:
            with contextlib.suppress(OSError):  # the folder may be another user's, or gone
                os.unlink(each.file.path)


@contextlib.contextmanager
def _blamed(bind: Bind) -> Iterator[None]:
    """Have an error say which bind it is about, and how it can be mended."""
    try:
        yield
    except CannotListen:
        raise
    except UnicodeError:  # no name of IDNA, RFC 5891; nor one of stdlib's, RFC 3490
        raise CannotListen(bind, errno.EINVAL, "its host is no name") from None
    except RuntimeError as error:  # a limit of processes; pthread_create(3)
        advice = "allow more processes, see ulimit -u"
        raise CannotListen(bind, errno.EAGAIN, str(error), advice) from None
    except OSError as error:
        raise CannotListen(
            bind, error.errno, error.strerror or str(error), _advice(error)
        ) from None


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "stop who has it, or choose another with --bind or --port"
    if error.errno == errno.EACCES:
        return "choose a port above 1023, or a folder in which you may write"
    return ""


async def _open(number: int, bind: Bind, passed: Sequence[int]) -> list[Opened]:
    place = bind.place
    if isinstance(place, Tcp):
        return [Opened(sock, bind, number, True) for sock in await _open_tcp(place, bind.ipv6_only)]
    if isinstance(place, Unix):
        sock, file = await trio.to_thread.run_sync(
            _open_unix, place.path, bind, abandon_on_cancel=True
        )
        return [Opened(sock, bind, number, True, file)]
    return [Opened(_take(fd, bind), bind, number, False) for fd in passed]


# ---------------------------------------------------------------- TCP


async def _open_tcp(place: Tcp, ipv6_only: bool) -> list[socket.socket]:
    """Listen at each address of a host; at all of the machine by one socket, if it has IPv6."""
    if place.host in (EVERY_HOST, DUAL) and not ipv6_only:
        try:
            return [_open_dual(place.port)]
        except OSError as error:
            if place.host == DUAL or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    host = "0.0.0.0" if place.host == EVERY_HOST else place.host
    listeners = await trio.open_tcp_listeners(place.port, host=host)
    return [socket.socket(fileno=listener.socket.detach()) for listener in listeners]


def _open_dual(port: int) -> socket.socket:
    """Listen for IPv6 and IPv4, whatever net.ipv6.bindv6only says."""
    return _listening(socket.AF_INET6, (DUAL, port), ipv6_only=False)


def _listening(
    family: int, name: object, *, ipv6_only: bool, options: Sequence[int] = ()
) -> socket.socket:
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family))
        for option in (socket.SO_REUSEADDR, *options):
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        sock.bind(name)  # type: ignore[arg-type]
        sock.listen(_BACKLOG)
        undo.pop_all()
    return sock


def beside(first: Opened) -> Opened:
    """Return one more socket for the same clients, which another process can accept from.

    Of TCP sockets of ours, each has a queue of its own, among which the kernel spreads connections.
    All others have one queue, for which processes compete. Raises OSError.
    """
    other = first.sock
    if not first.is_ours or other.family == socket.AF_UNIX:
        return first._replace(sock=other.dup())
    # Not before it was bound: it must fail where another server listens, one of ours included.
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    ipv6_only = _is_ipv6_only(other)
    name, options = other.getsockname(), [socket.SO_REUSEPORT]
    sock = _listening(other.family, name, ipv6_only=ipv6_only, options=options)
    return first._replace(sock=sock)


def _is_ipv6_only(sock: socket.socket) -> bool:
    if sock.family != socket.AF_INET6:
        return False
    return bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


# ---------------------------------------------------------------- UNIX sockets


def _open_unix(path: str, bind: Bind) -> tuple[socket.socket, SocketFile]:
    """Make a UNIX socket, whose file has its mode and owner before anybody is let in.

    Of several servers that start at the same path, one is first: each holds a lock of the folder
    (flock(2)), without which the file of one that does not listen yet would be stale for the next.
    Raises CannotListen, OSError; trio.Cancelled where nobody wants the socket any more.
    """
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(folder, bind)
        _remove_stale(path, bind)
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(path)
            undo.callback(os.unlink, path)
            _give(path, bind)
            sock.listen(_BACKLOG)
            file = _file_at(path)
            undo.pop_all()
        assert file is not None
        return sock, file
    finally:
        os.close(folder)


def _lock(folder: int, bind: Bind) -> None:
    """Lock a folder, for which others have some seconds. Raises CannotListen.

    Whoever can read the folder can lock it as well, for ever.
    """
    for _ in range(_TRIES):
        trio.from_thread.check_cancelled()
        try:
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
    advice = "see lslocks(8), or choose a folder that others may not read"
    raise CannotListen(bind, errno.EBUSY, "somebody holds a lock of its folder", advice)


def _remove_stale(path: str, bind: Bind) -> None:
    """Remove the file of a server that has ended without a chance to. Raises CannotListen."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        advice = "remove it, or choose another path"
        raise CannotListen(bind, errno.EEXIST, "a file is there that is no socket", advice)
    if is_listened_at(path):
        raise OSError(errno.EADDRINUSE, "a server listens there")
    os.unlink(path)


def is_listened_at(path: str) -> bool:
    """Return whether a server listens at a UNIX socket, which is connected to. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:  # nobody has it open; unix(7)
            return False
        except BlockingIOError:  # somebody who is busy
            pass
    return True


def _give(path: str, bind: Bind) -> None:
    """Give a socket its owner and mode. Raises CannotListen, OSError.

    Whoever may write the folder can put a link to another file in its place: it is the file that
    was opened which is changed (proc(5), /proc/pid/fd), and only a socket.
    """
    if not bind.owner and bind.mode is None:
        return
    user, _, group = bind.owner.partition(":")
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISSOCK(os.fstat(file).st_mode):
            advice = "choose a folder that others may not write"
            raise CannotListen(bind, errno.EEXIST, "somebody has replaced the socket", advice)
        opened = f"/proc/self/fd/{file}"
        if bind.owner:
            shutil.chown(opened, _name_or_number(user), _name_or_number(group))  # type: ignore[arg-type]
        if bind.mode is not None:
            os.chmod(opened, bind.mode)
    except LookupError as error:
        raise CannotListen(bind, errno.EINVAL, str(error), "name another owner") from None
    finally:
        os.close(file)


def _name_or_number(text: str) -> int | str | None:
    return int(text) if text.isdecimal() else text or None


def _file_at(path: str) -> SocketFile | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return SocketFile(path, found.st_dev, found.st_ino)


# ---------------------------------------------------------------- sockets of others


def passed_by_systemd(environment: Mapping[str, str], pid: int) -> dict[int, str]:
    """Return the descriptors that are passed to this process, with their names; sd_listen_fds(3).

    They are for the process of LISTEN_PID alone, not for what that one starts.
    """
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(pid) or not count.isdecimal():
        return {}
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (int(count) - len(names))
    return {_FIRST_PASSED + n: names[n] or "unknown" for n in range(int(count))}


def _inherited(binds: Sequence[Bind], passed: Mapping[int, str]) -> dict[int, list[int]]:
    """Return which descriptors each bind takes, by its number. Raises CannotListen."""
    taken = {bind.place.number for bind in binds if isinstance(bind.place, Descriptor)}
    named = {bind.place.name for bind in binds if isinstance(bind.place, Activated)}
    found: dict[int, list[int]] = {}
    for number, bind in enumerate(binds):
        place = bind.place
        if isinstance(place, Descriptor):
            found[number] = [place.number]
        elif isinstance(place, Activated):
            free = {fd: name for fd, name in passed.items() if fd not in taken}
            found[number] = [
                fd
                for fd, name in free.items()
                if name == place.name or (not place.name and name not in named)
            ]
            if not found[number]:
                raise CannotListen(bind, errno.EBADF, _nothing(place, passed), _ACTIVATE)
    unused = [name for fd, name in passed.items() if not any(fd in fds for fds in found.values())]
    if unused:
        names = printable(", ".join(unused))
        log.warning("systemd has passed sockets (%s) that nobody serves: --bind systemd", names)
    return found


_ACTIVATE: Final = "start it by a socket unit of systemd, or by systemd-socket-activate"


def _nothing(place: Activated, passed: Mapping[int, str]) -> str:
    if place.name and passed:
        return f"systemd has passed no socket of this name, but {', '.join(passed.values())}"
    return "systemd has passed no socket (LISTEN_FDS, LISTEN_PID)"


def _take(fd: int, bind: Bind) -> socket.socket:
    """Return an inherited socket; what we start does not inherit it. Raises CannotListen."""
    fail = partial(CannotListen, bind, errno.EBADF, advice="pass a TCP or UNIX socket that listens")
    try:
        os.set_inheritable(fd, False)
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise fail(f"descriptor {fd} is no socket")
        sock = socket.socket(fileno=fd)
    except CannotListen:
        raise
    except OSError as error:
        raise fail(f"descriptor {fd}: {error.strerror}") from None
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if sock.family not in families or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise fail(f"descriptor {fd} is no TCP or UNIX socket that listens")
    return sock
