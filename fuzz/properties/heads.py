"""The expression by which the fast lane knows common requests: it agrees with h11."""

from typing import Final

from hypothesis import strategies as st

from fuzz.tally import note
from fuzz.target import Target
from fuzz.world import reference
from tests.simulated import NOW
from trio_amped.semantics.head import HeadReader, Limits
from trio_amped.semantics.recogniser import recogniser, target_of
from trio_amped.semantics.request import Asked, check_request
from trio_amped.semantics.response import Response
from trio_amped.semantics.target import plain_target, read_target
from trio_amped.serving.framing import Framing

_ASKED: Final = recogniser().numbers_of(Asked._fields)
_LEFT_TO_H11: Final = (
    *(b"content-length", b"transfer-encoding", b"te", b"trailer", b"expect", b"upgrade"),
    b"access-control-request-method",
)


def check_common(head: bytes) -> None:
    """Every head that the recogniser accepts, h11 understands in the same way."""
    match = recogniser().match(head)
    if match is None:
        return
    note("common head")
    accepted = match[0]
    _check_ends(head, accepted)
    framing = Framing()
    request = framing.receive(accepted)
    check_request(request)
    assert (request.method, request.target) == (match["method"], target_of(match))
    if match["plain"] is not None:
        assert read_target(request.target) == plain_target(match["plain"], match["query"])
    assert not request.has_body
    assert [name for name in _LEFT_TO_H11 if request.count(name)] == []
    assert Asked._make(match.group(*_ASKED)) == Asked.of(request)
    closes = match["close"] is not None or match["old"] is not None
    framing.send(Response.of(200, ((b"Content-Length", b"0"),), ()), NOW, closes=False)
    assert framing.start_next() == (not closes)
    naive = reference.answer(accepted, {}, NOW)
    assert naive.closes == (closes or naive.answer.status == 400)  # for its target


def _check_ends(head: bytes, accepted: bytes) -> None:
    """The head ends where the reader of heads says."""
    reader = HeadReader(Limits(1 << 20, 1 << 20, 100))
    reader.feed(head)
    assert reader.next_head() == accepted
    assert head == accepted + reader.buffered


_USUAL: Final = st.sampled_from(
    [
        *[
            b"User-Agent: x\r\n",
            b"Accept: */*\r\n",
            b"cookie: a=b\r\n",
            b"X: y\r\n",
            b"te-a: x\r\n",
        ],
        *[b"Accept-Encoding: gzip, br\r\n", b"accept-encoding:\r\n", b"Rangee: x\r\n"],
        *[b"Connection: keep-alive\r\n", b"connection:close\r\n", b'If-None-Match: W/"x"\r\n'],
    ]
)
_NAMES: Final = st.sampled_from(
    [
        *[
            b"Host",
            b"hOST",
            b"Connection",
            b"Accept-Encoding",
            b"If-None-Match",
            b"If-Match",
            b"TE",
        ],
        *[b"Content-Length", b"Transfer-Encoding", b"Range", b"rAnge", b"Expect", b"If-Range"],
        *[b"If-Modified-Since", b"If-Unmodified-Since", b"Upgrade", b"Origin", b"Keep-Alive"],
        *[b"Trailer", b"Proxy-Connection", b"Access-Control-Request-Method", b"~!'", b"", b"\xff"],
    ]
)
_VALUES: Final = st.sampled_from(
    [
        *[
            b"h:80",
            b"a.b-c",
            b"[::1]",
            b"",
            b"Keep-Alive",
            b"CLOSE",
            b"close, x",
            b"*",
            b'"a", "b"',
        ],
        *[b"bytes=0-1", b"0", b"5", b"chunked", b"100-continue", b"\xff\x80", b"a\tb ", b"\x01"],
    ]
)
_ODD: Final = st.builds(
    lambda name, space, value: b"%s:%s%s\r\n" % (name, space, value),
    _NAMES,
    st.sampled_from([b" ", b" ", b"", b"\t", b"  ", b"\r\n "]),
    _VALUES,
)
_METHODS: Final = st.sampled_from([b"GET", b"GET", b"GET", b"HEAD", b"get", b"GETX", b"POST"])
_TARGETS: Final = st.sampled_from(
    [b"/", b"/a", b"/a?b", b"/?", b"/%61/..", b"/", b"/a", b"/a#b", b"a", b"/\xff", b"http://h/"]
)
_VERSIONS: Final = st.sampled_from([b"1.1"] * 6 + [b"1.0", b"2.0", b"1.10"])
_RARELY: Final = st.sampled_from([False] * 3 + [True])


@st.composite
def _heads(draw: st.DrawFn) -> bytes:
    """Like those that are common, with what is not; and sometimes a byte that should not be."""
    lines = draw(st.lists(st.one_of(_USUAL, _USUAL, _ODD), max_size=6))
    if not draw(_RARELY):
        lines.insert(draw(st.integers(0, len(lines))), b"Host: h\r\n")
    first = b"%s %s HTTP/%s\r\n" % (draw(_METHODS), draw(_TARGETS), draw(_VERSIONS))
    head = first + b"".join(lines) + b"\r\n"
    if draw(_RARELY):
        at = draw(st.integers(0, len(head)))
        head = head[:at] + draw(st.binary(max_size=2)) + head[at + draw(st.integers(0, 2)) :]
    return head + draw(st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"x"]))


TARGETS: Final = (Target("common", check_common, {"head": _heads()}),)
