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


async def main() -> None:
    async def api(exchange: trio_amped.Exchange) -> None:
        request = exchange.request
        if (request.method, request.target) == (b"GET", b"/api/counters"):
            counters = json.dumps(server.stats.as_dict()).encode()
            await exchange.respond(200, [("Content-Type", "application/json")], counters)
        elif request.target == b"/api/shout":
            data = await exchange.receive_some()  # first, for clients that wait to be told to send
            await exchange.start(200, [TEXT])
            while data:
                await exchange.send_all(data.upper())
                data = await exchange.receive_some()
        else:
            await exchange.respond(404, [TEXT], b"no such file, and no such call\n")

    # Port 0 is any free port; `start` waits until it is known, and clients can come.
    server = trio_amped.Server(trio_amped.Config(root=SITE, port=0, fallback=api))
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as application:
            [(host, port)] = await application.start(server.serve)
            print(f"serving http://{host}:{port}/", flush=True)
            async for _ in signals:
                break
            # What is being sent has three seconds to finish; then `server.serve` returns. To stop
            # everything at once, cancel: application.cancel_scope.cancel().
            server.drain(3)


if __name__ == "__main__":
    trio.run(main)
