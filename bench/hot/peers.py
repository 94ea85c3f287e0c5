"""The servers: what each is started with, and a running one. Blocks."""

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench import servers
from bench.hot.rows import CLASSIC, HERD, IDLE, KINDS, PAPER, ROWS, TLS, WORKERS
from tests import rig

TUNED, DEFAULT = "nginx-tuned", "nginx"  # what the ratios are to
OURS = "trio_amped"
EARLIER = "base"  # ours as it was at the commit in bench/BASE
TASKS = "trio_amped-tasks"
_TUNED = (
    "open_file_cache max=10000 inactive=60s;",  # as many as ours keeps
    "open_file_cache_valid 1s;",
    "open_file_cache_min_uses 1;",
    "tcp_nopush on;",  # `sendfile on`, and no log of requests, are in all of them
)
_CANNED = ("plain", "unique", "close", "pipeline", IDLE)
_STEADY = (*CLASSIC, *KINDS)  # while the server of the round runs


@dataclass(frozen=True)
class Peer:
    """A server. nginx has directives, the others a command."""

    name: str
    what: str
    kind: Literal["ours", "nginx", "python", "limit"]
    command: tuple[str, ...] = ()
    nginx: tuple[str, ...] | None = None
    nobody: bool = False
    logs: tuple[str, ...] = ()
    """What has it write an access log; nginx has a directive for that."""
    package: str | None = None
    rows: tuple[str, ...] = CLASSIC
    """The rows that it is for."""
    cannot: tuple[str, ...] = ()
    """The rows that it has no answer to: pipelining or keep-alive."""
    connections: int = servers.CONNECTIONS
    """For so many nginx has room."""
    checkout: Path = rig.REPOSITORY
    """Where its command finds the project."""

    def takes_part(self, row: str) -> bool:
        return row in self.rows and row not in self.cannot

    def missing(self) -> str | None:
        """Why it cannot be started here."""
        if self.nginx is not None:
            return rig.missing("nginx")
        if self.nobody and (reason := rig.missing("nobody")):
            return reason
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"no {self.package}: make .venv/bench"
        return None


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *module.split())


_AMPED = _python("trio_amped --root {root} --port {port}")
_LOG = ("--access-log", "{scratch}/access.log")
_PLACE = "--host 127.0.0.1 --port {port}"
_ASGI = "bench.hot.starlette_app:app"

# In this order they are measured: those that are compared most closely are neighbours.
_PEERS = (
    Peer(
        EARLIER,
        "trio_amped as it was: bench/BASE",
        "ours",
        _AMPED,
        rows=tuple(ROWS),
        cannot=("log", *TLS),  # it has none
    ),
    Peer(OURS, "trio_amped", "ours", _AMPED, rows=tuple(ROWS), logs=_LOG),
    Peer(TUNED, "nginx, tuned", "nginx", nginx=_TUNED, rows=tuple(ROWS)),
    Peer(DEFAULT, "nginx, default", "nginx", nginx=(), rows=tuple(ROWS)),
    Peer(
        f"{OURS}-nobody",
        "trio_amped as nobody, files of root",
        "ours",
        _AMPED,
        nobody=True,
        cannot=(WORKERS,),
    ),
    Peer(
        f"{OURS}-process",
        "trio_amped `--helpers process`",
        "ours",
        (*_AMPED, "--helpers", "process"),
        rows=("touch", *PAPER, *HERD),
    ),
    Peer(
        TASKS,
        "trio_amped `--no-fast-lane`",
        "ours",
        (*_AMPED, "--no-fast-lane"),
        rows=_STEADY,
        cannot=(WORKERS,),
    ),
    Peer(
        "nginx-aio",
        "nginx, `aio threads`",
        "nginx",
        nginx=("aio threads;",),
        rows=(*CLASSIC, *PAPER),
        cannot=(WORKERS,),
    ),
    Peer(
        "epoll",
        "a bare epoll loop, canned bytes",
        "limit",
        _python("bench.hot.bare epoll {port}"),
        rows=_CANNED,
    ),
    Peer(
        "trio",
        "a bare trio loop, canned bytes",
        "limit",
        _python("bench.hot.bare trio {port}"),
        rows=_CANNED,
    ),
    Peer(
        "granian",
        "Granian, its own static files",
        "python",
        _python(
            f"granian {_PLACE} --interface asgi --static-path-route / --static-path-mount {{root}} "
            f"--no-ws {_ASGI}"
        ),
        package="granian",
        cannot=(WORKERS,),
    ),
    Peer(
        "aiohttp",
        "aiohttp, `add_static`",
        "python",
        _python("bench.hot.aiohttp_app {port}"),
        package="aiohttp",
        rows=_STEADY,
        # it frames what has no file in chunks, has no index and knows of one range
        cannot=(WORKERS, "multirange", "404", "404-random", "301", "416", "index"),
    ),
    Peer(
        "uvicorn",
        "Starlette StaticFiles on uvicorn (uvloop, httptools)",
        "python",
        _python(
            f"uvicorn {_PLACE} --loop uvloop --http httptools --no-access-log --log-level warning "
            f"{_ASGI}"
        ),
        package="uvicorn",
        cannot=(WORKERS,),
    ),
    Peer(
        "hypercorn",
        "Starlette StaticFiles on Hypercorn (trio)",
        "python",
        _python(
            f"hypercorn --bind 127.0.0.1:{{port}} --worker-class trio "
            f"--config bench/hot/hypercorn.toml {_ASGI}"
        ),
        package="hypercorn",
        cannot=(WORKERS,),
    ),
    Peer(
        "http.server",
        "`python -m http.server`",
        "python",
        _python("http.server --bind 127.0.0.1 --directory {root} {port}"),
        cannot=("pipeline", IDLE, WORKERS),
    ),
)
PEERS = {peer.name: peer for peer in _PEERS}
ALWAYS = (OURS, TUNED, DEFAULT)
ALL = tuple(name for name in PEERS if name != EARLIER)


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    peer: Peer
    port: int
    session: int
    cpus: Sequence[int]
    tls: bool = False


@contextlib.contextmanager
def running(
    peer: Peer,
    root: Path,
    cpus: Sequence[int],
    workers: int = 1,
    wrap: servers.Wrap = rig.identity,
    *,
    logs: bool = False,
    tls: servers.Pair | None = None,
) -> Iterator[Running]:
    """Start a server on these CPUs, with so many processes.

    `logs`: with an access log; `tls`: with this certificate.
    """
    with tempfile.TemporaryDirectory() as scratch:
        port = servers.free_port()
        if peer.nginx is not None:
            log = f"{scratch}/access.log combined buffer=64k" if logs else "off"
            command = servers.nginx_command(
                Path(scratch), root, port, peer.nginx, workers, peer.connections, log, tls
            )
        else:
            words = (*peer.command, *(peer.logs if logs else ()))
            command = [word.format(port=port, root=root, scratch=scratch) for word in words]
            command += ["--workers", str(workers)] if workers > 1 else []
            command += [f"--tls-cert={tls.certificate}", f"--tls-key={tls.key}"] if tls else []
        if peer.nobody:
            command = rig.as_nobody(command)
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cpus)), *wrap(command)]
        environment = os.environ | {"PYTHONPATH": str(peer.checkout), "ROOT": str(root)}
        with servers.listening(pinned, port, environment, peer.checkout) as process:
            yield Running(peer, port, process.pid, cpus, tls is not None)
