"""One of several workers, in its process: a server that obeys its supervisor. Awaits both.

`python -m trio_amped.worker NUMBER,announce|quiet,BIND...[,log] CHANNEL,SETTINGS[,LOG],LISTENER...`
by Worker.run: BIND is which one of the config the listener belongs to, counted from 0; SETTINGS is
the descriptor of a file in memory: a line of settings, and one of certificates, if there are any.
LOG is that of the access log.
"""

import faulthandler
import json
import logging
import os
import signal
import socket
import sys
from array import array
from collections.abc import Callable, Sequence

import trio

from . import cli, logs
from .certificates import Certificates
from .config import ROOTS, Config
from .listening import BindListener
from .privileges import become, confine, landlock_version, warn_of_root
from .serving.server import Server
from .settings.effective import unpacked
from .worker_process import BEAT, LARGEST, LOG, RETIRE, SIGNALS, STACKS, STOP

log = logging.getLogger("trio_amped")


def main(arguments: list[str]) -> int:
    """Serve until the supervisor says stop, or is no more; returns the exit status."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    faulthandler.register(STACKS, file=2)  # which needs neither the event loop nor the GIL
    name, descriptors = arguments
    number, manner, *which = name.split(",")
    channel_fd, settings_fd, *fds = map(int, descriptors.split(","))
    log_fd = fds.pop(0) if which[-1:] == ["log"] and which.pop() else None
    channel, *socks = (socket.socket(fileno=fd) for fd in (channel_fd, *fds))
    with open(settings_fd, encoding="utf-8") as file:
        text, _, checked = file.read().partition("\n")
    try:
        config, process = unpacked(text)
        settings = cli.Settings(config, process, cli.look_up(process))
    except (ValueError, TypeError) as error:  # a user is no more; a newer version lacks a setting
        return cli.fail(str(error))
    binds = config.binds
    listeners = [BindListener(sock, binds[int(n)]) for sock, n in zip(socks, which, strict=True)]
    cli.collect_rarely()
    try:
        pair = Certificates(config, checked) if checked else None
        _give_up_rights(settings)
        if pair:
            pair.watch_if_allowed()
    except OSError as error:
        with channel:
            channel.send(json.dumps({"unusable": _reason(error)}).encode())
        return 2
    process = settings.process
    with channel, logs.to_stderr(process.log_level, process.log_format) as begin_with:
        if manner == "quiet":
            # The first worker has said it all: where it serves, how, and which pages are missing.
            logging.disable(logging.WARNING)

        def has_started() -> None:
            _tell_rights(settings, pair)
            logging.disable(logging.NOTSET)
            begin_with(int(number))

        return trio.run(_serve, settings.config, pair, channel, listeners, has_started, log_fd)


def _give_up_rights(settings: cli.Settings) -> None:
    """Be the user, and open nothing else, as the settings say. Raises OSError.

    Before any thread has started: what is given up is the rights of the thread that calls.
    """
    if settings.user is not None:
        become(settings.user)
    if folders := settings.process.confine:
        roots = [site.root for site in settings.config.all_sites]
        confine([*roots, *(folder for folder in folders if folder != ROOTS)])


def _tell_rights(settings: cli.Settings, pair: Certificates | None) -> None:
    """Say whose rights a worker has, and what it can open."""
    warn_of_root()
    if settings.user is not None:
        log.info("serving as %s, uid %d, gid %d", settings.user.name, os.getuid(), os.getgid())
    if settings.process.confine:
        log.info("confined to what is served, by Landlock %d", landlock_version())
    if pair and not pair.is_watched:
        log.info("the certificate is renewed by SIGHUP alone: a worker may not read its files")


def _reason(error: OSError) -> tuple[object, ...]:
    """What the supervisor is told of an error: the arguments of OSError."""
    name = None if error.filename is None else os.fsdecode(error.filename)
    return error.errno, error.strerror or str(error), name


async def _serve(
    config: Config,
    pair: Certificates | None,
    sock: socket.socket,
    listeners: Sequence[trio.abc.Listener[trio.SocketStream]],
    has_started: Callable[[], None],
    log_fd: int | None = None,
) -> int:
    server = Server(config)
    if log_fd is not None:
        server.request_log.replace(log_fd)
    server.certificates = pair
    channel = trio.socket.from_stdlib_socket(sock)
    status = 0
    async with trio.open_nursery() as around:
        around.start_soon(_obey, channel, server, around)
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(server.serve, listeners)
            except OSError as error:
                await _tell(channel, unusable=_reason(error))
                status = 2
            else:
                has_started()
                await _tell(channel, serving=True)
                around.start_soon(_beat, channel)
        around.cancel_scope.cancel()
    await _tell(channel, counters=server.stats.as_dict())
    return status


async def _tell(channel: trio.socket.SocketType, **message: object) -> None:
    try:
        await channel.send(json.dumps(message).encode())
    except OSError as error:
        log.debug("the supervisor is gone: %s", error)


async def _beat(channel: trio.socket.SocketType) -> None:
    """Let the supervisor know that the event loop runs."""
    while True:
        await trio.sleep(BEAT)
        await _tell(channel, alive=True)


async def _obey(channel: trio.socket.SocketType, server: Server, nursery: trio.Nursery) -> None:
    """`nursery` is that of everything."""
    while order := await _order(channel, server):
        if order == LOG:
            continue
        if order == STOP:
            nursery.cancel_scope.cancel()
        elif order == RETIRE:
            server.retire()
        else:
            server.drain()
    log.warning("the supervisor has ended: finishing what is being sent")
    server.drain()


async def _order(channel: trio.socket.SocketType, server: Server) -> bytes:
    """What the supervisor says next; nothing: it is no more.

    A descriptor that comes with the order is that of the access log.
    """
    try:
        order, ancillary, _, _ = await channel.recvmsg(LARGEST, socket.CMSG_SPACE(4))
    except ConnectionResetError:  # nor has it read all that we told
        return b""
    for _, _, data in ancillary:
        for fd in array("i", data):
            server.request_log.replace(fd)
    return order


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
