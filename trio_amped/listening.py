"""Opens the listeners that a config asks for. Awaits the look-up of its host's name."""

import errno

import trio

from .config import Config


async def open_listeners(config: Config) -> list[trio.SocketListener]:
    """Listen at all addresses of the host. Raises OSError, also (EAGAIN) where no thread can start.

    A name is looked up in a thread, since getaddrinfo(3) waits; an address needs none.
    """
    try:
        return await trio.open_tcp_listeners(config.port, host=config.host)
    except RuntimeError as error:  # a limit of processes; pthread_create(3)
        raise OSError(errno.EAGAIN, str(error)) from None
