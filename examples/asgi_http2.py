"""Files by HTTP/2, under Hypercorn: `python examples/asgi_http2.py [AUTHORITY.pem]`.

Needs `pip install "hypercorn[trio]" trustme`. trustme makes a certificate for tests, and the one of
its authority, which clients need, is written to AUTHORITY.pem. With files of yours, it is:

    hypercorn --worker-class trio --certfile fullchain.pem --keyfile privkey.pem \\
        --bind '[::]:443' examples.asgi_http2:app
"""

import signal
import sys
import tempfile
from pathlib import Path

import trio
import trustme
from hypercorn.config import Config
from hypercorn.trio import serve

from trio_amped.asgi import StaticFiles

SITE = Path(__file__).parent / "site"

app = StaticFiles(SITE)


async def main(folder: Path, authority: Path | None) -> None:
    ca = trustme.CA()
    if authority:
        ca.cert_pem.write_to_path(authority)
    certificate = ca.issue_cert("localhost")
    config = Config()
    config.bind = ["127.0.0.1:0"]  # any free port: Hypercorn says which
    config.certfile, config.keyfile = str(folder / "fullchain.pem"), str(folder / "privkey.pem")
    certificate.cert_chain_pems[0].write_to_path(config.certfile)
    certificate.private_key_pem.write_to_path(config.keyfile)
    stops = trio.Event()

    async def stop() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                stops.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        await serve(app, config, shutdown_trigger=stops.wait)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        trio.run(main, Path(name), Path(sys.argv[1]) if sys.argv[1:] else None)
