"""The servers of the rig: what each is started with, and its port once it is ready. Blocks."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trustme

from tests.rig import GUARD, REPOSITORY, running_server

HOST = "127.0.0.1"
CONNECTIONS = 8192  # for which nginx has room
KEYS: tuple[Literal["ecdsa", "rsa"], ...] = ("ecdsa", "rsa")  # kinds of them
Wrap = Callable[[list[str]], list[str]]
_PORTS_OF_CLIENTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 10_000

NGINX = """
daemon off;
user root root;
worker_processes {workers};
worker_rlimit_nofile 65536;
pid {scratch}/nginx.pid;
error_log stderr;
events {{ worker_connections {connections}; }}
http {{
    access_log {log};
    log_not_found off;
    sendfile on;
    {more}
    keepalive_requests 10000000;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    server {{ listen {host}:{port}{tls}; root {root}; }}
}}
"""
# The versions that ours has.
_NGINX_TLS = (
    " ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3"
)


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path

    @classmethod
    def write(cls, folder: Path, key: Literal["ecdsa", "rsa"] = "ecdsa") -> "Pair":
        """Make a new one: with a key of P-256, as most sites have, or of RSA with 2 048 bits."""
        pair = cls(folder / f"{key}-certificate.pem", folder / f"{key}-key.pem")
        kind = trustme.KeyType[key.upper()]
        leaf = trustme.CA(key_type=kind).issue_cert(HOST, key_type=kind)
        leaf.cert_chain_pems[0].write_to_path(pair.certificate)
        leaf.private_key_pem.write_to_path(pair.key)
        return pair


@contextlib.contextmanager
def trio_amped(root: Path, options: Sequence[str], wrap: Wrap) -> Iterator[int]:
    """Our server; yields its port."""
    with running_server(*options, root=root, wrap=wrap) as server:
        yield server.port
        if (status := server.process.poll()) is not None:
            raise RuntimeError(f"the server ended with {status}: {' / '.join(server.log[-5:])}")


@contextlib.contextmanager
def nginx(root: Path, options: Sequence[str], wrap: Wrap) -> Iterator[int]:
    """An nginx with one worker, its defaults and sendfile; `options` are more directives."""
    with tempfile.TemporaryDirectory() as scratch:
        port = free_port()
        command = nginx_command(Path(scratch), root, port, options)
        with listening(wrap(command), port):
            yield port


def nginx_command(
    scratch: Path,
    root: Path,
    port: int,
    options: Sequence[str],
    workers: int = 1,
    connections: int = CONNECTIONS,
    log: str = "off",
    tls: Pair | None = None,
) -> list[str]:
    """The command for an nginx that listens there; its configuration goes to `scratch`.

    `log`: what its directive access_log is given.
    """
    config = scratch / "nginx.conf"
    facts: dict[str, object] = {"scratch": scratch, "host": HOST, "port": port, "root": root}
    facts["tls"] = _NGINX_TLS.format(**vars(tls)) if tls else ""
    numbers = {"workers": workers, "connections": connections}
    config.write_text(NGINX.format(more=" ".join(options), log=log, **facts, **numbers))
    return ["nginx", "-e", "stderr", "-p", str(scratch), "-c", str(config)]


@contextlib.contextmanager
def listening(
    command: Sequence[str],
    port: int,
    environment: Mapping[str, str] | None = None,
    directory: Path = REPOSITORY,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a session of its own, from when it accepts until it and its workers are gone."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
        try:
            if not _accepts(server, port):
                log.seek(0)
                said = log.read().decode(errors="replace").strip()
                raise RuntimeError(f"{command[0]} did not start: {said[-2000:]}")
            yield server
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(10)
            with contextlib.suppress(ProcessLookupError):  # its workers, if it did not end
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def free_port() -> int:
    """A port that was free a moment ago, for a server that cannot choose one itself.

    None of those that the kernel gives to clients (ip(7), ip_local_port_range): a load makes
    thousands of connections, one of which might have it by the time at which the server begins.
    """
    first, _ = _PORTS_OF_CLIENTS.read_text().split()
    while True:
        port = random.randrange(_FIRST_PORT, int(first))
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind((HOST, port))
            return port


def _accepts(server: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the server is there in time."""
    deadline = time.monotonic() + GUARD
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return True
        time.sleep(0.02)
    return False
