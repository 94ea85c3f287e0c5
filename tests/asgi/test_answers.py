"""An ASGI application says what the server says, from wherever it is mounted."""

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.asgi.support import HOST, Reply, ask, call, left_open, scope
from tests.serving.cases import FILES
from tests.serving.client import Answer, parse
from tests.serving.peers import converse_by_task
from tests.serving.rfc9110 import (
    test_conditions,
    test_negotiation,
    test_ranges,
    test_representations,
    test_sections,
    test_status_codes,
    test_tags,
)
from tests.serving.rfc9110.rows import SITE, Row
from trio_amped.asgi import StaticFiles, _target
from trio_amped.config import Config, Site
from trio_amped.disk.interface import OpenFile, Wish
from trio_amped.disk.jobs import ASKER, Asker
from trio_amped.testing import SimDisk

Use = Callable[[SimDisk], SimDisk]
_TABLES: Final = (
    *(test_conditions, test_negotiation, test_ranges, test_representations, test_sections),
    test_status_codes,
    test_tags,
)
_OF_THE_CONNECTION: Final = ("date", "connection")


def request_of(head: bytes) -> h11.Request | None:
    """What a server makes of a head, that it has no objection to."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def scope_of(request: h11.Request, root_path: str = "") -> dict[str, Any]:
    return scope(
        root_path + request.target.decode(),
        method=request.method.decode(),
        version=request.http_version.decode(),
        root_path=root_path,
        headers=list(request.headers),
    )


def rows() -> list[Row]:
    """Those whose request comes to an application, within the bounds of our own server, and in a
    version of HTTP that is the ASGI server's affair."""
    found = [row for table in _TABLES for row in getattr(table, "ROWS", ())]
    return [row for row in found if request_of(row.request) and row.status not in (414, 431, 505)]


def test_there_are_rows() -> None:
    assert len(rows()) > 250


def compared(answer: Answer | Reply) -> tuple[int, Mapping[str, str], bytes]:
    headers = {
        name: value for name, value in answer.headers.items() if name not in _OF_THE_CONNECTION
    }
    return answer.status, headers, answer.body


@pytest.mark.parametrize("row", rows(), ids=str)
async def test_it_says_what_the_server_says(row: Row, use: Use) -> None:
    request = request_of(row.request)
    assert request
    disk = SimDisk({**FILES, **SITE})
    sent = await converse_by_task(disk, [row.request], row.config)
    (expected,) = parse(sent, [request.method])

    files = StaticFiles(row.config)
    use(disk)
    reply = await call(files, scope_of(request))
    assert reply.is_complete
    assert compared(reply) == compared(expected)
    assert left_open(disk) == 0

    if request.target.startswith(b"/"):
        mounted = await call(files, scope_of(request, "/at/här"))
        assert compared(mounted) == compared(expected)


# ---------------------------------------------------------------- where it is mounted


@pytest.mark.parametrize(
    ("path", "root_path", "raw_path", "target"),
    [
        ("/a", "", b"/a", b"/a"),
        ("/a", "", None, b"/a"),
        ("/at/a", "/at", b"/at/a", b"/a"),  # the specification, and Starlette
        ("/at/a", "/at/", b"/at/a", b"/a"),
        ("/at/a", "/at", None, b"/a"),
        ("/a", "/at", b"/at/a", b"/a"),  # who takes the root path off
        ("/a", "/at", b"/a", b"/a"),  # a proxy has done so before
        ("/a", "/at", None, b"/a"),
        ("/at/at/a", "/at", b"/at/at/a", b"/at/a"),
        ("/at/a", "/at", b"/at/at/a", b"/at/a"),
        ("/atone", "/at", b"/atone", b"/atone"),
        ("/at", "/at", b"/at", b""),
        ("/at/", "/at", b"/at/", b"/"),
        ("", "", b"", b""),
        ("/a/b", "", b"/a%2Fb", b"/a%2Fb"),  # a name, and not two
        ("/s/a", "/s", b"/s%2Fa", b"/a"),  # whoever mounts has taken it for a slash
        ("/at/a/b", "/at", b"/at/a%2fb", b"/a%2fb"),
        ("/\ufffd", "", b"/%FF", b"/%FF"),  # no UTF-8
        ("/at/\ufffd", "/at", b"/at/%FF", b"/%FF"),
        ("/ä t/ö", "/ä t", b"/%C3%A4%20t/%C3%B6", b"/%C3%B6"),
        ("/ä t/ö", "/ä t", b"/%c3%a4%20t/%c3%b6", b"/%C3%B6"),
        ("/ä t/ö", "/ä t", None, b"/%C3%B6"),
        ("/a b?#%41", "", None, b"/a%20b%3F%23%2541"),
        ("/new", "", b"/old", b"/new"),  # rewritten by somebody on the way
        ("/at/new", "/at", b"/old/at", b"/new"),
        ("/at/../a", "/at", b"/at/../a", b"/../a"),  # refused: it leads above the root
    ],
)
def test_a_target_begins_where_it_is_mounted(
    path: str, root_path: str, raw_path: bytes | None, target: bytes
) -> None:
    found = {"path": path, "root_path": root_path, "raw_path": raw_path}
    assert _target(found) == target


