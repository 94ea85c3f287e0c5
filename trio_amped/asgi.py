"""The files below a folder as an ASGI application, for servers that run on trio.

Awaits the disk, and the ASGI server, which alone knows the client.
"""

import contextlib
import logging
import os
import re
from binascii import a2b_qp
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import trio

from .config import Application, Config, Site
from .disk.interface import FileChanged
from .disk.jobs import Asker, asking
from .semantics.body import Body
from .semantics.printable import printable
from .semantics.request import Request
from .semantics.response import Response, redirect
from .serving.body import BodySender
from .serving.handler import handle
from .serving.room import guest_of
from .serving.router import Router, open_router
from .serving.transport import WINDOW, ClientGone, Outlet
from .stats import Stats

__all__ = ["StaticFiles"]

log = logging.getLogger("trio_amped.asgi")

Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

# Longer bodies are watched: a server may let us send all of it to a client that is gone.
_WATCHED: Final = 512 * 1024  # bytes
# What a handler says before it asks whether an application is there, for which _leave stands.
_REFUSED: Final = (400, 417, 421)
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ZERO_COPY: Final = "http.response.zerocopysend"


class StaticFiles:
    """An ASGI 3 application: `StaticFiles("site")`, or with more to say `StaticFiles(Site(...))`.

    It answers as the server of this package does, below wherever it is mounted (`root_path`). Of a
    `Config` counts what is about files and their disk; sockets, deadlines of clients, Date and the
    log of requests are the ASGI server's; a `fallback` can be a page only, or it is a ValueError.
    `otherwise` is another ASGI application, which gets all that is no GET or HEAD of a file that is
    there (nor OPTIONS, whose CORS is ours), and the lifespan; without it that is an error of ours.

    The disk is opened when it is first needed, and stays open until this run of trio ends. To open
    it before, and hear of a root that cannot be used: let the server send the lifespan to it, or
    where that is not passed on (Starlette's Mount) use `opened` in the lifespan of what it is
    mounted in.

    Where the server offers zero copy send, that is used: a middleware that changes bodies must take
    it out of the `extensions` of the scope.

    `stats` are its counters. A request raises RuntimeError where there is no trio, OSError when
    the root cannot be opened, and FileChanged or OSError when a body that has begun cannot be
    finished: the server is to close the connection then. Cancelling one leaves nothing behind.
    """

    def __init__(
        self, site: str | os.PathLike[str] | Site, *, otherwise: ASGIApp | None = None
    ) -> None:
        self.config = _config(site)
        self.stats = Stats()
        self._otherwise = otherwise
        self._opening: trio.lowlevel.RunVar[_Opening | None] = trio.lowlevel.RunVar("asgi", None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what the scope is about; see the ASGI specification."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif self._otherwise and not _may_be_file(scope):
            await self._otherwise(scope, receive, send)
        elif scope["type"] == "http":
            if not await self._answer(scope, receive, send):
                assert self._otherwise
                await self._otherwise(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})  # before it is accepted: 403
        else:
            raise NotImplementedError(f"ASGI scopes of type {scope['type']!r}")

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator["StaticFiles"]:
        """`async with files.opened():` around serving: the disk is open, and closed at the end.

        Where it is open already, that is all. Raises OSError about the root, and RuntimeError where
        there is no trio. Otherwise its helpers live in a nursery: what the body raises leaves in an
        ExceptionGroup.
        """
        opening = self._current()
        if opening:
            await opening.result()
            yield self
            return
        async with self._open(self._begin()):
            yield self

    def _current(self) -> "_Opening | None":
        """How the disk was opened in this run of trio. Raises RuntimeError where there is none."""
        if not trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "trio_amped.asgi needs an ASGI server that runs on trio, such as "
                "hypercorn --worker-class trio"
            )
        return self._opening.get()

    def _begin(self) -> "_Opening":
        opening = _Opening()
        self._opening.set(opening)
        return opening

    @contextlib.asynccontextmanager
    async def _open(self, opening: "_Opening") -> AsyncIterator[None]:
        """Open the disk, or tell those who wait for it why that cannot be: OSError."""
        try:
            async with open_router(self.config, self.stats) as router:
                for site in self.config.all_sites:
                    log.info("serving %s", printable(os.fspath(site.root)))
                await router.introduce()
                if self._otherwise:
                    for root in router.roots:
                        root.application = _leave
                opening.routers = {tls: router.at(None, is_secure=tls) for tls in (False, True)}
                opening.is_over.set()
                try:
                    yield
                finally:
                    self._forget(opening)
        except Exception as error:
            opening.failure = error
            raise
        finally:
            opening.is_over.set()
            self._forget(opening)

    def _forget(self, opening: "_Opening") -> None:
        """It closes: the next request opens the disk anew."""
        opening.is_closed = True
        if self._opening.get() is opening:
            self._opening.set(None)

    async def _keep_open(self, opening: "_Opening") -> None:
        """A system task, for what is not opened by anybody else: it ends with the run of trio."""
        try:
            async with self._open(opening):
                await trio.sleep_forever()
        except Exception:
            if opening.routers:  # those who wait raise it otherwise
                log.exception("a bug: the disk is closed until the next request")

    async def _router(self, is_secure: bool) -> Router:
        opening = self._current()
        if opening is None:
            opening = self._begin()
            trio.lowlevel.spawn_system_task(self._keep_open, opening, name="trio_amped.asgi")
        return (opening.routers or await opening.result())[is_secure]

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The disk is open while the server lives."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.opened())
            except (OSError, RuntimeError) as error:
                await receive()
                await send({"type": "lifespan.startup.failed", "message": _explain(error)})
                return
            if self._otherwise:
                await self._otherwise(scope, receive, send)
                return
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Whether there was an answer: what is not found is left to `otherwise`."""
        router = await self._router(scope.get("scheme") == "https")
        self.stats.requests += 1
        extensions = scope.get("extensions") or {}
        outlet = _Outlet(send, self.stats, can_send_files=_ZERO_COPY in extensions)
        responder = _Responder(scope, receive, outlet, leaves=self._otherwise is not None)
        request = _request(scope)
        if request.target[:1] in (b"", b"?") and request.method in (b"GET", b"HEAD", b"OPTIONS"):
            # The folder itself, without the slash on which the relative links in its index rest.
            name = quote(_root_path(scope).rpartition("/")[2], safe="").encode()
            response = redirect(name + b"/" + request.target, request.method)
            await responder.respond(response, BodySender(outlet, None, None, response.body))
        else:
            peer = scope.get("client")
            with asking(Asker(guest_of(tuple(peer)) if peer else "")):
                await handle(request, router, responder)
        return not responder.is_left


class _Opening:
    """The disk in one run of trio: being opened, open, or why not."""

    def __init__(self) -> None:
        self.routers: dict[bool, Router] = {}  # for requests without TLS, and with
        self.failure: Exception | None = None
        self.is_over = trio.Event()
        self.is_closed = False

    async def result(self) -> dict[bool, Router]:
        """Raises OSError."""
        await self.is_over.wait()
        if not self.routers or self.is_closed:
            raise self.failure or OSError("opening the disk was cancelled")
        return self.routers


class _Outlet:
    """Implements transport.Outlet: the messages of one body, of which the last one says so."""

    most_copied = room = WINDOW

    def __init__(self, send: Send, stats: Stats, *, can_send_files: bool) -> None:
        self.can_send_files = can_send_files
        self.is_gone = False  # the client: nothing more is sent
        self._send = send
        self._stats = stats
        self._left = 0

    async def start(self, response: Response) -> None:
        """Send what comes before the body: names are lower-case in ASGI."""
        self._stats.responses[response.status] += 1
        headers = [(name.lower(), value) for name, value in response.headers]
        await self._send(
            {"type": "http.response.start", "status": response.status, "headers": headers}
        )
        self._left = sum(map(len, response.body))
        if not self._left:
            await self._send({"type": "http.response.body"})

    async def send(self, data: bytes | memoryview, more: bool = False) -> None:
        if data:
            self._note(len(data))
            await self._send(
                {"type": "http.response.body", "body": bytes(data), "more_body": self._left > 0}
            )

    async def send_file(self, fd: int, offset: int, length: int) -> int:
        self._note(length)
        message = {"file": _File(fd), "offset": offset, "count": length, "more_body": True}
        await self._send({"type": _ZERO_COPY, **message})
        # A server need not say that the file has ended before. Then it must not hear of an end of
        # the body either, or it would send the next answer in the midst of this one.
        if os.fstat(fd).st_size < offset + length:
            raise FileChanged
        if not self._left:
            await self._send({"type": "http.response.body"})
        return length

    async def turn(self) -> None:
        """The server sees to that."""

    def _note(self, count: int) -> None:
        if self.is_gone:
            raise ClientGone
        self._left -= count
        self._stats.bytes_sent += count


class _File:
    """A descriptor as zero copy send wants it: with a `fileno`, and no position that counts."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


