"""An ASGI server of one request: makes a scope as servers do, and keeps what it is sent."""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote
from weakref import WeakKeyDictionary

import trio

from trio_amped.asgi import ASGIApp
from trio_amped.serving.router import Router
from trio_amped.testing import SimDisk

HOST: Final = (b"host", b"example.com")
ZERO_COPY: Final = "http.response.zerocopysend"


def scope(
    target: str,
    *fields: tuple[bytes, bytes],
    method: str = "GET",
    root_path: str = "",
    version: str = "1.1",
    **more: object,
) -> dict[str, Any]:
    """The scope of a request, as Hypercorn makes it; `more` replaces keys of it."""
    raw, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "http_version": version,
        "method": method,
        "scheme": "http",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": root_path,
        "headers": [HOST, *fields],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {},
        **more,
    }


@dataclass
class Reply:
    """What a server was sent; `messages` are the types, with the length of each part of a body."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False
    messages: list[tuple[str, int]] = field(default_factory=list)

    def note(self, message: Mapping[str, Any]) -> None:
        kind, data = message["type"], b""
        assert not self.is_complete, "a message after the last one"
        if kind == "http.response.start":
            assert not self.messages
            self.status = message["status"]
            names = [name for name, _ in message["headers"]]
            assert all(name == name.lower() for name in names)
            assert len(names) == len(set(names))
            self.headers = {n.decode(): v.decode("latin-1") for n, v in message["headers"]}
        else:
            assert self.messages, "a body before its head"
            if kind == ZERO_COPY:
                fd = message["file"].fileno()
                data = os.pread(fd, message["count"], message["offset"])
            else:
                assert kind == "http.response.body"
                data = message.get("body", b"")
            self.body += data
            self.is_complete = not message.get("more_body", False)
        self.messages.append((kind.rpartition(".")[2], len(data)))


class Patient:
    """A client that has sent its request, in so many parts, and waits."""

    def __init__(self, parts: int = 1) -> None:
        self.parts = parts

    async def receive(self) -> Mapping[str, Any]:
        if not self.parts:
            await trio.sleep_forever()
        self.parts -= 1
        return {"type": "http.request", "body": b"x", "more_body": self.parts > 0}


async def call(
    app: ASGIApp,
    request: Mapping[str, Any],
    receive: Callable[[], Awaitable[Mapping[str, Any]]] | None = None,
    reply: Reply | None = None,
) -> Reply:
    """Have it answered; `reply` gets what was sent also where that ends with an exception."""
    reply = reply or Reply()

    async def send(message: Mapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        reply.note(message)

    await app(request, receive or Patient().receive, send)
    return reply


async def ask(app: ASGIApp, target: str, *fields: tuple[bytes, bytes], **more: Any) -> Reply:
    """The whole answer to a request."""
    reply = await call(app, scope(target, *fields, **more))
    assert reply.is_complete
    return reply


ROUTERS: Final[WeakKeyDictionary[SimDisk, Router]] = WeakKeyDictionary()
"""Who serves from a simulated disk."""


def left_open(disk: SimDisk) -> int:
    """How many files are open that are not kept for the next request."""
    kept = [] if disk not in ROUTERS else ROUTERS[disk].roots[0].files._lookups.values()
    return disk.open_files - sum(lookup.held is not None for lookup in kept)
