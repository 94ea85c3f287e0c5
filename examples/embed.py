"""Serve files from a trio application that has work of its own: `python examples/embed.py`.

The files of examples/site are at one address. At the other one is the application itself: it
tells every caller what the file server has done so far (try it with `nc HOST PORT`).
"""

import json
import signal
from pathlib import Path

import trio

import trio_amped

SITE = Path(__file__).parent / "site"


async def main() -> None:
    server = trio_amped.Server(trio_amped.Config(root=SITE, port=0))

    async def tell_counters(stream: trio.SocketStream) -> None:
        await stream.send_all(json.dumps(server.stats.as_dict()).encode() + b"\n")

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as application:
            # Port 0 is any free port; `start` waits until it is known, and clients can come.
            [(host, port)] = await application.start(server.serve)
            print(f"files at http://{host}:{port}/", flush=True)

            [listener] = await trio.open_tcp_listeners(0, host=host)
            application.start_soon(trio.serve_listeners, tell_counters, [listener])
            print("counters at {} {}".format(*listener.socket.getsockname()), flush=True)

            async for _ in signals:
                break
            # Cancelling stops everything at once. To let transfers finish first, with a
            # deadline, call server.drain() instead: server.serve returns when they have.
            application.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