class _Responder:
    """Implements handler.Responder: one request of an ASGI server, and its response.

    `leaves`: what is about no file is not answered, and `is_left` to another application.
    """

    def __init__(self, scope: Scope, receive: Receive, outlet: _Outlet, *, leaves: bool) -> None:
        self.is_left = False
        self._scope = scope
        self._receive = receive
        self._outlet = outlet
        self._leaves = leaves
        self._has_read = False  # all of the request's body

    @property
    def transport(self) -> Outlet:
        return self._outlet

    async def respond(self, response: Response, body: BodySender) -> None:
        if self._leaves and response.status in _REFUSED:
            self.is_left = True
            return
        if self._scope.get("http_version", "1.1") >= "2":
            await self._read_out()
            if self._outlet.is_gone:
                return
        await self._outlet.start(response)
        if _length(response.body) <= _WATCHED:
            await body.send(b"")
        else:
            await self._send_watched(body)

    async def pass_on(self, application: Application) -> None:
        self.is_left = True

    async def _read_out(self) -> None:
        """To the end of the request's body: an answer before it ends the stream of HTTP/2, and not
        every server bears what comes after that (Hypercorn 0.18 ends)."""
        while not self._has_read and not self._outlet.is_gone:
            await self._take_message()

    async def _take_message(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            # No `send` is cancelled: a server says this too while it deals with the last message.
            self._outlet.is_gone = True
        elif not message.get("more_body", False):
            self._has_read = True
        await trio.lowlevel.checkpoint()  # for those whose `receive` is none

    async def _send_watched(self, body: BodySender) -> None:
        """Send it for as long as the client stays."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal failure
                try:
                    await self._watch()
                except Exception as error:
                    failure = error
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                await body.send(b"")
            except ClientGone:
                pass
            except Exception as error:  # alone, and not in a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure:
            raise failure

    async def _watch(self) -> None:
        await self._read_out()
        if not self._outlet.is_gone:
            await self._take_message()  # anything else than its end says nothing of the client


def _may_be_file(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS")


async def _leave(exchange: object) -> None:
    """Stands for the other application, so that a handler leaves to it what is about no file."""


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot serve {os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def _config(site: str | os.PathLike[str] | Site) -> Config:
    """The settings. Raises ValueError for an application in them: it would want a connection."""
    if isinstance(site, Config):
        config = site
    else:
        config = Config(sites=[site]) if isinstance(site, Site) else Config(root=site)
    if any(each.application for each in config.all_sites):
        raise ValueError("fallback must be a page in an ASGI application, see `otherwise`")
    return config


def _length(body: Body) -> int:
    return sum(map(len, body))


def _request(scope: Scope) -> Request:
    """The request. Whatever carries it, it means what it does in HTTP/1 (RFC 9110)."""
    version = b"1.0" if scope.get("http_version") == "1.0" else b"1.1"
    query = bytes(scope.get("query_string") or b"")
    target = _target(scope) + (b"?" + query if query else b"")
    headers = tuple((bytes(name), bytes(value)) for name, value in scope["headers"])
    return Request(scope["method"].encode(), target, version, headers)


def _target(scope: Scope) -> bytes:
    """The path below where we are mounted, as it was sent; b"" is that place without its slash.

    `path` begins with `root_path`, says the specification; some who mount take that off, which
    `raw_path` tells where there is one.
    """
    path, root = scope["path"], _root_path(scope)
    raw = bytes(scope.get("raw_path") or b"")
    decoded = _decoded(raw)
    is_below = path == root or path.startswith(root + "/")
    below = path[len(root) :] if is_below and decoded != root + path else path
    if decoded == below and raw[:1] in (b"", b"/"):
        return raw
    for prefix in (root.encode(), quote(root).encode()):
        rest = raw.removeprefix(prefix)
        if raw.startswith(prefix) and _decoded(rest) == below and rest[:1] in (b"", b"/"):
            return rest
    return quote(below).encode()  # somebody has changed it


def _root_path(scope: Scope) -> str:
    root: str = scope.get("root_path") or ""
    return root.rstrip("/")


def _decoded(raw: bytes) -> str:
    """What servers make of a path, of which they leave malformed escapes as they are.

    The same as urllib's `unquote`, which loops over escapes: 2600 take it 0.4 ms. Quoted-printable
    (RFC 2045 6.7) is decoded in C.
    """
    well_formed = _BAD_ESCAPE.sub(b"%25", raw) if b"%" in raw else raw
    escaped = well_formed.replace(b"=", b"=3D").replace(b"%", b"=")
    return a2b_qp(escaped).decode("utf-8", "replace")
