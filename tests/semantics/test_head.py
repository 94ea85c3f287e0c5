"""Where heads end, what is refused, and that no answer depends on the split."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_amped.semantics import head
from trio_amped.semantics.errors import HttpError
from trio_amped.semantics.head import HeadReader, Limits

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

Result = tuple[list[bytes], int | None, bytes]


def read(pieces: list[bytes], head: int = 200, target: int = 40, fields: int = 4) -> Result:
    """The heads found, the status of the error, and what is left in the buffer."""
    reader = HeadReader(Limits(head, target, fields))
    heads: list[bytes] = []
    for piece in pieces:
        reader.feed(piece)
        try:
            while (found := reader.next_head()) is not None:
                heads.append(found)
        except HttpError as error:
            return heads, error.status, b""
    return heads, None, reader.buffered


def naive(stream: bytes, head: int = 200, target: int = 40, fields: int = 4) -> Result:
    """The rules of the docstring, one byte at a time."""
    heads: list[bytes] = []
    base = 0  # where the reading of this head began
    request = b""  # the head without leading empty lines
    for offset in range(len(stream)):
        byte, before = stream[offset : offset + 1], stream[max(base, offset - 1) : offset]
        request += byte
        if byte == b"\0" or (byte == b"\n") != (before == b"\r"):
            return heads, 400, b""
        if request == b"\r\n":
            request = b""
        ended = request.endswith(b"\r\n\r\n")
        line, end, rest = request.partition(b"\r\n")
        too_long = len(line + end) > target + 32 or (not end and len(line) == target + 32)
        if too_long:
            return heads, 414, b""
        if offset - base + 1 > head or (offset - base + 1 == head and not ended):
            return heads, 431, b""
        if rest.count(b"\r\n") - ended > fields:
            return heads, 431, b""
        if ended:
            heads.append(request)
            base, request = offset + 1, b""
    return heads, None, stream[base:]


def whole_and_split(stream: bytes, head: int = 200, target: int = 40, fields: int = 4) -> Result:
    """Read the stream whole and byte by byte; both must give what is returned."""
    result = read([stream], head, target, fields)
    bytewise = read([stream[i : i + 1] for i in range(len(stream))], head, target, fields)
    assert bytewise == result
    return result


@pytest.mark.parametrize(
    ("stream", "heads", "rest"),
    [
        pytest.param(b"", [], b"", id="nothing"),
        pytest.param(GET, [GET], b"", id="one"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", [b"GET / HTTP/1.0\r\n\r\n"], b"", id="no fields"),
        pytest.param(GET + GET + b"GE", [GET, GET], b"GE", id="pipelined"),
        pytest.param(b"\r\n" + GET, [GET], b"", id="empty line before"),
        pytest.param(b"\r\n\r\n\r\n" + GET, [GET], b"", id="empty lines before"),
        pytest.param(GET + b"\r\n" + GET, [GET, GET], b"", id="empty line between"),
        pytest.param(GET + b"\r\n", [GET], b"\r\n", id="empty line after"),
        pytest.param(GET[:-1], [], GET[:-1], id="one byte short"),
        pytest.param(b"\r", [], b"\r", id="undecided CR"),
        pytest.param(b"G\xff\t\r\n a\r\n\r\n", [b"G\xff\t\r\n a\r\n\r\n"], b"", id="h11's concern"),
    ],
)
def test_heads_are_found(stream: bytes, heads: list[bytes], rest: bytes) -> None:
    assert whole_and_split(stream) == (heads, None, rest)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"GET / HTTP/1.1\nHost: a\r\n\r\n", id="bare LF after the request line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\n\r\n", id="bare LF after a field"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\n", id="bare LF at the end"),
        pytest.param(b"GET / HTTP/1.1\n\n", id="only LF"),
        pytest.param(b"\n" + GET, id="bare LF before"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", id="bare CR"),
        pytest.param(b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", id="CR CR LF"),
        pytest.param(b"\rGET", id="bare CR before"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", id="NUL"),
        pytest.param(b"\0", id="NUL first"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\0", id="CR NUL"),
    ],
)
def test_bytes_that_no_head_may_have(stream: bytes) -> None:
    assert whole_and_split(stream) == ([], 400, b"")


def test_a_good_head_is_found_before_a_fault_that_follows_it() -> None:
    assert whole_and_split(GET + b"\0") == ([GET], 400, b"")


def test_head_cap_is_exact() -> None:
    size = len(GET)
    assert whole_and_split(GET, head=size) == ([GET], None, b"")
    assert whole_and_split(GET, head=size - 1) == ([], 431, b"")
    assert whole_and_split(GET[:-1], head=size) == ([], None, GET[:-1])
    assert whole_and_split(GET[:-1], head=size - 1) == ([], 431, b"")
    assert whole_and_split(GET[:-1] + b"x", head=size) == ([], 400, b"")


def test_head_cap_counts_each_head_alone() -> None:
    assert whole_and_split(GET * 3, head=len(GET)) == ([GET] * 3, None, b"")


def test_head_cap_counts_the_empty_lines_before_it() -> None:
    assert whole_and_split(b"\r\n" + GET, head=len(GET) + 2) == ([GET], None, b"")
    assert whole_and_split(b"\r\n" + GET, head=len(GET) + 1) == ([], 431, b"")
    assert whole_and_split(b"\r\n" * 500) == ([], 431, b"")


def test_request_line_cap_is_exact() -> None:
    longest = b"G" * (40 + 32 - 2) + b"\r\n\r\n"
    assert whole_and_split(longest) == ([longest], None, b"")
    assert whole_and_split(b"G" + longest) == ([], 414, b"")
    assert whole_and_split(longest[:-4]) == ([], None, longest[:-4])
    assert whole_and_split(longest[:-4] + b"GG") == ([], 414, b"")


def test_a_target_of_the_greatest_length_fits() -> None:
    head = b"OPTIONS /" + b"a" * 39 + b" HTTP/1.1\r\n\r\n"
    assert whole_and_split(head) == ([head], None, b"")


def test_request_line_cap_starts_after_empty_lines_and_ends_with_the_line() -> None:
    head = b"GET / HTTP/1.1\r\nA: " + b"a" * 100 + b"\r\n\r\n"
    assert whole_and_split(b"\r\n" * 30 + head) == ([head], None, b"")


def test_field_cap_is_exact() -> None:
    line = b"GET / HTTP/1.1\r\n"
    four = line + b"a: b\r\n" * 4 + b"\r\n"
    assert whole_and_split(four) == ([four], None, b"")
    assert whole_and_split(line + b"a: b\r\n" * 5) == ([], 431, b"")
    assert whole_and_split(four, fields=3) == ([], 431, b"")
    assert whole_and_split(line + b"\r\n", fields=0) == ([line + b"\r\n"], None, b"")


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        pytest.param(b"G" * 80 + b"\0", 414, id="line, then NUL"),
        pytest.param(b"G\0" + b"G" * 80, 400, id="NUL, then line"),
        pytest.param(b"G" * 71 + b"\0", 400, id="both at one offset"),
        pytest.param(b"G\r\n" + b"a\r\n" * 5 + b"\n", 431, id="fields, then bare LF"),
        pytest.param(b"G\r\n" + b"a" * 300 + b"\0", 431, id="head, then NUL"),
    ],
)
def test_the_first_fault_of_the_stream_wins(stream: bytes, status: int) -> None:
    assert whole_and_split(stream) == ([], status, b"")


def test_the_lowest_status_wins_at_the_same_offset() -> None:
    assert whole_and_split(b"G" * 100, head=72) == ([], 414, b"")


def test_an_error_stays_and_nothing_more_is_buffered() -> None:
    reader = HeadReader(Limits(200, 40, 4))
    reader.feed(b"\0")
    for _ in range(2):
        with pytest.raises(HttpError) as caught:
            reader.next_head()
        assert caught.value.status == 400
        reader.feed(GET)
    assert len(reader.buffered) == 1


def test_pending_and_buffered() -> None:
    reader = HeadReader(Limits(200, 40, 4))
    assert not reader.pending
    reader.feed(b"\r")
    assert reader.pending
    assert reader.next_head() is None
    assert reader.pending
    reader.feed(b"\n" + GET + b"body")
    assert reader.next_head() == GET
    assert reader.buffered == b"body"
    assert reader.pending


TOKENS = [
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"a",
    b"a" * 30,
    b"a" * 70,
    b": ",
    GET,
    b" b\r\n",
]
STREAMS = st.lists(st.sampled_from(TOKENS), max_size=25).map(b"".join)
GOOD = st.lists(st.sampled_from([b"\r\n", GET, b"GET /b HTTP/1.1\r\nA: b\r\nC:\r\n\r\n"]))
LIMITS = st.tuples(st.integers(1, 250), st.integers(1, 60), st.integers(0, 5))


@given(STREAMS | GOOD.map(b"".join), LIMITS, st.data())
@example(b"a" * 71 + b"\r" + b"\n", (200, 40, 4), None)
def test_any_split_gives_the_same(
    stream: bytes, limits: tuple[int, int, int], data: st.DataObject | None
) -> None:
    expected = naive(stream, *limits)
    assert whole_and_split(stream, *limits) == expected
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
        edges = [0, *cuts, len(stream)]
        pieces = [stream[a:b] for a, b in pairwise(edges)]
        assert read(pieces, *limits) == expected


@given(st.lists(st.sampled_from([GET, b"GET /b HTTP/1.1\r\nA: b\r\n\r\n"])))
def test_pipelined_heads_come_out_in_order(heads: list[bytes]) -> None:
    assert whole_and_split(b"".join(heads)) == (heads, None, b"")


class CountingPattern:
    """Stands in for a compiled pattern, and counts the bytes that it was asked to look at."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.pattern = pattern
        self.looked_at = 0

    def search(self, data: bytes, start: int, stop: int) -> re.Match[bytes] | None:
        self.looked_at += stop - start
        return self.pattern.search(data, start, stop)


@pytest.mark.parametrize("size", [1, 2, 7, 4096, 65536])
@pytest.mark.parametrize("unit", [b"a", b"\r\n", b"a: b\r\n"], ids=repr)
def test_scanning_is_linear(unit: bytes, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = CountingPattern(head._FAULT)
    monkeypatch.setattr(head, "_FAULT", fault)
    stream = (unit * 65536)[:65536]
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    limit = 1 << 20
    assert read(pieces, limit, limit, limit)[:2] == ([], None)
    assert fault.looked_at <= 2 * len(stream)
