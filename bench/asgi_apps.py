"""The folder ROOT as ASGI applications that differ in one thing: who answers for its files."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles as StarletteFiles

from trio_amped.asgi import StaticFiles

ROOT = Path(os.environ["ROOT"])

amped = Starlette(routes=[Mount("/", app=StaticFiles(ROOT))])
starlette = Starlette(routes=[Mount("/", app=StarletteFiles(directory=ROOT))])


async def canned(scope: Any, receive: object, send: Callable[[Any], Awaitable[None]]) -> None:
    """Bytes that were read at the start: what is left is the server's."""
    if scope["type"] != "http":
        raise NotImplementedError
    body = CONTENTS[scope["path"]]
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


CONTENTS = {
    f"/{path.name}": path.read_bytes() for path in ROOT.iterdir() if path.stat().st_size <= 1 << 20
}
