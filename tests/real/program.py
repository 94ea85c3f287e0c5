"""A server in a program, for what the command line has not: `... program WAY ROOT SECONDS`.

It serves files by TLS or plainly, by the fast lane or by tasks, and an application that counts the
bytes of what is sent to it. It prints its port. Clients have SECONDS for everything.
"""

import functools
import ssl
import sys
from collections.abc import Sequence
from typing import Any

import trio
import trustme

from trio_amped import Config, Exchange, Server


async def count(exchange: Exchange) -> None:
    """Answer with how many bytes the body has."""
    length = 0
    while data := await exchange.receive_some():
        length += len(data)
    await exchange.respond(200, [], b"%d" % length)


async def main(way: str, root: str, seconds: str) -> None:
    """Serve until the end of the process."""
    config = Config(
        root=root,
        fallback=count,
        fast_lane=way != "tasks",
        max_connections=64,
        head_timeout=float(seconds),
        keep_alive_timeout=float(seconds),
        send_timeout=float(seconds),
    )
    listeners: Sequence[trio.abc.Listener[Any]]
    if way == "tls":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    else:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(Server(config).serve, listeners)
        print(address[1], flush=True)


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
