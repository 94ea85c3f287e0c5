"""The folder ROOT by aiohttp, as its documentation says: `python -m bench.hot.aiohttp_app PORT`."""

import os
import sys

from aiohttp import web

if __name__ == "__main__":
    app = web.Application()
    app.router.add_static("/", os.environ["ROOT"])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