SEGMENTS: Final = st.lists(
    st.sampled_from(["a", "at", "%2F", "%61t", "%C3%A4", "", "."]), max_size=4
)


@given(SEGMENTS, st.sampled_from(["", "/at", "/at/at", "/ä"]), st.booleans())
def test_however_it_is_mounted_it_is_the_same_file(
    segments: list[str], root_path: str, is_taken_off: bool
) -> None:
    """What is left of the root path in `path` makes no difference, as `raw_path` tells."""
    target = "/" + "/".join(segments)
    encoded = root_path.replace("ä", "%C3%A4")
    mounted = scope(encoded + target, root_path=root_path)
    if is_taken_off:
        mounted["path"] = scope(target)["path"]
    assert _target(mounted) == target.encode()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_the_place_without_its_slash(use: Use, method: str) -> None:
    use(SimDisk(FILES))
    files = StaticFiles("site")
    for query in ("", "?a=b"):
        reply = await ask(files, "/at" + query, root_path="/at", method=method)
        assert (reply.status, reply.headers["location"]) == (301, "at/" + query)
    refused = await ask(files, "/at", root_path="/at", method="POST")
    assert refused.status == 405


async def test_a_location_is_relative_to_where_it_is_mounted(use: Use) -> None:
    use(SimDisk(FILES))
    files = StaticFiles("site")
    reply = await ask(files, "/ä/folder?x", root_path="/ä")
    assert (reply.status, reply.headers["location"]) == (301, "folder/?x")
    reply = await ask(files, "/b/ä:c?x", root_path="/b/ä:c")
    assert (reply.status, reply.headers["location"]) == (301, "%C3%A4%3Ac/?x")


async def test_a_site_has_a_prefix_of_its_own(use: Use) -> None:
    use(SimDisk(FILES))
    files = StaticFiles(Site("site", prefix="/static/"))
    assert (await ask(files, "/static/a.txt")).body == b"0123456789"
    assert (await ask(files, "/at/static/a.txt", root_path="/at")).body == b"0123456789"
    assert (await ask(files, "/at/a.txt", root_path="/at")).status == 404
    reply = await ask(files, "/at/static/folder", root_path="/at")
    assert reply.headers["location"] == "folder/"


def test_an_application_for_the_server_is_none_for_asgi() -> None:
    async def application(exchange: object) -> None:
        raise AssertionError

    for site in (Site("site", fallback=application), Config(fallback=application)):
        with pytest.raises(ValueError, match="fallback must be a page"):
            StaticFiles(site)


# ---------------------------------------------------------------- what a server may ask


@pytest.mark.parametrize("version", ["1.0", "1.1", "2", "3"])
async def test_every_version_of_http(use: Use, version: str) -> None:
    use(SimDisk(FILES))
    reply = await ask(StaticFiles("site"), "/a.txt", version=version)
    assert (reply.status, reply.body) == (200, b"0123456789")


async def test_a_scope_with_nothing_but_what_must_be(use: Use) -> None:
    use(SimDisk(FILES))
    optional = ("raw_path", "root_path", "scheme", "client", "server", "extensions")
    least = {key: value for key, value in scope("/a.txt").items() if key not in optional} | {
        "headers": [[*HOST]]
    }
    reply = await call(StaticFiles("site"), least)
    assert (reply.status, reply.body) == (200, b"0123456789")


