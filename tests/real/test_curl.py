"""What curl gets: bytes, ranges, conditions, and none of what is not to be had."""

import email.utils
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.rig import ServerProcess, load, needs, running_server

from .support import LONG_AGO, MIB, SIZES, WINDOW, Reply, content, curl, fetch, put

pytestmark = needs("curl")

GIB = 1 << 30


def page(server: ServerProcess, path: str) -> bytes:
    """The body of a file that must be there."""
    reply = fetch(server, path)
    assert reply.status == 200
    return reply.body


def is_missing(reply: Reply) -> bool:
    """All that is not to be had looks alike."""
    return reply.status == 404 and reply.body == b"404 Not Found\n"


# ---------------------------------------------------------------- whole files


@pytest.mark.parametrize("size", SIZES)
def test_a_file_comes_byte_for_byte(server: ServerProcess, size: int) -> None:
    reply = fetch(server, f"/{size}.bin")
    assert reply.status == 200
    assert reply.fields["content-length"] == str(size)
    assert reply.body == content(size)


def test_many_files_come_over_one_connection(server: ServerProcess, tmp_path: Path) -> None:
    files = [str(size) for size in SIZES]
    urls = [f"{server.url}/{name}.bin" for name in files]
    outputs = [word for name in files for word in ("-o", str(tmp_path / name))]
    done = curl("-w", "%{num_connects}\n", *outputs, *urls)
    assert done.stdout.split() == [b"1"] + [b"0"] * (len(files) - 1)
    assert [(tmp_path / name).read_bytes() for name in files] == [*map(content, SIZES)]


@pytest.mark.parametrize("size", [0, 1, 5 * MIB])
def test_head_has_the_fields_of_get(server: ServerProcess, size: int) -> None:
    got, head = fetch(server, f"/{size}.bin"), fetch(server, f"/{size}.bin", "-I")
    assert head.status == 200
    assert head.body == b""
    del got.fields["date"], head.fields["date"]
    assert head.fields == got.fields


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-0", 0, 0),
        ("100-199", 100, 199),
        (f"{WINDOW - 1}-{WINDOW}", WINDOW - 1, WINDOW),
        (f"{WINDOW + 1}-{3 * WINDOW + 1}", WINDOW + 1, 3 * WINDOW + 1),
        (f"{4 * MIB}-", 4 * MIB, 5 * MIB - 1),
        ("-1", 5 * MIB - 1, 5 * MIB - 1),
        (f"-{WINDOW + 1}", 5 * MIB - WINDOW - 1, 5 * MIB - 1),
    ],
)
def test_a_range(server: ServerProcess, asked: str, first: int, last: int) -> None:
    reply = fetch(server, f"/{5 * MIB}.bin", "-r", asked)
    assert reply.status == 206
    assert reply.fields["content-range"] == f"bytes {first}-{last}/{5 * MIB}"
    assert reply.body == content(5 * MIB)[first : last + 1]


def test_a_range_past_the_end_cannot_be_satisfied(server: ServerProcess) -> None:
    reply = fetch(server, "/1.bin", "-r", "1-")
    assert reply.status == 416
    assert reply.fields["content-range"] == "bytes */1"


