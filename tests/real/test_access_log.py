"""The access log of a real server: each way of starting it, rotated, and on a disk that hangs."""

import json
import os
import re
import signal
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.rig import NOBODY, ServerProcess, for_strangers, fuse_disk, needs, running_server
from tests.rig.server import COMMON_OPTIONS

from .support import Client, children, content, eventually, put

USER: Final = ("--user", f"{NOBODY}:{NOBODY}")
STARTS: Final = (
    pytest.param((), id="alone"),
    pytest.param(("--no-fast-lane",), id="tasks"),
    pytest.param(("--workers", "2"), id="workers"),
    pytest.param(USER, marks=needs("nobody"), id="user"),
    pytest.param((*USER, "--confine"), marks=needs("nobody", "landlock"), id="confined"),
)
LINE: Final = re.compile(
    r'127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:[\d:]{8} [+-]\d{4}\] "GET /hot\?(\d+) HTTP/1\.1" '
    r'200 3 "-" "-"'
)


@pytest.fixture
def root(place: Path) -> Path:
    put(place / "root/hot", b"hot")
    return place / "root"


@pytest.fixture
def log(place: Path) -> Path:
    """In a folder of root's, for nobody else."""
    (place / "log").mkdir(0o700)
    return place / "log/access.log"


def ask(server: ServerProcess, *numbers: int) -> None:
    """A connection for each request, so that each worker has some."""
    for number in numbers:
        with Client(server) as client:
            assert client.get(f"/hot?{number}").body == b"hot"


def numbers(path: Path) -> list[int]:
    """Which requests a log has a line of, each of which is whole."""
    found = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    return sorted(int(line[1]) for line in found if line) if all(found) else []


def wrapped(options: Sequence[str]) -> dict[str, object]:
    return {"wrap": for_strangers} if "--user" in options else {}


@pytest.mark.parametrize("options", STARTS)
@pytest.mark.parametrize("by_signal", [True, False])
def test_it_is_rotated(options: Sequence[str], by_signal: bool, root: Path, log: Path) -> None:
    """As logrotate does it, with `postrotate` and without; no request is without its line."""
    options = (*options, "--access-log", str(log))
    with running_server(*options, root=root, **wrapped(options)) as server:  # type: ignore[arg-type]
        if "--user" in options or "--workers" in options:
            server.wait_for_log(r"\d workers? serves?")
        ask(server, *range(10))
        eventually(lambda: numbers(log) == list(range(10)))
        log.rename(f"{log}.1")
        if by_signal:
            server.process.send_signal(signal.SIGUSR1)
            eventually(log.exists)
        ask(server, *range(10, 20))
        # Without a signal, what comes within the second may still go to the old file.

        def both() -> list[int]:
            return numbers(Path(f"{log}.1")) + (numbers(log) if log.exists() else [])

        eventually(lambda: both() == list(range(20)))
        eventually(log.exists if by_signal else lambda: asked_until_there(server, log))
        assert server.stop() == 0
        assert log.stat().st_uid == os.getuid()
        assert not any(re.search("ERROR|Traceback|lost", line) for line in server.log)


def asked_until_there(server: ServerProcess, log: Path) -> bool:
    ask(server, 99)
    return log.exists() and bool(numbers(log))


@pytest.mark.parametrize("options", STARTS)
def test_the_last_lines_are_written(options: Sequence[str], root: Path, log: Path) -> None:
    options = (*options, "--access-log", str(log))
    with running_server(*options, root=root, **wrapped(options)) as server:  # type: ignore[arg-type]
        ask(server, *range(20))
        assert server.stop() == 0
        assert numbers(log) == list(range(20))


@pytest.mark.parametrize("options", STARTS[:3])
def test_to_standard_output(options: Sequence[str], root: Path) -> None:
    """Which is a pipe here, that stderr shares."""
    with running_server(*options, "--access-log", "-", root=root) as server:
        ask(server, *range(20))
        for number in range(20):
            server.wait_for_log(rf'^127.0.0.1 - - \[.*\] "GET /hot\?{number} HTTP/1.1" 200 3 "-" "')


def test_a_worker_that_comes_later_has_it_too(root: Path, log: Path) -> None:
    with running_server("--workers", "2", "--access-log", str(log), root=root) as server:
        server.wait_for_log("2 workers serve")
        log.rename(f"{log}.1")
        server.process.send_signal(signal.SIGUSR1)
        eventually(log.exists)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("all workers are new")
        ask(server, *range(20))
        eventually(lambda: numbers(log) == list(range(20)))
        for pid in children(server.pid):
            os.kill(pid, signal.SIGUSR1)  # as `systemctl kill` does, and no harm is done
        ask(server, 20)
        assert server.stop() == 0


