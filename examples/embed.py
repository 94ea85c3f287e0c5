"""A trio application whose API and files share a port: `python examples/embed.py`.

The files are those of examples/site. Whatever is none of them goes to `api`, which is called with
each request: it tells what the server has done so far, and sends back in capitals what it is sent,
while it is sent. Try `curl -T FILE http://127.0.0.1:PORT/api/shout`.
"""

import json
import signal
from pathlib import Path

import trio

import trio_amped

SITE = Path(__file__).parent / "site"
TEXT = ("Content-Type", "text/plain; charset=utf-8")


async def drain_on_signals(server: trio_amped.Server) -> None:
    """What is being sent has three seconds to finish, after a second signal none; then
    `server.serve` returns."""
    seconds = 3.0
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            server.drain(seconds)
            seconds = 0.0


async def main() -> None:
    async def api(exchange: trio_amped.Exchange) -> None:
        path = exchange.request.target.partition(b"?")[0]
        if path == b"/api/counters" and exchange.request.method in (b"GET", b"HEAD"):
            counters = json.dumps(server.stats.as_dict()).encode()
            await exchange.respond(200, [("Content-Type", "application/json")], counters)
        elif path == b"/api/shout":
            data = await exchange.receive_some()  # first, for clients that wait to be told to send
            await exchange.start(200, [TEXT])
            while data:
                await exchange.send_all(data.upper())
                data = await exchange.receive_some()
        else:
            await exchange.respond(404, [TEXT], b"no such file, and no such call\n")

    # Port 0 is any free port; `start` waits until it is known, and clients can come.
    server = trio_amped.Server(trio_amped.Config(root=SITE, port=0, fallback=api))
    async with trio.open_nursery() as application:
        application.start_soon(drain_on_signals, server)
        async with trio.open_nursery() as serving:
            [(host, port)] = await serving.start(server.serve)
            print(f"serving http://{host}:{port}/", flush=True)
        application.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
