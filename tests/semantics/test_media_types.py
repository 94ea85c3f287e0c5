"""The Content-Type of a file name."""

import mimetypes
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.media_types import _TABLE
from trio_amped.semantics.policy import Policy

media_type = Policy().media_type

UNKNOWN = b"application/octet-stream"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"index.html", b"text/html; charset=utf-8"),
        (b"a/b/style.css", b"text/css; charset=utf-8"),
        (b"app.js", b"text/javascript; charset=utf-8"),
        (b"app.mjs", b"text/javascript; charset=utf-8"),
        (b"README.md", b"text/markdown; charset=utf-8"),
        (b"robots.txt", b"text/plain; charset=utf-8"),
        (b"data.csv", b"text/csv; charset=utf-8"),
        (b"data.json", b"application/json"),
        (b"app.js.map", b"application/json"),
        (b"a.geojson", b"application/geo+json"),
        (b"site.webmanifest", b"application/manifest+json"),
        (b"feed.xml", b"application/xml"),
        (b"a.wasm", b"application/wasm"),
        (b"a.svg", b"image/svg+xml"),
        (b"a.avif", b"image/avif"),
        (b"a.webp", b"image/webp"),
        (b"a.JPG", b"image/jpeg"),
        (b"favicon.ico", b"image/x-icon"),
        (b"a.woff2", b"font/woff2"),
        (b"a.mp4", b"video/mp4"),
        (b"a.webm", b"video/webm"),
        (b"a.m4a", b"audio/mp4"),
        (b"a.opus", b"audio/opus"),
        (b"a.flac", b"audio/flac"),
        (b"a.wav", b"audio/wav"),
        (b"a.pdf", b"application/pdf"),
        (b"a.zip", b"application/zip"),
        (b"a.pmtiles", b"application/vnd.pmtiles"),
        (b"a.parquet", b"application/vnd.apache.parquet"),
        (b"a.deb", b"application/vnd.debian.binary-package"),
        (b"a.rpm", b"application/x-rpm"),
        (b"a.iso", b"application/x-iso9660-image"),
        (b"a.tar", b"application/x-tar"),
        (b"a.tar.gz", b"application/gzip"),
        (b"a.tgz", b"application/gzip"),
        (b"index.html.gz", b"application/gzip"),
        (b"a.txt.zst", b"application/zstd"),
        (b"a.js.br", b"application/x-brotli"),
        (b"a.html.unknown", UNKNOWN),
        (b"a", UNKNOWN),
        (b"html", UNKNOWN),
        (b"a.html/b", UNKNOWN),
        (b"a.html/", UNKNOWN),
        (b"a.", UNKNOWN),
        (b"", UNKNOWN),
        (b".html", UNKNOWN),  # a name, not an extension
        (b"a/.html", UNKNOWN),
        (b"a. html", UNKNOWN),
        (b"\xff.html", b"text/html; charset=utf-8"),
    ],
    ids=repr,
)
def test_types(name: bytes, expected: bytes) -> None:
    assert media_type(name) == expected


LINES = _TABLE.split(b"\n")[1:-1]
EXTENSIONS = [extension for line in LINES for extension in line.split()[1:]]


def test_the_table_is_well_formed() -> None:
    for line in LINES:
        assert re.fullmatch(rb"[a-z]+/[a-z0-9.+-]+( [a-z0-9]+)+", line)
    assert len(set(EXTENSIONS)) == len(EXTENSIONS)
    assert len({line.split()[0] for line in LINES}) == len(LINES)


def test_it_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mimetypes.types_map, ".html", "application/evil")
    assert media_type(b"a.html") == b"text/html; charset=utf-8"


@given(st.binary(), st.sampled_from(EXTENSIONS), st.booleans())
def test_only_the_last_extension_counts(stem: bytes, extension: bytes, upper: bool) -> None:
    written = extension.upper() if upper else extension
    expected = media_type(b"a." + extension)
    assert media_type(b"a" + stem + b"." + written) == (
        UNKNOWN if stem.endswith(b"/") else expected
    )


@given(st.binary())
def test_any_name_has_a_type(name: bytes) -> None:
    value = media_type(name)
    assert value.endswith(b"; charset=utf-8") == value.startswith(b"text/")