def test_both_logs_as_json(root: Path, log: Path) -> None:
    options = ("--log-format", "json", "--access-log-format", "json", "--access-log", str(log))
    with running_server(*options, "--workers", "2", "--log-level", "debug", root=root) as server:
        server.wait_for_log("2 workers serve")
        with Client(server) as client:
            client.get("/hot", 'User-Agent: a"\\')
            client.get("/no\x1b")
        assert server.stop() == 0
        said = [json.loads(line) for line in server.log]
    assert {each["level"] for each in said} >= {"info", "debug"}
    assert {each.get("worker") for each in said} <= {None, 1, 2}
    assert all(each["message"] and each["time"] and each["logger"] for each in said)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [each["http_user_agent"] for each in lines if each["status"] == 200] == ['a"\\']


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no/log", "cannot write the access log {}: No such file or directory; see --access-log"),
        ("", "cannot write the access log {}: Is a directory; see --access-log"),
    ],
)
def test_one_that_cannot_be_opened(
    options: Sequence[str], name: str, why: str, root: Path, place: Path
) -> None:
    path = str(place / name)
    match = re.escape(why.format(path))
    options = (*options, "--access-log", path)
    with pytest.raises(AssertionError, match=match), running_server(*options, root=root):
        pass


# ---------------------------------------------------------------- a disk that hangs


def waits(client: Client, count: int) -> list[float]:
    """How long hot requests take, in seconds."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        assert client.get("/hot").body == b"hot"
        found.append(time.perf_counter() - start)
    return found


@needs("fuse")
@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_a_hung_disk_holds_up_nobody(options: Sequence[str], root: Path, place: Path) -> None:
    """Nor the loop, nor a worker's end; and what it did not take is there when it comes back."""
    put(place / "backing/other", content(10))
    with fuse_disk(place, place / "backing") as disk:
        path = disk.path / "access.log"
        options = (*options, "--access-log", str(path))
        with running_server(*options, root=root) as server, Client(server) as client:
            before = waits(client, 300)
            disk.hang("write", "getattr", "open", "flush")
            client.get("/hot?hang")
            disk.wait_hanging()
            during = waits(client, 300)
            assert during_is_no_later(before, during), (before, during)
            disk.release()
            eventually(lambda: path.read_text().count("\n") == 601)


def during_is_no_later(before: list[float], during: list[float]) -> bool:
    """The median; the p99 of a busy machine is its own."""
    return statistics.median(during) < statistics.median(before) + 0.0005


@needs("fuse")
def test_the_server_ends_on_a_hung_disk(root: Path, place: Path) -> None:
    """A worker says so, and what it could not write; its process ends when the disk lets it go."""
    put(place / "backing/other", content(10))
    with fuse_disk(place, place / "backing") as disk:
        path = disk.path / "access.log"
        with running_server("--access-log", str(path), root=root) as server:
            disk.hang("write")
            ask(server, 1)
            disk.wait_hanging()
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_log("stopped; 1 requests")
            server.wait_for_log(r"the access log does not take its last \d+ bytes")
            disk.release()
            assert server.process.wait(60) == 0


@needs("fuse")
@pytest.mark.parametrize("options", [(), ("--no-fast-lane",), ("--workers", "2")])
def test_how_long_the_disk_was_waited_for(options: Sequence[str], root: Path, place: Path) -> None:
    put(place / "backing/slow", content(1000))
    put(place / "backing/folder/name", b"")
    log = place / "way.log"
    form = ("--access-log-format", "$request_uri $status $gate $gate_ms $request_time")
    options = (*options, "--listing", "--access-log", str(log), *form)
    with (
        fuse_disk(root, place / "backing") as disk,
        running_server(*options, root=root) as server,
        Client(server) as client,
    ):
        disk.delay("read", 0.2)
        disk.delay("readdir", 0.3)
        for path in ("/slow", "/folder/"):
            assert client.get(f"/{disk.path.name}{path}").status == 200
        for _ in range(2):  # the first may have to be opened
            assert client.get("/hot").status == 200
        assert server.stop() == 0
        lines = [line.split() for line in log.read_text().splitlines()]
    waited = {}
    for path, status, gate, milliseconds, seconds in lines:
        assert status == "200"
        assert int(milliseconds) <= 1000 * float(seconds) + 1
        waited[path.rpartition(disk.path.name)[2]] = gate, int(milliseconds)
    for path, least in (("/slow", 200), ("/folder/", 300)):
        assert waited[path][0] == "helper"
        assert waited[path][1] >= least
    by_tasks = "--no-fast-lane" in (*COMMON_OPTIONS, *options)
    assert waited["/hot"] == ("resident" if by_tasks else "lane", 0)
