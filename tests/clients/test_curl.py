"""curl resumes, takes codings apart, gets several parts at once, and asks whether a file is new."""

import email
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.support import LONG_AGO, MIB, Reply, content, curl, fetch, put
from tests.rig import ServerProcess, needs, public_directory, running_server

from .support import CODINGS, COMPRESSORS, stop_and_count

pytestmark = needs("curl", "zstd")

DATA = content(3 * MIB)
SCRIPT = b"".join(b"export const answer%d = %d;\n" % (n, n * n) for n in range(5000))


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """A file, scripts with one sidecar each, and one with all; tests may add files of their own."""
    with public_directory() as directory:
        put(directory / "file.bin", DATA)
        put(directory / "all.js", SCRIPT)
        for coding, suffix in CODINGS.items():
            put(directory / f"{coding}.js", SCRIPT)
            compressed = COMPRESSORS[coding](SCRIPT)
            assert len(compressed) < len(SCRIPT) / 2
            put(directory / f"{coding}.js{suffix}", compressed)
            put(directory / f"all.js{suffix}", compressed)
        yield directory


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[ServerProcess]:
    with running_server(root=site) as server:
        yield server
        stop_and_count(server)


def download(server: ServerProcess, path: str, *options: str | Path) -> tuple[int, int]:
    """Run curl: the status, and how many bytes of a body came."""
    words = (*map(str, options), "-w", "%{http_code} %{size_download}", server.url + path)
    status, size = curl(*words).stdout.split()
    return int(status), int(size)


# ---------------------------------------------------------------- a download that was cut off


@pytest.mark.parametrize("had", [1, 2 * MIB, 3 * MIB - 1])
def test_the_rest_of_a_file(server: ServerProcess, tmp_path: Path, had: int) -> None:
    partial = put(tmp_path / "partial", DATA[:had])
    assert download(server, "/file.bin", "-C", "-", "-o", partial) == (206, len(DATA) - had)
    assert partial.read_bytes() == DATA


# ---------------------------------------------------------------- codings


@pytest.mark.parametrize("coding", CODINGS)
def test_a_file_that_is_there_compressed(site: Path, server: ServerProcess, coding: str) -> None:
    path = f"/{coding}.js"
    reply = fetch(server, path, "--compressed")
    assert (reply.status, reply.body) == (200, SCRIPT)
    assert reply.fields["content-encoding"] == coding
    assert reply.fields["content-type"].startswith("text/javascript")
    assert reply.fields["vary"] == "Accept-Encoding"
    sidecar = site / f"{coding}.js{CODINGS[coding]}"
    assert int(reply.fields["content-length"]) == sidecar.stat().st_size

    plain = fetch(server, path)
    assert (plain.status, plain.body) == (200, SCRIPT)
    assert "content-encoding" not in plain.fields
    assert plain.fields["vary"] == "Accept-Encoding"
    assert plain.fields["etag"] != reply.fields["etag"]


def test_the_coding_that_the_server_prefers(site: Path, server: ServerProcess) -> None:
    reply = fetch(server, "/all.js", "--compressed")
    assert (reply.fields["content-encoding"], reply.body) == ("br", SCRIPT)
    with running_server("--precompressed", "gzip,br", root=site) as other:
        reply = fetch(other, "/all.js", "--compressed")
        assert (reply.fields["content-encoding"], reply.body) == ("gzip", SCRIPT)
    with running_server("--precompressed", "none", root=site) as other:
        reply = fetch(other, "/all.js", "--compressed")
        assert reply.body == SCRIPT
        assert "content-encoding" not in reply.fields


def test_a_part_of_the_compressed_file(site: Path, server: ServerProcess) -> None:
    small = (site / "gzip.js.gz").read_bytes()
    accepts = ("-H", "Accept-Encoding: gzip")
    tag = fetch(server, "/gzip.js", *accepts).fields["etag"]
    reply = fetch(server, "/gzip.js", "-r", "100-199", *accepts, "-H", f"If-Range: {tag}")
    assert (reply.status, reply.body) == (206, small[100:200])
    assert reply.fields["content-encoding"] == "gzip"
    assert reply.fields["content-range"] == f"bytes 100-199/{len(small)}"