def test_a_download_is_resumed(server: ServerProcess, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(content(5 * MIB)[: MIB + 1])
    curl("-C", "-", "-o", str(part), f"{server.url}/{5 * MIB}.bin")
    assert part.read_bytes() == content(5 * MIB)


def test_a_file_beyond_4_gib(site: Path, server: ServerProcess) -> None:
    """Sparse, and only parts of it are asked for: offsets must not be cut off at 32 bits."""
    size = 5 * GIB
    with (site / "huge").open("wb") as file:
        for offset in (0, 2 * GIB - 3, 4 * GIB - 3, size - 6):
            file.seek(offset)
            file.write(b"%06d" % (offset % 999_983))
    assert fetch(server, "/huge", "-I").fields["content-length"] == str(size)
    for offset in (0, 2 * GIB - 3, 4 * GIB - 3, size - 6):
        reply = fetch(server, "/huge", "-r", f"{offset}-{offset + 5}")
        assert reply.fields["content-range"] == f"bytes {offset}-{offset + 5}/{size}"
        assert reply.body == b"%06d" % (offset % 999_983)
    across = fetch(server, "/huge", "-r", f"{4 * GIB - WINDOW - 1}-{4 * GIB + WINDOW}")
    assert across.status == 206
    written = b"%06d" % ((4 * GIB - 3) % 999_983)
    assert across.body == bytes(WINDOW - 2) + written + bytes(WINDOW - 2)


# ---------------------------------------------------------------- conditions


def test_an_etag_that_matches_is_304(server: ServerProcess, tmp_path: Path) -> None:
    tag = fetch(server, "/1.bin").fields["etag"]
    assert not tag.startswith("W/")
    reply = fetch(server, "/1.bin", "-H", f"If-None-Match: {tag}")
    assert reply.status == 304
    assert reply.body == b""
    assert reply.fields["etag"] == tag
    saved = tmp_path / "tag"
    saved.write_text(tag + "\n")
    assert fetch(server, "/1.bin", "--etag-compare", str(saved)).status == 304
    assert fetch(server, "/1.bin", "-H", 'If-None-Match: "other"').status == 200


def test_a_file_that_is_as_new_as_ours_is_304(server: ServerProcess, tmp_path: Path) -> None:
    copy = put(tmp_path / "copy", b"x")
    assert fetch(server, "/1.bin", "-z", str(copy)).status == 304
    os.utime(copy, (LONG_AGO, LONG_AGO - 1))
    assert fetch(server, "/1.bin", "-z", str(copy)).status == 200
    now = email.utils.formatdate(time.time(), usegmt=True)
    assert fetch(server, "/1.bin", "-z", now).status == 304


# ---------------------------------------------------------------- out of the root


@pytest.fixture(scope="module")
def secret(site: Path) -> Iterator[Path]:
    """A file next to the root, which must never be seen."""
    path = put(site.parent / f"{site.name}-secret", b"secret")
    yield path
    path.unlink()


@pytest.mark.parametrize(
    "prefix", ["/..", "/%2e%2e", "/%2E.", "/1.bin/../..", "/..%2f..", "/x/..%5c..", "//..", "/."]
)
def test_no_path_leads_above_the_root(server: ServerProcess, secret: Path, prefix: str) -> None:
    for tail in (f"/{secret.name}", "/../../../../etc/passwd", "%2f..%2f..%2fetc%2fpasswd"):
        reply = fetch(server, prefix + tail)
        assert reply.status in (400, 404)
        assert reply.body in (b"400 Bad Request\n", b"404 Not Found\n")


def test_dots_inside_the_root_are_taken_out(server: ServerProcess) -> None:
    assert page(server, "/a/../1.bin") == content(1)
    assert page(server, "/./1.bin") == content(1)
    assert page(server, "//1.bin") == content(1)
    assert page(server, "/a/%2e%2e/1%2Ebin") == content(1)


def test_an_escaped_escape_is_decoded_once(server: ServerProcess) -> None:
    assert is_missing(fetch(server, "/a/%252e%252e/1.bin"))


def test_links_are_followed_inside_the_root_and_nowhere_else(
    site: Path, server: ServerProcess, secret: Path
) -> None:
    links = site / "links"
    links.mkdir()
    (links / "inside").symlink_to("../1.bin")
    (links / "up").symlink_to("..")
    (links / "chain").symlink_to("up/links/inside")
    assert page(server, "/links/inside") == content(1)
    assert page(server, "/links/chain") == content(1)
    assert page(server, "/links/up/links/up/1.bin") == content(1)

    (links / "absolute").symlink_to(site / "1.bin")
    (links / "outside").symlink_to(f"../../{secret.name}")
    (links / "folder").symlink_to("../..")
    for path in ("absolute", "outside", f"folder/{secret.name}"):
        assert is_missing(fetch(server, f"/links/{path}"))
        server.wait_for_log(rf"404 for /links/{path}: a symbolic link leads out of the root")

    (links / "round").symlink_to("round")
    assert is_missing(fetch(server, "/links/round"))
    server.wait_for_log("404 for /links/round: a symbolic link that is not followed")
    (links / "dangling").symlink_to("nothing")
    assert is_missing(fetch(server, "/links/dangling"))


# ---------------------------------------------------------------- what is no file


def test_a_fifo_and_a_socket_are_404_at_once(site: Path, server: ServerProcess) -> None:
    os.mkfifo(site / "fifo")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(site / "socket"))
        listener.listen()
        assert is_missing(fetch(server, "/fifo"))
        assert is_missing(fetch(server, "/socket"))


