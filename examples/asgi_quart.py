"""Files and a Quart-Trio application on one port: `python examples/asgi_quart.py`.

Needs `pip install quart-trio`, and runs under Hypercorn's trio worker. Where examples/site has a
file, trio_amped sends it, and never waits for the disk; all else is the application's, such as
/api/time.
"""

import signal
import time
from pathlib import Path

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart_trio import QuartTrio

from trio_amped.asgi import StaticFiles

SITE = Path(__file__).parent / "site"

api = QuartTrio(__name__, static_folder=None)


@api.get("/api/time")
async def tell_time() -> dict[str, float]:
    await trio.sleep(0.01)  # what an application does
    return {"seconds": time.time()}


# Any ASGI server on trio runs this: `hypercorn --worker-class trio examples.asgi_quart:app`. To
# have the files below one path only, leave out `otherwise` and mount them: Starlette's
# Mount("/static", StaticFiles(SITE)), or hypercorn.middleware.dispatcher.TrioDispatcherMiddleware.
app = StaticFiles(SITE, otherwise=api)


async def main() -> None:
    stops = trio.Event()

    async def stop() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                stops.set()

    config = Config()
    config.bind = ["127.0.0.1:0"]  # any free port: Hypercorn says which
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        await serve(app, config, shutdown_trigger=stops.wait)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
