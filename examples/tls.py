"""Serve files over TLS: `python examples/tls.py` (it needs `pip install trustme`).

Clients trust the server if they trust its certificate authority, which trustme makes anew each time
and which is written to a file: `curl --cacert FILE https://localhost:PORT/`. For a server that
others are to trust, load a certificate of your own with `context.load_cert_chain`.
"""

import ssl
import sys
import tempfile
from pathlib import Path

import trio
import trustme

import trio_amped

SITE = Path(__file__).parent / "site"


async def main(authority_file: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(authority_file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    server = trio_amped.Server(trio_amped.Config(root=SITE))
    async with trio.open_nursery() as nursery:
        [(_, port)] = await nursery.start(server.serve, listeners)
        print(f"serving https://localhost:{port}/ by {authority_file}", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        try:
            trio.run(main, sys.argv[1] if len(sys.argv) > 1 else f"{made}/authority.pem")
        except* KeyboardInterrupt:
            print("stopped")
