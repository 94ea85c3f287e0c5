"""The servers of the rig: what each is started with, and its port once it is ready. Blocks."""

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.rig import running_server

HOST = "127.0.0.1"
START_PATIENCE = 30.0
Wrap = Callable[[list[str]], list[str]]

NGINX = """
daemon off;
user root root;
worker_processes 1;
pid {scratch}/nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    {more}
    keepalive_requests 10000000;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    server {{ listen {host}:{port}; root {root}; }}
}}
"""


@contextlib.contextmanager
def trio_amped(root: Path, options: Sequence[str], wrap: Wrap) -> Iterator[int]:
    """Our server; yields its port."""
    with running_server(*options, root=root, wrap=wrap, timeout=START_PATIENCE) as server:
        yield server.port
        if (status := server.process.poll()) is not None:
            raise RuntimeError(f"the server ended with {status}: {' / '.join(server.log[-5:])}")


@contextlib.contextmanager
def nginx(root: Path, options: Sequence[str], wrap: Wrap) -> Iterator[int]:
    """An nginx with one worker, its defaults and sendfile; `options` are more directives."""
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as log:
        port, config = _free_port(), Path(scratch, "nginx.conf")
        facts = {"scratch": scratch, "host": HOST, "port": port, "root": root}
        config.write_text(NGINX.format(more=" ".join(options), **facts))
        command = ["nginx", "-e", "stderr", "-p", scratch, "-c", str(config)]
        null = subprocess.DEVNULL
        server = subprocess.Popen(
            wrap(command), stdin=null, stdout=log, stderr=log, start_new_session=True
        )
        try:
            if not _accepts(server, port):
                log.seek(0)
                raise RuntimeError(f"nginx did not start: {log.read().decode().strip()}")
            yield port
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()  # its worker sees the channel to it end, and exits
                server.wait()


def _free_port() -> int:
    """A port that was free a moment ago, for a server that cannot choose one itself."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def _accepts(server: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the server is there in time."""
    deadline = time.monotonic() + START_PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return True
        time.sleep(0.02)
    return False
