"""A file of settings that changes between reloads, by SIGHUP: by one process, and by workers."""

import re
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.real.crowd import Crowd
from tests.real.support import KIB, MIB, Client, content, eventually, put
from tests.rig import GUARD, ServerProcess, running_server

SIZE = 4 * MIB
RELOADED = "SIGHUP: the new settings hold|all workers are new"
REFUSED = "ERROR .*SIGHUP: .*; the old settings stay$|worker 1 is not renewed"
WAYS = [
    pytest.param(way, id=" ".join(way))
    for way in (
        ("--workers=1",),
        ("--workers=1", "--no-fast-lane"),
        ("--workers=2",),
        ("--workers=2", "--no-fast-lane"),
    )
]


class Reloaded:
    """A server with a file of settings that a test rewrites."""

    def __init__(self, server: ServerProcess, file: Path) -> None:
        self.server = server
        self._file = file
        self._count = {RELOADED: 0, REFUSED: 0}

    def reload(self, text: str, outcome: str = RELOADED) -> None:
        """Have the server read this, and wait until it does, or does not, use it."""
        self._file.write_text(text)
        self._count[outcome] += 1
        self.server.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(self.lines(outcome)) == self._count[outcome])

    def refuse(self, text: str, why: str) -> None:
        """Have the server read this, and keep what it has; it says why in one line."""
        self.reload(text, REFUSED)
        self.server.wait_for_log(why)

    def lines(self, pattern: str) -> list[str]:
        return [line for line in self.server.log if re.search(pattern, line)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        put(tmp_path / name / "small", name.encode())
        put(tmp_path / name / "big", content(SIZE))
    return tmp_path


@contextmanager
def reloaded(way: Sequence[str], place: Path, text: str) -> Iterator[Reloaded]:
    """A server that has all but `way` from a file, also where it listens."""
    file = place / "site.toml"
    file.write_text(text)
    with running_server(*way, f"--config={file}", root=None, wrap=without_address) as server:
        if "--workers=2" in way:
            server.wait_for_log("2 workers serve")
        yield Reloaded(server, file)


def without_address(argv: list[str]) -> list[str]:
    start = argv.index("--host")
    return [*argv[:start], *argv[start + 4 :]]


ANY_PORT = '"127.0.0.1:0"'


def root(place: Path, name: str, *more: str, bind: str = ANY_PORT) -> str:
    return "\n".join([f'root = "{place}/{name}"', f"bind = [{bind}]", *more, ""])


def asked(server: ServerProcess | int, path: str = "/small") -> bytes:
    with Client(server) as client:
        return client.get(path).body


@pytest.mark.parametrize("way", WAYS)
def test_settings_change(way: Sequence[str], place: Path) -> None:
    with reloaded(way, place, root(place, "a")) as it:
        server = it.server
        with Client(server) as old:
            assert old.get("/small").body == b"a"
            it.reload(root(place, "b", 'headers = ["*: X-New: yes"]'))
            with Client(server) as new:
                answer = new.get("/small")
                assert (answer.body, answer.fields["x-new"]) == (b"b", "yes")
            last = old.get("/small")  # by whoever has the connection, and the last one there
            assert (last.body, last.fields["connection"]) == (b"a", "close")
            assert old.has_ended()
        site = '[[site]]\nroot = "{}/{}"\nprefix = "{}"\n'
        sites = site.format(place, "a", "/") + site.format(place, "b", "/b/")
        it.reload(f"bind = [{ANY_PORT}]\n{sites}")
        assert (asked(server), asked(server, "/b/small")) == (b"a", b"b")
        assert server.stop() == 0


@pytest.mark.parametrize("way", WAYS[::2])
def test_what_cannot_be_used_leaves_all_as_it_was(way: Sequence[str], place: Path) -> None:
    with reloaded(way, place, root(place, "a")) as it:
        for text, why in [
            ("ports = 1", "site.toml, line 1: ports is no setting; did you mean port"),
            ("=", "site.toml is no TOML"),
            ("", "site.toml is empty: it must give a setting, such as root"),
            (root(place, "c"), f"cannot serve {place}/c: No such file or directory"),
            (root(place, "b", 'access_log = "/nowhere/log"'), "cannot write the access log"),
            (root(place, "b", 'tls_cert = "/no"', 'tls_key = "/no"'), "cannot read /no"),
            (root(place, "b", 'immutable = ["["]'), "immutable"),
        ]:
            it.refuse(text, why)
            assert asked(it.server) == b"a"
        it.reload(root(place, "b", "workers = 7", 'log_format = "json"', 'log_level = "debug"'))
        it.server.wait_for_log("WARNING SIGHUP: only a restart can change log_format$")
        assert asked(it.server) == b"b"
        it.server.wait_for_log("DEBUG .*GET /small HTTP/1.1 200 1$")
        assert it.server.stop() == 0
        assert not it.lines("Traceback")


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), GUARD).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # closed at this very moment
        return False
    return False


