"""A soak: clients of every kind on a real server for N minutes, and then nothing may be left."""

import argparse
import contextlib
import os
import random
import re
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, cast

import trio

from tests.rig import ServerProcess, public_directory, running_server

MIB, LARGEST, HELPERS = 1 << 20, 4 << 20, 8
VISIT, AFTERWARDS = 120.0, 20.0  # seconds for one connection, and until everything is given back
OPTIONS = ("--max-helpers", str(HELPERS), "--head-timeout", "3")
NONSENSE = [f"{text}\r\n\r\n".encode() for text in ("\x16\x03\x01\x02", "GET /a b HTTP/9.9")]
NONSENSE += [b"GET /file-000 HTTP/1.1\r\nHo", b"GET /" + b"a" * 20_000]
NONSENSE += [b"POST /file-000 HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nabc"]


class Wrong(Exception):
    """The server did what it must not do."""


class Version(NamedTuple):
    """What a file is between two replacements: a part of the pool."""

    number: int
    size: int
    shift: int
    tag: str  # without W/


class Ask(NamedTuple):
    """A request and the statuses that may answer it; `oldest` is the file as it is by then."""

    name: str
    oldest: Version
    fields: str = ""
    statuses: tuple[int, ...] = (200,)
    span: tuple[int, int] = (0, 0)  # of a range, before it is cut to the size
    method: str = "GET"


