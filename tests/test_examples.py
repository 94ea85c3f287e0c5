"""The examples run, and do what their readers will copy them for."""

import ast
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.real.support import Client
from tests.rig import GUARD, REPOSITORY

EXAMPLES = REPOSITORY / "examples"
SITE = EXAMPLES / "site"


@contextmanager
def running_example(name: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """An example as a process of its own, from a folder that is not its own, and its output."""
    argv = [sys.executable, "-W", "error", str(EXAMPLES / name)]
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
        files = output.readline()
        assert files.startswith("files at http://127.0.0.1:")
        port = int(files.rstrip("/\n").rsplit(":", 1)[1])
        with Client(port) as client:
            for path, name in (
                ("/", "index.html"),
                ("/style.css", "style.css"),
                ("/downloads/primes.txt", "downloads/primes.txt"),
            ):
                assert client.get(path).body == (SITE / name).read_bytes()
            assert client.get("/about").fields["location"] == "/about/"

        *_, host, other_port = output.readline().split()
        caller = socket.create_connection((host, int(other_port)), GUARD)
        with caller, caller.makefile() as lines:
            counters = json.loads(lines.read())
        assert counters["requests"] == 4
        assert counters["responses"] == {"200": 3, "301": 1}

        process.send_signal(number)
        assert process.wait(GUARD) == 0
        assert output.read() == ""


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


@pytest.mark.parametrize("name", ["asgi_quart.py", "embed.py", "gate_only.py"])
def test_an_example_is_short_enough_to_copy(name: str) -> None:
    source = (EXAMPLES / name).read_text()
    assert len(source.splitlines()) <= 60
    assert ast.get_docstring(ast.parse(source))


def test_every_page_of_the_site_is_there() -> None:
    assert {"index.html", "style.css", "robots.txt"} <= {path.name for path in Path(SITE).iterdir()}