@pytest.mark.parametrize("way", WAYS)
def test_binds_come_and_go(way: Sequence[str], place: Path) -> None:
    """A download by one that has gone goes on; nobody else is let in by it."""
    more = place / "socket"
    first, second = ANY_PORT, f'"unix:{more}"'

    def at(*binds: str) -> str:
        return root(place, "a", bind=", ".join(binds))

    with reloaded(way, place, at(first)) as it:
        with Crowd(it.server, expected=b"a") as crowd:
            it.reload(at(second, first))
            with socket.socket(socket.AF_UNIX) as other:
                other.connect(str(more))
                other.sendall(b"GET /small HTTP/1.0\r\n\r\n")
                assert other.makefile("rb").read().endswith(b"\r\n\r\na")
            it.refuse(at(first, f'"unix:{place}/no/socket"'), "cannot listen on unix:")
            it.refuse(at(first, f'"unix:{more},mode=600"'), "with other options")
            assert more.is_socket()
        assert crowd.failures == []
        with Client(it.server, receive_buffer=64 * KIB) as client:
            client.ask("/big")
            assert client.head().status == 200
            it.reload(at(second))
            eventually(lambda: refuses(it.server.port))
            assert client.take(SIZE) == content(SIZE)
        assert it.server.stop() == 0
        assert not more.exists()


@pytest.mark.parametrize("way", WAYS[::2])
def test_the_access_log_moves(way: Sequence[str], place: Path) -> None:
    """From standard error alone to a file, to another file, and back."""

    def log(name: str) -> str:
        return root(place, "a", f'access_log = "{place}/{name}"', 'access_log_format = "$status"')

    def has(name: str, lines: int) -> bool:
        return (place / name).read_text() == "200\n" * lines

    with reloaded(way, place, root(place, "a")) as it:
        asked(it.server)
        it.reload(log("one"))
        asked(it.server)
        eventually(lambda: has("one", 1))
        it.reload(log("two"))
        asked(it.server)
        eventually(lambda: has("two", 1))
        (place / "two").rename(place / "three")
        it.server.process.send_signal(signal.SIGUSR1)
        eventually((place / "two").exists)
        asked(it.server)
        eventually(lambda: has("two", 1))
        it.reload(root(place, "a"))
        asked(it.server)
        assert it.server.stop() == 0
        assert has("one", 1)
        assert has("two", 1)
        assert has("three", 1)


@pytest.mark.parametrize("count", [3, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("way", WAYS)
def test_reloads_lose_no_request(way: Sequence[str], count: int, place: Path) -> None:
    with reloaded(way, place, root(place, "a")) as it:
        with Crowd(it.server, expected=b"a") as crowd:
            for number in range(count):
                it.reload(root(place, "a", f'headers = ["*: X-Number: {number}"]'))
        assert crowd.failures == []
        assert len(crowd.answers) > count
        with Client(it.server) as client:
            assert client.get("/small").fields["x-number"] == str(count - 1)
        assert it.server.stop() == 0
        it.server.wait_for_log(rf"stopped; {len(crowd.answers) + 1} requests, .*[a-z]$")
        assert not it.lines("ERROR|Traceback")