@pytest.mark.parametrize(
    ("target", "method", "headers", "status"),
    [
        ("/a.txt", "HEAD", (), 200),
        ("/empty.txt", "GET", (), 200),
        ("/a.txt", "GET", ((b"if-none-match", b"*"),), 304),
        ("/a.txt", "OPTIONS", (), 200),
    ],
)
async def test_nothing_is_one_empty_body(
    use: Use, target: str, method: str, headers: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    use(SimDisk(FILES))
    reply = await ask(StaticFiles("site"), target, *headers, method=method)
    assert reply.status == status
    assert reply.messages == [("start", 0), ("body", 0)]


async def test_a_small_file_is_one_message(use: Use) -> None:
    use(SimDisk(FILES))
    reply = await ask(StaticFiles("site"), "/a.txt")
    assert reply.messages == [("start", 0), ("body", 10)]
    assert not {"date", "connection", "server"} & reply.headers.keys()


async def test_the_counters(use: Use) -> None:
    use(SimDisk(FILES))
    files = StaticFiles("site")
    for target in ("/a.txt", "/a.txt", "/nothing", "/folder"):
        await ask(files, target, method="HEAD" if target == "/nothing" else "GET")
    assert files.stats.requests == 4
    assert files.stats.responses == {200: 2, 404: 1, 301: 1}
    assert files.stats.bytes_sent == 20 + len("301 Moved Permanently\n")


async def test_a_web_socket_is_refused(use: Use) -> None:
    use(SimDisk(FILES))
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, str]) -> None:
        sent.append(message)

    await StaticFiles("site")(scope("/a.txt", type="websocket"), receive, send)
    assert sent == [{"type": "websocket.close"}]


async def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="'gopher'"):
        await call(StaticFiles("site"), {"type": "gopher"})


# ---------------------------------------------------------------- otherwise


class Other:
    """An application that says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(tuple(scope.get(key, "") for key in ("type", "method", "path")))
        if scope["type"] == "http":
            headers = [(b"content-length", b"5")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"other"})


@pytest.mark.parametrize(
    ("target", "method", "is_ours"),
    [
        ("/a.txt", "GET", True),
        ("/a.txt", "HEAD", True),
        ("/folder", "GET", True),
        ("/a.txt?x", "GET", True),
        ("/nothing", "GET", False),
        ("/.hidden", "GET", False),
        ("/bare/", "GET", False),
        ("/nothing", "HEAD", False),
        ("/a.txt", "POST", False),
        ("/a.txt", "OPTIONS", True),
        ("/nothing", "OPTIONS", False),
        ("/100%", "GET", False),
        ("/a%00b", "GET", False),
        ("/%2e%2e/x", "GET", False),
        ("/a.txt", "BREW", False),
    ],
)
async def test_otherwise_another_application_answers(
    use: Use, target: str, method: str, is_ours: bool
) -> None:
    disk = use(SimDisk(FILES))
    other = Other()
    config = Config(root="site", error_pages=["404=/index.html"])
    reply = await ask(StaticFiles(config, otherwise=other), target, method=method)
    assert (reply.body == b"other") == (not is_ours)
    assert other.asked == ([] if is_ours else [("http", method, unquote(target))])
    assert left_open(disk) == 0


async def test_a_preflight_for_a_file_is_ours(use: Use) -> None:
    use(SimDisk(FILES))
    files = StaticFiles(Site("site", cors=["https://a.example"]), otherwise=Other())
    fields = ((b"origin", b"https://a.example"), (b"access-control-request-method", b"GET"))
    reply = await ask(files, "/a.txt", *fields, method="OPTIONS")
    assert reply.headers["access-control-allow-origin"] == "https://a.example"


async def test_what_is_about_no_file_is_for_the_other_application(use: Use) -> None:
    use(SimDisk(FILES))
    files = StaticFiles(Site("site", hosts=["a.example"]), otherwise=Other())
    assert (await ask(files, "/a.txt")).body == b"other"
    reply = await ask(StaticFiles("site", otherwise=Other()), "/a.txt", (b"expect", b"x"))
    assert reply.body == b"other"


@pytest.mark.parametrize("kind", ["websocket", "gopher"])
async def test_what_is_no_request_is_for_the_other_application(use: Use, kind: str) -> None:
    other = Other()
    await call(StaticFiles("site", otherwise=other), scope("/a.txt", type=kind))
    assert other.asked == [(kind, "GET", "/a.txt")]


class AskedDisk(SimDisk):
    """One that remembers for whom it was asked."""

    askers: list[Asker]

    async def fetch(self, path: bytes, wish: Wish) -> dict[bytes, OpenFile | OSError]:
        self.askers.append(ASKER.get())
        return await super().fetch(path, wish)


@pytest.mark.parametrize(
    ("peer", "client"),
    [(("192.0.2.1", 5), "192.0.2.1"), (["2001:db8::7", 5], "2001:db8::/64"), (None, "")],
)
async def test_the_disk_is_asked_for_the_client(
    use: Use, peer: object, client: str, autojump_clock: MockClock
) -> None:
    """So that nobody has all places of the queue; and who asks next in the same task is another."""
    disk = AskedDisk(FILES, open_latency=1.0)
    disk.askers = []
    use(disk)
    app = StaticFiles(Site(".", precompressed=()))
    before = ASKER.get()
    assert (await ask(app, "/a.txt", client=peer)).status == 200
    assert set(disk.askers) == {Asker(client)}
    assert ASKER.get() == before