def test_what_was_unpacked_is_resumed(site: Path, server: ServerProcess, tmp_path: Path) -> None:
    """By a client that names no form: what it has is of the file as it is."""
    whole = (site / "gzip.js").read_bytes()
    copy = tmp_path / "copy"
    copy.write_bytes(whole[:100])
    done = curl(
        *("--compressed", "-C", "-", "-o", str(copy)),
        *("-w", "%{http_code} %header{content-encoding}", server.url + "/gzip.js"),
    )
    assert done.stdout.split() == [b"206"]
    assert copy.read_bytes() == whole


# ---------------------------------------------------------------- several parts


def parts(reply: Reply) -> list[tuple[str, bytes]]:
    """The Content-Range and the bytes of each part, as Python's parser for mail sees them."""
    head = f"Content-Type: {reply.fields['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + reply.body)
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    found = []
    for part in list(message.walk())[1:]:
        assert part.get_content_type() == "application/octet-stream"
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        found.append((part["Content-Range"], data))
    return found


@pytest.mark.parametrize(
    ("asked", "spans"),
    [
        ("0-9,20-29", [(0, 9), (20, 29)]),
        ("20-29,0-9", [(20, 29), (0, 9)]),
        ("0-0,100-100,-1", [(0, 0), (100, 100), (3 * MIB - 1, 3 * MIB - 1)]),
        ("5-1048580,2097152-", [(5, 1048580), (2097152, 3 * MIB - 1)]),
        ("0-9,99999999-,20-29", [(0, 9), (20, 29)]),
        ("0-9,5-14,30-39,15-19", [(0, 19), (30, 39)]),
    ],
)
def test_several_parts(server: ServerProcess, asked: str, spans: list[tuple[int, int]]) -> None:
    reply = fetch(server, "/file.bin", "-r", asked)
    assert reply.status == 206
    assert "content-range" not in reply.fields
    assert len(reply.body) == int(reply.fields["content-length"])
    assert parts(reply) == [
        (f"bytes {first}-{last}/{len(DATA)}", DATA[first : last + 1]) for first, last in spans
    ]


def test_parts_that_are_one(server: ServerProcess) -> None:
    reply = fetch(server, "/file.bin", "-r", "0-9,10-19,5-14")
    assert (reply.status, reply.body) == (206, DATA[:20])
    assert reply.fields["content-range"] == f"bytes 0-19/{len(DATA)}"


# ---------------------------------------------------------------- is it new?


def test_an_entity_tag_that_was_kept(site: Path, server: ServerProcess, tmp_path: Path) -> None:
    page, tag, copy = site / "tagged.html", tmp_path / "tag", tmp_path / "copy"
    options = ("--etag-compare", tag, "--etag-save", tag, "-o", copy)
    put(page, b"<p>one")
    assert download(server, "/tagged.html", *options) == (200, 6)
    assert download(server, "/tagged.html", *options) == (304, 0)
    assert copy.read_bytes() == b"<p>one"
    put(page, b"<p>two", LONG_AGO + 1)
    assert download(server, "/tagged.html", *options) == (200, 6)
    assert copy.read_bytes() == b"<p>two"


def test_the_time_of_a_copy(site: Path, server: ServerProcess, tmp_path: Path) -> None:
    page, copy = site / "timed.html", tmp_path / "copy"
    options = ("-R", "-z", copy, "-o", copy)
    put(page, b"<p>one")
    assert download(server, "/timed.html", *options) == (200, 6)
    assert copy.stat().st_mtime == LONG_AGO
    assert download(server, "/timed.html", *options) == (304, 0)
    assert copy.read_bytes() == b"<p>one"
    put(page, b"<p>two", LONG_AGO + 1)
    assert download(server, "/timed.html", *options) == (200, 6)
    assert copy.read_bytes() == b"<p>two"
    assert copy.stat().st_mtime == LONG_AGO + 1
