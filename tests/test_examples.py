"""The examples run, and do what their readers will copy them for."""

import ast
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.real.support import Client, curl
from tests.rig import GUARD, REPOSITORY, needs

EXAMPLES = REPOSITORY / "examples"
SITE = EXAMPLES / "site"


@contextlib.contextmanager
def running_example(name: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """An example as a process of its own, from a folder that is not its own, and its output."""
    argv = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        argv,
        cwd="/",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_embed(number: signal.Signals) -> None:
    with running_example("embed.py") as (process, output):
        line = output.readline()
        assert line.startswith("serving http://127.0.0.1:")
        port = int(line.rstrip("/\n").rsplit(":", 1)[1])
        with Client(port) as client:
            for path, name in (
                ("/", "index.html"),
                ("/style.css", "style.css"),
                ("/downloads/primes.txt", "downloads/primes.txt"),
            ):
                assert client.get(path).body == (SITE / name).read_bytes()
            assert client.get("/about").fields["location"] == "about/"
            assert client.get("/nope").body == b"no such file, and no such call\n"
            counters = json.loads(client.get("/api/counters").body)
        assert counters["requests"] == 6
        assert counters["responses"] == {"200": 3, "301": 1, "404": 1}

        caller = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD)
        parts = iter([b"one ", b"two"])
        caller.request("PUT", "/api/shout", body=parts, encode_chunked=True)
        assert caller.getresponse().read() == b"ONE TWO"
        caller.close()

        process.send_signal(number)
        assert process.wait(GUARD) == 0
        assert output.read() == ""


def test_embed_is_told_twice() -> None:
    """A client that is half-way through a request does not keep it."""
    with running_example("embed.py") as (process, output):
        port = int(output.readline().rstrip("/\n").rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=GUARD) as client:
            client.sendall(b"PUT /api/shout HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na")
            assert b"200 OK" in client.recv(1000)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(ConnectionError):  # once it has begun to drain
                while True:
                    socket.create_connection(("127.0.0.1", port), timeout=GUARD).close()
            process.send_signal(signal.SIGINT)
            assert process.wait(GUARD) == 0
        assert output.read() == ""


def test_tls(tmp_path: Path) -> None:
    authority = tmp_path / "authority.pem"
    with running_example("tls.py", str(authority)) as (process, output):
        line = output.readline()
        assert line.startswith("serving https://localhost:"), output.read()
        port = int(line.split("/")[2].rpartition(":")[2])
        context = ssl.create_default_context(cafile=str(authority))
        client = http.client.HTTPSConnection("localhost", port, context=context, timeout=GUARD)
        for _ in range(2):
            client.request("GET", "/downloads/primes.txt")
            assert client.getresponse().read() == (SITE / "downloads/primes.txt").read_bytes()
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(GUARD) == 0
        assert output.read() == "stopped\n"


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running_example("unix_socket.py", str(path)) as (process, output):
        assert output.readline() == f"serving at {path}\n"
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answer:
            client.settimeout(GUARD)
            client.connect(str(path))
            client.sendall(b"GET /style.css HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert answer.read().endswith(b"\r\n\r\n" + (SITE / "style.css").read_bytes())
        assert re.fullmatch(r"200 GET /style\.css [0-9.]+ ms\n", output.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(GUARD) == 0
        assert not path.exists()


def test_unix_socket_takes_no_place_that_is_not_its_own(tmp_path: Path) -> None:
    file, used = tmp_path / "file", tmp_path / "used"
    file.write_text("precious")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(used))
        sock.listen()
        for path in (file, used):
            with running_example("unix_socket.py", str(path)) as (process, output):
                assert output.read() == f"{path}: Address already in use\n"
                assert process.wait(GUARD) == 1
    assert file.read_text() == "precious"
    assert used.is_socket()
    with running_example("unix_socket.py", str(used)) as (process, output):  # nobody listens now
        assert output.readline() == f"serving at {used}\n"


def test_gate_only() -> None:
    with running_example("gate_only.py") as (process, output):
        first, *times = output.read().splitlines()
        assert ": 16777216 bytes, gate " in first
        ways = [line.split()[0] for line in times]
        assert ways == ["trio_amped.disk"] * 2 + ["trio.open_file"] * 2
        assert all(line.endswith(" us for 64 KiB") for line in times)
        assert process.wait(GUARD) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asgi_quart(number: signal.Signals) -> None:
    with running_example("asgi_quart.py") as (process, output):
        first = output.readline()
        found = re.search(r"Running on http://127\.0\.0\.1:(\d+) ", first)
        assert found, first
        with Client(int(found[1])) as client:
            assert client.get("/").body == (SITE / "index.html").read_bytes()
            assert client.get("/style.css").body == (SITE / "style.css").read_bytes()
            assert json.loads(client.get("/api/time").body)["seconds"] > 0
            assert client.get("/api/nothing").status == 404
        process.send_signal(number)
        assert process.wait(GUARD) == 0
        assert output.read() == ""


@needs("curl")
@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
def test_asgi_http2(version: str, tmp_path: Path) -> None:
    authority, received = tmp_path / "authority.pem", tmp_path / "received"
    with running_example("asgi_http2.py", str(authority)) as (process, output):
        first = output.readline()
        found = re.search(r"Running on https://127\.0\.0\.1:(\d+) ", first)
        assert found, first
        url = f"https://localhost:{found[1]}"
        options = ["--cacert", str(authority), "--ipv4", "-w%{http_version} ", f"-o{received}"]
        for name in ("downloads/primes.txt", "style.css"):
            said = curl(version, *options, f"{url}/{name}").stdout
            assert said == (b"2 " if version == "--http2" else b"1.1 ")
            assert received.read_bytes() == (SITE / name).read_bytes()
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD) == 0
        assert output.read() == ""


@pytest.mark.parametrize(
    "name",
    ["asgi_http2.py", "asgi_quart.py", "embed.py", "gate_only.py", "tls.py", "unix_socket.py"],
)
def test_an_example_is_short_enough_to_copy(name: str) -> None:
    source = (EXAMPLES / name).read_text()
    assert len(source.splitlines()) <= 60
    assert ast.get_docstring(ast.parse(source))


def test_every_page_of_the_site_is_there() -> None:
    assert {"index.html", "style.css", "robots.txt"} <= {path.name for path in Path(SITE).iterdir()}
