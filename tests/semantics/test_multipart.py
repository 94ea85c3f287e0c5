"""Several parts of a file as one body."""

import email
import re
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.body import Body, FileSpan
from trio_amped.semantics.multipart import content_range, multipart
from trio_amped.semantics.ranges import Ranges

TAG = b'"5f-a"'


def sent(body: Body, data: bytes) -> bytes:
    """The bytes of a body about the file with this content."""
    parts = (data[p.offset : p.offset + p.length] if isinstance(p, FileSpan) else p for p in body)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("offset", "length", "size", "expected"),
    [
        (0, 1, 1, b"bytes 0-0/1"),
        (0, 10, 10, b"bytes 0-9/10"),
        (5, 3, 10, b"bytes 5-7/10"),
        (2**63, 2**62, 2**64, b"bytes 9223372036854775808-13835058055282163711/%d" % 2**64),
    ],
)
def test_content_range(offset: int, length: int, size: int, expected: bytes) -> None:
    assert content_range(offset, length, size) == expected


def test_every_byte() -> None:
    kind, body = multipart(((0, 2), (7, 3)), 10, b"text/css", TAG)
    delimiter = kind.removeprefix(b"multipart/byteranges; boundary=")
    assert sent(body, b"0123456789") == (
        b"\r\n--%s\r\nContent-Type: text/css\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
        b"\r\n--%s\r\nContent-Type: text/css\r\nContent-Range: bytes 7-9/10\r\n\r\n789"
        b"\r\n--%s--\r\n" % ((delimiter,) * 3)
    )


def parsed(kind: bytes, content: bytes) -> list[Message]:
    """The parts, as Python's own mail parser takes them apart."""
    head = b"MIME-Version: 1.0\r\nContent-Type: " + kind + b"\r\n\r\n"
    message = email.message_from_bytes(head + content)
    assert message.is_multipart()
    assert not message.defects
    assert not message.preamble
    assert not message.epilogue
    return message.get_payload()  # type: ignore[return-value]


CONTENT = st.binary(min_size=1, max_size=60) | st.lists(
    st.sampled_from([b"\r\n", b"--", b"\n", b"\r", b"\r\n--", b"x"]), min_size=1
).map(b"".join)


@given(CONTENT, st.data())
def test_a_mail_parser_takes_it_apart(content: bytes, draw: st.DataObject) -> None:
    size = len(content)
    starts = draw.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5, unique=True))
    ranges: Ranges = tuple(
        (start, draw.draw(st.integers(1, size - start), label="length")) for start in starts
    )
    kind, body = multipart(ranges, size, b"text/plain; charset=utf-8", TAG)
    whole = sent(body, content)
    assert sum(map(len, body)) == len(whole), "what Content-Length says"
    parts = parsed(kind, whole)
    assert len(parts) == len(ranges)
    for part, (offset, length) in zip(parts, ranges, strict=True):
        assert part["Content-Type"] == "text/plain; charset=utf-8"
        assert part["Content-Range"] == f"bytes {offset}-{offset + length - 1}/{size}"
        assert part.get_payload(decode=True) == content[offset : offset + length]


def test_the_parts_are_spans_and_not_copies() -> None:
    _, body = multipart(((0, 2**40), (2**41, 1)), 2**42, b"a/b", TAG)
    assert body[1::2] == (FileSpan(0, 2**40), FileSpan(2**41, 1))


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_the_delimiter_is_of_the_entity_tag_alone(tag: bytes, other: bytes) -> None:
    kind, _ = multipart(((0, 1),), 10, b"a/b", tag)
    assert re.fullmatch(rb"multipart/byteranges; boundary=[0-9a-f]{30}", kind)
    assert multipart(((1, 1), (3, 1)), 99, b"c/d", tag)[0] == kind
    assert (multipart(((0, 1),), 10, b"a/b", other)[0] == kind) == (tag == other)