@needs("root")
def test_devices_are_404(site: Path, server: ServerProcess) -> None:
    for name, number in (("null", (1, 3)), ("zero", (1, 5)), ("tty", (5, 0)), ("no", (240, 77))):
        os.mknod(site / name, stat.S_IFCHR | 0o666, os.makedev(*number))
        assert is_missing(fetch(server, f"/{name}"))
    os.mknod(site / "block", stat.S_IFBLK | 0o666, os.makedev(259, 999))
    assert is_missing(fetch(server, "/block"))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    [
        b"a name with  spaces",
        "naïve €.txt".encode(),
        b"invalid \xff\xfe utf-8",
        b"100%",
        b"%41",
        b"a?b#c&d;e=f+g",
        b"back\\slash",
        b"line\nfeed\ttab\x7f",
        b"-",
        b"..three",
        b"n" * 255,
    ],
)
def test_names_of_every_kind(site: Path, server: ServerProcess, name: bytes) -> None:
    data = b"here: " + name
    (site / os.fsdecode(name)).write_bytes(data)
    reply = fetch(server, "/" + quote(name, safe=""))
    if name.startswith(b"."):
        assert is_missing(reply)
    else:
        assert reply.status == 200
        assert reply.body == data


@pytest.mark.parametrize("path", ["/" + "n" * 256, "/" + "n" * 300, "/d" * 3000, "/no", "/1.bin/"])
def test_names_that_cannot_be(server: ServerProcess, path: str) -> None:
    assert is_missing(fetch(server, path))


def test_hidden_names(site: Path, server: ServerProcess) -> None:
    hidden = (".htpasswd", ".git/config", "sub/.env", "sub/.well-known/x", ".well-known/.x")
    for name in hidden:
        put(site / name, b"hidden")
        assert is_missing(fetch(server, f"/{name}"))
    put(site / ".well-known/security.txt", b"Contact: us")
    assert page(server, "/.well-known/security.txt") == b"Contact: us"


def test_a_directory_is_its_index_and_has_a_slash(site: Path, server: ServerProcess) -> None:
    put(site / "docs/index.html", b"<p>docs")
    put(site / "a b/index.html", b"<p>spaces")
    (site / "empty").mkdir()
    reply = fetch(server, "/docs?x=1&y=/")
    assert (reply.status, reply.fields["location"]) == (301, "docs/?x=1&y=/")
    assert fetch(server, "/a%20b").fields["location"] == "a%20b/"
    assert fetch(server, "//docs").fields["location"] == "docs/"
    followed = fetch(server, "/docs/?x=1")
    assert followed.body == b"<p>docs"
    assert followed.fields["content-type"].startswith("text/html")
    assert curl("-L", f"{server.url}/a%20b").stdout == b"<p>spaces"
    assert is_missing(fetch(server, "/empty/"))
    put(site / "nested/index.html/x", b"")
    assert is_missing(fetch(server, "/nested/"))


# ---------------------------------------------------------------- other requests


def test_what_is_not_served(server: ServerProcess) -> None:
    refused = fetch(server, "/1.bin", "-d", "x")
    assert (refused.status, refused.fields["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert fetch(server, "/1.bin", "-X", "BREW").status == 501
    assert fetch(server, "/1.bin", "-X", "OPTIONS").fields["allow"] == "GET, HEAD, OPTIONS"
    assert fetch(server, "/1.bin", "-H", f"X: {'x' * 16384}").status == 431
    assert fetch(server, f"/{'x' * 9000}").status == 414
    assert fetch(server, "/1.bin", "-0").body == content(1)


def test_an_upload_that_is_refused_does_not_hurt_the_answer(server: ServerProcess) -> None:
    """Lingering close: curl must see the 405, and not a reset."""
    reply = fetch(server, "/1.bin", "-T", __file__, "-H", "Expect:")
    assert reply.status == 405


# ---------------------------------------------------------------- the root itself


def test_a_deploy_that_switches_the_link_to_the_root(place: Path) -> None:
    put(place / "one/page", b"one")
    put(place / "two/page", b"two")
    (place / "now").symlink_to("one")
    with running_server("--revalidate", "0", root=place / "now") as server:
        assert page(server, "/page") == b"one"
        (place / "next").symlink_to("two")
        (place / "next").rename(place / "now")
        assert page(server, "/page") == b"two"
        server.wait_for_log("now is another directory now")


def test_a_root_that_is_away_for_a_while(place: Path) -> None:
    put(place / "root/page", b"page")
    with running_server("--revalidate", "0", root=place / "root") as server:
        load(place / "root/page")
        (place / "root").rename(place / "away")
        assert page(server, "/page") == b"page"
        server.wait_for_log("No such file or directory; serving what it was")
        (place / "away").rename(place / "root")
        assert page(server, "/page") == b"page"
