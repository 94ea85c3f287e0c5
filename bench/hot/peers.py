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
from tests import rig

BASE = "nginx-tuned"  # what the ratios are to
OURS = "trio_amped"
PLAIN, PLAIN_BASE, PLAIN_FLOOR = "trio_amped-plain", "nginx", 0.2
TUNED = (
    "open_file_cache max=20000 inactive=60s;",
    "open_file_cache_valid 1s;",
    "open_file_cache_min_uses 1;",
    "tcp_nopush on;",  # `sendfile on` and `access_log off` are in all of them
)
CANNED = ("1k", "unique", "close", "pipeline", "idle")


@dataclass(frozen=True)
class Peer:
    """A server. nginx has directives, the others a command."""

    name: str
    what: str
    kind: Literal["ours", "nginx", "python", "limit"]
    command: tuple[str, ...] = ()
    nginx: tuple[str, ...] | None = None
    nobody: bool = False
    package: str | None = None
    workloads: tuple[str, ...] | None = None
    """The rows that it is for (None: all)."""
    cannot: tuple[str, ...] = ()
    """The rows that it has no answer to: pipelining or keep-alive."""

    def takes_part(self, workload: str) -> bool:
        return workload not in self.cannot and (
            self.workloads is None or workload in self.workloads
        )

    def missing(self) -> str | None:
        """Why it cannot be started here."""
        if self.nginx is not None:
            return rig.missing("nginx")
        if self.nobody and (reason := rig.missing("nobody")):
            return reason
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"no {self.package}: pip install --group bench"
        return None


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *module.split())


_AMPED = _python("trio_amped --root {root} --port {port}")
_PLACE = "--host 127.0.0.1 --port {port}"
_ASGI = "bench.hot.starlette_app:app"

# In this order they are measured: those that are compared most closely are neighbours.
_PEERS = (
    Peer(OURS, "trio_amped", "ours", _AMPED),
    Peer(BASE, "nginx, tuned", "nginx", nginx=TUNED),
    Peer(f"{OURS}-nobody", "trio_amped as nobody, files of root", "ours", _AMPED, nobody=True),
    Peer("nginx", "nginx, default", "nginx", nginx=()),
    Peer("nginx-aio", "nginx, `aio threads`", "nginx", nginx=("aio threads;",)),
    Peer(PLAIN, "trio_amped `--no-fast-lane`", "ours", (*_AMPED, "--no-fast-lane")),
    Peer(
        f"{OURS}-h11",
        "trio_amped `--max-open-files 0`: h11 for every request",
        "ours",
        (*_AMPED, "--max-open-files", "0"),
    ),
    Peer(
        "epoll",
        "a bare epoll loop, canned bytes",
        "limit",
        _python("bench.hot.bare epoll {port}"),
        workloads=CANNED,
    ),
    Peer(
        "trio",
        "a bare trio loop, canned bytes",
        "limit",
        _python("bench.hot.bare trio {port}"),
        workloads=CANNED,
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
    ),
    Peer(
        "aiohttp",
        "aiohttp, `add_static`",
        "python",
        _python("bench.hot.aiohttp_app {port}"),
        package="aiohttp",
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
    ),
    Peer(
        "http.server",
        "`python -m http.server`",
        "python",
        _python("http.server --bind 127.0.0.1 --directory {root} {port}"),
        cannot=("pipeline", "idle"),
    ),
)
PEERS = {peer.name: peer for peer in _PEERS}
SHORT = (OURS, BASE)


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    peer: Peer
    port: int
    session: int
    cpus: Sequence[int]


@contextlib.contextmanager
def running(
    peer: Peer, root: Path, cpus: Sequence[int], options: Sequence[str] = (), workers: int = 1
) -> Iterator[Running]:
    """Start a server on these CPUs; `options` are more of the same kind as it has."""
    with tempfile.TemporaryDirectory() as scratch:
        port = servers.free_port()
        if peer.nginx is not None:
            directives = (*peer.nginx, *options)
            command = servers.nginx_command(Path(scratch), root, port, directives, workers)
        else:
            words = (*peer.command, *options)
            command = [word.format(port=port, root=root) for word in words]
        if peer.nobody:
            command = rig.as_nobody(command)
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]
        environment = os.environ | {"PYTHONPATH": str(rig.REPOSITORY), "ROOT": str(root)}
        with servers.listening(pinned, port, environment) as process:
            yield Running(peer, port, process.pid, cpus)
