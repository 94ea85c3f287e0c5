"""Which sockets stay, come and go when the binds of a config change. Awaits as `listening` does.

A set has a socket for each address of each bind, in their order; a supervisor has one for each of
its workers. What stays open is never closed in between: no client finds a port shut.
"""

import contextlib
import errno
import socket
from collections.abc import Iterator, Sequence
from typing import Final

from .binds import DUAL, EVERY_HOST, Activated, Bind, Descriptor, Tcp
from .listening import CannotListen, Opened, beside, close_all, open_bind

_RESTART: Final = "restart the server"
_EVERY: Final = frozenset({EVERY_HOST, DUAL, "0.0.0.0"})  # hosts that are all addresses


async def rebind(sets: Sequence[Sequence[Opened]], binds: Sequence[Bind]) -> list[list[Opened]]:
    """Return as many sets for these binds, in which the sockets of `sets` are that are still asked
    for; the others are opened.

    No socket is closed: see `beyond`. Raises CannotListen, OSError, and has opened none then.
    """
    found: list[list[Opened]] = [[] for _ in sets]
    kept = pair_up([each.bind for each in _one_of_each(sets[0])], binds)
    with contextlib.ExitStack() as undo:
        for number, bind in enumerate(binds):
            before = kept[number]
            if before is not None:
                for new, old in zip(found, sets, strict=True):
                    of_bind = [each for each in old if each.number == before]
                    new += [each._replace(bind=bind, number=number) for each in of_bind]
                continue
            first = await _opened(number, bind, sets[0])
            for new, spread in zip(found, spread_over(len(sets), first), strict=True):
                undo.callback(close_all, spread)
                new += spread
        undo.pop_all()
    return found


def pair_up(old: Sequence[Bind], new: Sequence[Bind]) -> list[int | None]:
    """Return which of the old binds each of the new ones goes on with; None: it is to be opened.

    Binds of any free port (0) go on in their order. Raises CannotListen for one whose file or
    address would have to be another while clients come by it.
    """
    free = list(range(len(old)))
    found: list[int | None] = []
    for bind in new:
        number = next((each for each in free if old[each].place == bind.place), None)
        if number is not None:
            if _of_the_socket(old[number]) != _of_the_socket(bind):
                raise CannotListen(bind, errno.EBUSY, "it is open with other options", _RESTART)
            free.remove(number)
        found.append(number)
    return found


def beyond(sets: Sequence[Sequence[Opened]], others: Sequence[Sequence[Opened]]) -> list[Opened]:
    """Return what is in these sets, and not in the others: to be closed."""
    known = {each.sock for one in others for each in one}
    return [each for one in sets for each in one if each.sock not in known]


def spread_over(count: int, first: list[Opened]) -> Iterator[list[Opened]]:
    """Yield `count` times sockets for the same clients, those of `first` first. Raises OSError."""
    yield first
    for _ in range(count - 1):
        with contextlib.ExitStack() as undo:
            others: list[Opened] = []
            for each in first:
                others.append(beside(each))
                undo.callback(close_all, others[-1:])
            undo.pop_all()
        yield others


def shared(opened: Sequence[Opened]) -> list[Opened]:
    """Return other descriptors of the same sockets, for a server that closes them. Raises OSError.

    The files of UNIX sockets are left to whoever has opened them.
    """
    with contextlib.ExitStack() as undo:
        others = []
        for each in opened:
            others.append(each._replace(sock=each.sock.dup(), file=None))
            undo.callback(close_all, others[-1:])
        undo.pop_all()
    return others


async def _opened(number: int, bind: Bind, ours: Sequence[Opened]) -> list[Opened]:
    """Listen at a bind that is new, beside the sockets that are open. Raises CannotListen, OSError.

    Those that are to be closed have their addresses until the others are open.
    """
    if isinstance(bind.place, Descriptor | Activated):  # a descriptor may be another file by now
        raise CannotListen(bind, errno.EBADF, "sockets are inherited at the start alone", _RESTART)
    try:
        return await open_bind(number, bind)
    except CannotListen as error:
        if error.errno != errno.EADDRINUSE or (who := _in_the_way(bind, ours)) is None:
            raise
        why = f"this server itself listens at {who}"
        raise CannotListen(bind, errno.EADDRINUSE, why, _RESTART) from None


def _in_the_way(bind: Bind, ours: Sequence[Opened]) -> str | None:
    """Return at which address one of these sockets has the port of a bind, where one of both is for
    all addresses; None: there is none."""
    for each in ours:
        if isinstance(bind.place, Tcp) and each.sock.family != socket.AF_UNIX:
            host, port = each.sock.getsockname()[:2]
            if port == bind.place.port and not _EVERY.isdisjoint((host, bind.place.host)):
                return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return None


def _one_of_each(opened: Sequence[Opened]) -> list[Opened]:
    """Return the first socket of each bind, by its number."""
    firsts = {each.number: each for each in reversed(opened)}
    return [firsts[number] for number in sorted(firsts)]


def _of_the_socket(bind: Bind) -> tuple[object, ...]:
    return bind.ipv6_only, bind.mode, bind.owner
