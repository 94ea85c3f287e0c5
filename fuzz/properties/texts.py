"""Properties of the pure parsers: where heads end, and what a target may name."""

import re
from itertools import pairwise
from typing import Final
from urllib.parse import quote, unquote_to_bytes, urljoin

from hypothesis import strategies as st

from fuzz.target import Target as FuzzTarget
from trio_amped.semantics.errors import HttpError
from trio_amped.semantics.head import HeadReader, Limits
from trio_amped.semantics.target import Target, parse_target

_LIMITS: Final = (300, 60, 6)  # max_head, max_target, max_fields
_HEAD_TOKENS: Final = [
    *[b"\r\n", b"\r", b"\n", b"\0", b" ", b": ", b"a", b"a" * 40, b"GET / HTTP/1.1\r\n"],
    *[b"Host: a\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"],
]
HEAD_STREAMS: Final = st.lists(
    st.sampled_from(_HEAD_TOKENS) | st.binary(max_size=6), max_size=40
).map(b"".join)
CUTS: Final = st.lists(st.integers(0, 4000), max_size=12).map(tuple)


def check_heads(stream: bytes, cuts: tuple[int, ...]) -> None:
    """Any split gives the same heads, the same error and the same rest."""
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    whole = _read([stream])
    assert _read([stream[start:stop] for start, stop in pairwise(edges)]) == whole
    assert _read([stream[at : at + 1] for at in range(len(stream))]) == whole
    for head in whole[0]:
        assert head.endswith(b"\r\n\r\n")
        assert b"\r\n\r\n" not in head[:-4]
        assert len(head) <= _LIMITS[0]
        assert head in stream


def _read(pieces: list[bytes]) -> tuple[list[bytes], int | None, bytes]:
    reader = HeadReader(Limits(*_LIMITS))
    heads: list[bytes] = []
    for piece in pieces:
        reader.feed(piece)
        try:
            while (head := reader.next_head()) is not None:
                heads.append(head)
        except HttpError as error:
            return heads, error.status, b""
    return heads, None, reader.buffered


_GOOD_TOKENS: Final = [
    *[b"/", b"/", b"//", b".", b"..", b"/../", b"/./", b"%2e", b"%2E%2e", b"%2F", b"..%2f"],
    *[b"a", b"b.txt", b"index.html", b".well-known", b"~", b"%FF", b"%25", b"%C3%A9", b"%5c"],
]
_OTHER_TOKENS: Final = [
    *[b"?", b"#", b"%", b"%00", b"\\", b"\xff", b" ", b"*"],
    *[b"http://", b"https://", b"h:80", b"[::1]", b"@"],
]


def _texts(tokens: list[bytes], *more: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    rest = st.lists(st.one_of(st.sampled_from(tokens), *more), max_size=20)
    first = st.sampled_from([b"/", b"/", b""])
    return st.builds(lambda first, rest: b"".join((first, *rest)), first, rest)


# One token that cannot be spoils the others: mostly, there is none.
TARGET_TEXTS: Final = _texts(_GOOD_TOKENS) | _texts(
    _GOOD_TOKENS + _OTHER_TOKENS, st.binary(max_size=4)
)


def check_target(target: bytes) -> None:
    """Nothing but HttpError is raised, and a path that comes out is safe to open."""
    try:
        parsed = parse_target(target)
    except HttpError as error:
        _check_refusal(error)
    else:
        _check_parsed(parsed)
        _check_names(target, parsed)


_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:")  # RFC 3986 3.1


def _check_refusal(error: HttpError) -> None:
    assert error.status in (400, 404)
    assert error.detail


def _check_parsed(parsed: Target) -> None:
    segments = parsed.path.split(b"/") if parsed.path else []
    for segment in segments:
        assert segment not in (b"", b".", b"..")
        assert b"\0" not in segment
        assert not segment.startswith(b".") or segment == b".well-known" == segments[0]
    assert parsed.path or parsed.is_directory, "only a directory has no name"
    assert not parsed.file_path().startswith(b"/")
    if parsed.path:
        location = parsed.slash_location()
        assert not location.startswith((b"/", b"\\"))
        assert not _SCHEME.match(location)
        # As a client resolves it. What cannot be the path of a request (hidden) was refused before.
        here = b"http://host/" + quote(parsed.path).encode() + b"/" * parsed.is_directory
        path, mark, query = location.partition(b"?")  # urljoin drops a query that is empty
        again = parse_target(urljoin(here, path) + mark + query)
        assert (again.path, again.is_directory, again.query) == (parsed.path, True, parsed.query)


def _check_names(target: bytes, parsed: Target) -> None:
    """Each segment is one name, whatever its escapes say; dot segments are for `_check_parsed`."""
    names = [unquote_to_bytes(each) for each in target.partition(b"?")[0].split(b"/") if each]
    if target.startswith(b"/") and b"." not in names and b".." not in names:
        assert parsed.path == b"/".join(names)
        assert not any(b"/" in name for name in names)


TARGETS: Final = (
    FuzzTarget("heads", check_heads, {"stream": HEAD_STREAMS, "cuts": CUTS}),
    FuzzTarget("targets", check_target, {"target": TARGET_TEXTS}),
)
