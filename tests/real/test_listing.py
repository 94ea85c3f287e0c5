"""A directory of 20 000 names: all of them are shown, and nobody else waits for that."""

import gzip
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.rig import ServerProcess, public_directory, running_server

from .support import Client, Reply, children, descriptors, eventually, put, stop_process

NAMES: Final = 20_000
LARGE: Final = "/large/?sort=name&order=desc"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with public_directory() as directory:
        put(directory / "hot", b"hot")
        fill(directory / "large", names())
        yield directory


@pytest.fixture(scope="module", params=["thread", "process"])
def server(request: pytest.FixtureRequest, root: Path) -> Iterator[ServerProcess]:
    options = ("--listing", "--revalidate", "1000", "--helpers", request.param)
    with running_server(*options, root=root) as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in "\n".join(server.log)


def fill(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o644))


def names() -> list[str]:
    return [f"package-{number:06d}.tar.gz" for number in range(NAMES)]


def without_date(reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.fields.items() if name != "date"}


def listers(server: ServerProcess) -> list[int]:
    """The helper processes that render listings: both of them."""
    eventually(lambda: len(nice_children(server)) == 2)
    return nice_children(server)


def nice_children(server: ServerProcess) -> list[int]:
    return [pid for pid in children(server.pid) if os.getpriority(os.PRIO_PROCESS, pid) == 10]


def test_hot_requests_are_answered_while_it_is_made(server: ServerProcess, root: Path) -> None:
    """However long that takes."""
    os.utime(root / "large")  # so that it is made anew
    with Client(server) as slow, Client(server) as hot:
        for pid in listers(server):
            stop_process(pid)
        slow.ask("/large/")
        for _ in range(10):
            assert hot.get("/hot").body == b"hot"
        assert not slow.has_answer()
        for pid in listers(server):
            os.kill(pid, signal.SIGCONT)
        assert slow.answer().status == 200


def test_it_is_whole(server: ServerProcess) -> None:
    with Client(server) as client:
        html = client.get("/large/").body
        backwards = client.get(LARGE).body
        shown = client.get("/large/", "Accept: application/json").body
        coded = client.get("/large/", "Accept-Encoding: gzip")
        some = client.get("/large/?filter=-01999").body
    assert re.findall(rb' href="(package[^"]+)"', html) == [name.encode() for name in names()]
    assert html.count(b"<time ") == NAMES
    assert f"<p>{NAMES:,} files, 0 B</p>".encode() in html
    assert html.endswith(b"</html>\n")
    assert re.findall(rb' href="(package[^"]+)"', backwards) == [
        name.encode() for name in reversed(names())
    ]
    assert [entry["href"] for entry in json.loads(shown)] == names()
    assert (coded.fields["content-encoding"], gzip.decompress(coded.body)) == ("gzip", html)
    assert len(coded.body) < len(html) / 8
    assert re.findall(rb' href="(package[^"]+)"', some) == [
        name.encode() for name in names() if "-01999" in name
    ]


def test_it_is_a_file_like_any_other(server: ServerProcess) -> None:
    with Client(server) as client:
        whole = client.get(LARGE)
        tag, size = whole.fields["etag"], len(whole.body)
        assert (whole.status, whole.fields["content-length"]) == (200, str(size))
        head = client.get(LARGE, 'If-None-Match: "x"', method="HEAD")
        assert (head.status, without_date(head)) == (200, without_date(whole))
        alone = client.get(LARGE, method="HEAD")
        assert alone.status == 200
        assert without_date(whole).items() - without_date(alone).items() == {
            ("etag", tag),
            ("content-length", str(size)),
        }
        assert without_date(alone).items() <= without_date(whole).items()
        known = client.get(LARGE, f"If-None-Match: {tag}")
        assert (known.status, known.fields["etag"], known.body) == (304, tag, b"")
        assert client.get("/large/", f"If-None-Match: {tag}").status == 200, "in another order"
        for first, last in ((0, 0), (size // 2, size // 2 + 1_000_000), (size - 100, size - 1)):
            fields = (f"Range: bytes={first}-{last}", f"If-Range: {tag}")
            part = client.get(LARGE, *fields)
            assert (part.status, part.body) == (206, whole.body[first : last + 1])
            assert part.fields["content-range"] == f"bytes {first}-{last}/{size}"


@pytest.mark.parametrize("is_being_sent", [True, False])
def test_clients_that_leave_leave_nothing(is_being_sent: bool, place: Path) -> None:
    """In the middle of being sent to, and before there is anything to send."""
    fill(place / "root/folder", names())
    with running_server("--listing", "--revalidate", "0", root=place / "root") as server:

        def in_memory() -> int:
            return sum("/memfd:listing" in each for each in descriptors(server.pid))

        for _ in range(4):
            with Client(server, receive_buffer=1) as client:
                client.ask("/folder/")
                if is_being_sent:
                    assert client.head().status == 200
                client.reset()
        with Client(server) as client:
            assert client.get("/folder/").status == 200
            assert client.get("/").status == 200
            eventually(lambda: in_memory() == 1)  # the last one, which may be asked for again
            assert len(children(server.pid)) == 2