class Soak:
    """The served files, each with all the versions it ever had, and what the clients have seen."""

    def __init__(self, base: Path, rng: random.Random) -> None:
        self.root, self._new, self.pool = base / "root", base / "new", rng.randbytes(2 * LARGEST)
        self.root.mkdir()
        self.current: dict[str, Version] = {}
        self.versions: dict[tuple[str, str], Version] = {}
        self.port = self.requests = self.bytes = self.resets = self.replaced = 0
        self.problems: list[str] = []
        for index in range(200):
            size = (0, 1, LARGEST)[index] if index < 3 else int(2 ** rng.uniform(0, 22))
            self.write(f"file-{index:03}", size, rng)

    def write(self, name: str, size: int, rng: random.Random) -> None:
        """New content by rename: clients may meet it before, and the old one not after."""
        shift = rng.randrange(LARGEST)
        self._new.write_bytes(self.pool[shift : shift + size])
        tag, old = f'"{self._new.stat().st_mtime_ns:x}-{size:x}"', self.current.get(name)
        version = Version(old.number + 1 if old else 0, size, shift, tag)
        self.versions[name, tag] = version
        self._new.rename(self.root / name)
        self.current[name] = version

    def evict(self, name: str) -> None:
        with (self.root / name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def ask(self, rng: random.Random, fields: str = "") -> Ask:
        name = rng.choice(list(self.current))
        return Ask(name, self.current[name], fields)

    def wrong(self, reason: str) -> None:
        self.problems.append(reason)
        print("WRONG:", reason, flush=True)


class Client:
    """One connection, opened by its first request; checks every byte of every answer."""

    def __init__(self, soak: Soak, rng: random.Random, is_slow: bool) -> None:
        self.soak, self.rng, self._is_slow = soak, rng, is_slow
        self.socket, self._is_open, self._early = trio.socket.socket(), False, b""
        if is_slow:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)

    async def send(self, *asks: Ask | bytes) -> None:
        if not self._is_open:
            await self.socket.connect(("127.0.0.1", self.soak.port))
            self._is_open = True
        for ask in asks:
            if isinstance(ask, Ask):
                head = f"{ask.method} /{ask.name} HTTP/1.1\r\nHost: soak\r\n{ask.fields}\r\n"
                ask = head.encode()
            while ask:
                ask = ask[await self.socket.send(ask) :]

    async def receive(self, most: int = 1 << 18) -> bytes:
        if self._is_slow:
            await trio.sleep(self.rng.uniform(0, 0.04))
            most = min(most, 32 * 1024)
        data, self._early = self._early[:most], self._early[most:]
        return data or await self.socket.recv(most)

    async def answer(self, ask: Ask, enough: float = float("inf")) -> None:
        """The next answer, or the beginning of its body. Raises Wrong."""
        head, done = b"", 0
        while b"\r\n\r\n" not in head:
            head += (data := await self.receive())
            if not data:
                raise Wrong(f"{ask}: the connection ended after {head!r}")
        head, _, rest = head.partition(b"\r\n\r\n")
        self._early = rest + self._early
        try:
            content = self._expected(ask, head.decode("latin-1"))
            while done < min(len(content), enough):
                data = await self.receive(min(len(content) - done, 1 << 18))
                if not data or data != content[done : done + len(data)]:
                    raise Wrong(f"{len(data)} bytes, not the right ones, after {done}")
                done += len(data)
        except (Wrong, KeyError, ValueError) as error:
            raise Wrong(f"{error!r}: {ask} was answered by {head!r}") from None
        finally:
            self.soak.bytes += done
        self.soak.requests += 1

    def _expected(self, ask: Ask, head: str) -> bytes:
        """The body that must follow. Raises Wrong, and KeyError where a field is missing."""
        fields = dict(re.findall(r"\r\n([^:]*): ([^\r]*)", head.replace("W/", "")))
        status, size, (start, stop) = int(head.split()[1]), 0, ask.span
        if status >= 400:
            content = f"{status} {HTTPStatus(status).phrase}\n".encode()
            size = int(fields["Content-Range"].removeprefix("bytes */")) if status == 416 else 0
        else:
            version = self.soak.versions[ask.name, fields["ETag"]]
            size, is_asked_for = version.size, version.tag in ask.fields
            stop = min(stop, size) if status == 206 else size
            start = start if status == 206 else 0
            content = self.soak.pool[version.shift + start : version.shift + stop]
            if version.number < ask.oldest.number:
                raise Wrong("this version was replaced before it was asked for")
            if "If-" in ask.fields and is_asked_for != (status != 200):
                raise Wrong("the condition says otherwise")
        # A part from the start of an empty file is all of it.
        is_nothing = (status, size, ask.span[0]) == (200, 0, 0) and 206 in ask.statuses
        is_due = status in ask.statuses or is_nothing
        if not is_due or (status == 416 and start < size):
            raise Wrong("the status")
        if status == 206 and fields["Content-Range"] != f"bytes {start}-{stop - 1}/{size}":
            raise Wrong("the range")
        if status != 304 and int(fields["Content-Length"]) != len(content):
            raise Wrong("the length")
        return b"" if status == 304 or ask.method == "HEAD" else content


async def resident(client: Client, soak: Soak, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 100)):
        await client.send(ask := soak.ask(rng))
        await client.answer(ask)


async def cold(client: Client, soak: Soak, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 10)):
        ask = soak.ask(rng)
        await trio.to_thread.run_sync(soak.evict, ask.name)
        await client.send(ask)
        await client.answer(ask)


async def special(client: Client, soak: Soak, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 100)):
        ask, first = soak.ask(rng), int(2 ** rng.uniform(0, 23)) - 1
        stop = first + int(2 ** rng.uniform(0, 22))
        part, upto = f"Range: bytes={first}-", f"Range: bytes={first}-{stop - 1}\r\n"
        tag = ask.oldest.tag
        kinds = [
            ask._replace(method="HEAD"),
            ask._replace(fields=f"If-None-Match: {tag}\r\n", statuses=(200, 304)),
            ask._replace(fields='Range: bytes=0-\r\nIf-Range: "other"\r\n'),
            ask._replace(fields=f"{part}\r\n", statuses=(206, 416), span=(first, 1 << 40)),
            ask._replace(fields=upto, statuses=(206, 416), span=(first, stop)),
            ask._replace(fields='If-Match: "other"\r\n', statuses=(412,)),
            ask._replace(name="missing", statuses=(404,)),
        ]
        await client.send(ask := rng.choice(kinds))
        await client.answer(ask)


async def pipeline(client: Client, soak: Soak, rng: random.Random) -> None:
    asks = [soak.ask(rng) for _ in range(rng.randrange(2, 17))]
    await client.send(*asks)
    for ask in asks:
        await client.answer(ask)


async def once(client: Client, soak: Soak, rng: random.Random) -> None:
    await client.send(ask := soak.ask(rng, fields="Connection: close\r\n"))
    await client.answer(ask)
    if await client.receive():
        raise Wrong("something follows the last answer")


def reset(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.soak.resets += 1


async def resets(client: Client, soak: Soak, rng: random.Random) -> None:
    await client.send(ask := soak.ask(rng))
    await client.answer(ask, enough=2 ** rng.uniform(0, 22))
    reset(client)


async def nonsense(client: Client, soak: Soak, rng: random.Random) -> None:
    behaviour, answer = rng.choice(("leave", "reset", "end", "wait")), b""
    with contextlib.suppress(ConnectionError):  # the server may reset what it does not want
        await client.send(rng.choice((*NONSENSE, rng.randbytes(500) + b"\r\n\r\n")))
        if behaviour == "reset":
            reset(client)
        if behaviour == "end":
            client.socket.shutdown(socket.SHUT_WR)
        while behaviour in ("end", "wait") and (data := await client.receive()):
            answer += data
    if answer and not re.match(rb"HTTP/1.1 [45]", answer):
        raise Wrong(f"nonsense was answered by {answer!r}")


async def writer(client: Client, soak: Soak, rng: random.Random) -> None:
    await trio.sleep(rng.uniform(0, 0.2))
    name, size = rng.choice(list(soak.current)), int(2 ** rng.uniform(0, 22))
    await trio.to_thread.run_sync(soak.write, name, size, rng)
    soak.replaced += 1


Visit = Callable[[Client, Soak, random.Random], Awaitable[None]]
KINDS: list[tuple[Visit, int]] = [(resident, 4), (cold, 4), (special, 4), (pipeline, 2), (once, 2)]
KINDS += [(resets, 4), (nonsense, 4), (writer, 1)]
SLOW: list[tuple[Visit, int]] = [(once, 8)]


async def repeat(visit: Visit, soak: Soak, rng: random.Random, is_slow: bool) -> None:
    """One connection after the other, each for one visit."""
    while True:
        client = Client(soak, rng, is_slow)
        try:
            with trio.fail_after(VISIT), client.socket:
                await visit(client, soak, rng)
        except (Wrong, OSError, trio.TooSlowError) as error:
            soak.wrong(f"{visit.__name__}: {error!r}")
            await trio.sleep(1)


class Process(NamedTuple):
    """What the server's process holds; the descriptors for helpers are counted apart."""

    links: list[str]
    helper_links: int
    mapped: int  # places where served files are mapped
    threads: int
    children: int
    rss: float  # MiB

    @classmethod
    def of(cls, pid: int, root: Path) -> "Process":
        proc, links, children = Path(f"/proc/{pid}"), [], ""
        for entry in os.listdir(proc / "fd"):
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(proc / "fd" / entry))
        unix = re.findall(r" 0[1-6] +(\d+)", (proc / "net/unix").read_text())
        helpers = {"anon_inode:[pidfd]", *(f"socket:[{inode}]" for inode in unix)}
        for task in (tasks := os.listdir(proc / "task")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children += (proc / "task" / task / "children").read_text()
        own = [link for link in links if link not in helpers]
        mapped = (proc / "maps").read_text().count(str(root))
        found = cast(re.Match[str], re.search(r"VmRSS:\s+(\d+)", (proc / "status").read_text()))
        left = len(links) - len(own), mapped, len(tasks), len(children.split())
        return cls(own, *left, int(found[1]) / 1024)

    def excess(self, start: "Process") -> str:
        """What is more than may remain."""
        most = (start.helper_links + 2 * HELPERS, 0, HELPERS + 6, HELPERS, float("inf"))
        has_more = len(self.links) > len(start.links)
        return (
            str(self) if has_more or any(a > b for a, b in zip(self[1:], most, strict=True)) else ""
        )

    def __str__(self) -> str:
        return (
            f"RSS {self.rss:.1f} MiB, fds {len(self.links)} + {self.helper_links} for helpers, "
            f"{self.mapped} files mapped, {self.threads} threads, {self.children} children"
        )


async def run(
    soak: Soak, server: ServerProcess, seconds: float, seed: int
) -> tuple[Process, Process]:
    """All clients, for so long; the server at the start and when it was warm."""
    samples, begun = [], trio.current_time()
    for _ in range(10):  # while it starts helpers it has pipes besides
        samples.append(Process.of(server.pid, soak.root))
        await trio.sleep(0.05)
    start = warm = min(samples, key=lambda sample: len(sample.links))
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for is_slow, kinds in ((False, KINDS), (True, SLOW)):
                for number, visit in enumerate(v for v, count in kinds for _ in range(count)):
                    rng = random.Random(f"{seed} {number} {is_slow}")
                    nursery.start_soon(repeat, visit, soak, rng, is_slow)
            await trio.sleep(min(seconds / 4, 60))
            while len(soak.problems) < 20 and server.process.poll() is None:
                now, passed = Process.of(server.pid, soak.root), trio.current_time() - begun
                warm = now if warm is start else warm
                print(f"{passed:.0f} s: {soak.requests} requests, {now}", flush=True)
                await trio.sleep(10)
            nursery.cancel_scope.cancel()
    return start, warm


def soak_server(helpers: str, seconds: float, seed: int) -> bool:
    """One soak, from the files to the table; whether all was well."""
    with public_directory() as base:
        soak = Soak(base, random.Random(seed))
        with running_server("--helpers", helpers, *OPTIONS, root=soak.root) as server:
            soak.port = server.port
            start, warm = trio.run(run, soak, server, seconds, seed)
            end, deadline = warm, time.monotonic() + AFTERWARDS
            while server.process.poll() is None:
                if not (left := (end := Process.of(server.pid, soak.root)).excess(start)):
                    break
                if time.monotonic() > deadline:
                    soak.wrong(f"without clients there are still {left}: {sorted(end.links)}")
                    break
                time.sleep(0.05)
            if end.rss > warm.rss + 32:
                soak.wrong("RSS has grown too much")
            has_ended = server.process.poll() is not None
            if (status := server.stop()) or has_ended:
                soak.wrong(f"exit status {status}, {'before' if has_ended else 'after'} SIGTERM")
        for line in server.log:
            if re.search(r"Traceback|a bug| WARNING (?!as root)| ERROR ", line):
                soak.wrong(f"the server said: {line}")
    print(f"\n--helpers {helpers}, {seconds:g} s, seed {seed}: {len(soak.problems)} violations")
    print(f"  {'requests':9} {soak.requests}, {soak.bytes // MIB} MiB, all of them checked")
    print(f"  {'clients':9} {soak.resets} resets, {soak.replaced} files replaced")
    for name, process in (("start", start), ("warm", warm), ("end", end)):
        print(f"  {name:9} {process}")
    print(f"  {'server':9} {server.log[-1].partition('stopped; ')[2]}\n", flush=True)
    return not soak.problems


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="for each kind")
    parser.add_argument("--helpers", choices=("thread", "process", "both"), default="both")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = parser.parse_args(arguments)
    kinds = ("thread", "process") if options.helpers == "both" else (options.helpers,)
    failed = [kind for kind in kinds if not soak_server(kind, options.minutes * 60, options.seed)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
