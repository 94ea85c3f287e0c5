"""How requests are made up, with what is certain about their answers."""

from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from fuzz.world.reference import LINE_SLACK, Limits
from tests.simulated import DAY, NANO, NOW


@dataclass(frozen=True)
class Ask:
    """A request, and what is certain about its answer."""

    wire: bytes
    statuses: frozenset[int]
    closes: bool = False
    path: bytes | None = None  # the file whose bytes a 200 or 206 has

    @property
    def method(self) -> bytes:
        return b"HEAD" if self.wire.lstrip(b"\r\n").startswith(b"HEAD ") else b"GET"


_TARGETS: Final = [
    (b"/", b"index.html", 200),
    (b"/a.txt", b"a.txt", 200),
    (b"/%61.txt?q", b"a.txt", 200),
    (b"/x/..//./a.txt", b"a.txt", 200),
    (b"HTTP://h:80/a.txt", b"a.txt", 200),
    (b"/empty.txt", b"empty.txt", 200),
    (b"/large.bin", b"large.bin", 200),
    (b"/new.txt", b"new.txt", 200),
    (b"/s.js", b"s.js", 200),
    (b"/folder?q", None, 301),
    (b"/folder/", None, 404),
    (b"/nope", None, 404),
    (b"/.hidden", None, 404),
    (b"/folder%2Fa", None, 404),
    (b"/../a.txt", None, 400),
    (b"/a.txt?#", None, 400),
    (b"/%00", None, 400),
    (b"/%zz", None, 400),
    (b"a.txt", None, 400),
]
_PLAIN: Final = [
    b"Accept: */*",
    b"X: " + b"y" * 60,
    b"X:",
    b"Connection: keep-alive",
    b"X: a\r\n b",
    b"Accept-Encoding: gzip, br;q=0.5",
    b"accept-encoding:",
]
_SELECTING: Final = [
    b"Range: bytes=0-0",
    b"Range: bytes=3-",
    b"Range: bytes=-40000",
    b"Range: bytes=999999-",
    b"Range: bytes=5-1",
    b"Range: bytes=0-1,3-4",
    b"If-None-Match: *",
    b'If-None-Match: "x"',
    b'If-None-Match: "%x-a"' % ((NOW - DAY) * NANO),  # a.txt
    b'If-None-Match: W/"%x-5-br"' % ((NOW - DAY) * NANO),  # s.js.br
    b'If-Match: "x"',
    b'If-Range: "x"',
    b"If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
    b"If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
]
_BODIES: Final = [
    (b"Content-Length: 5", b"hello"),
    (b"Content-Length: 05", b"hello"),
    (b"Content-Length: 26", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Expect: 100-continue\r\nContent-Length: 3", b"abc"),
]
_SELECTED: Final = frozenset({200, 206, 304, 412, 416})
_HOST: Final = b"Host: h\r\n"

_ODD: Final = [
    Ask(b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"\r\n", frozenset({200})),
    Ask(b"POST / HTTP/1.1\r\n" + _HOST + b"\r\n", frozenset({405})),
    Ask(b"BREW / HTTP/1.1\r\n" + _HOST + b"\r\n", frozenset({501})),
    Ask(b"GET / HTTP/2.0\r\n" + _HOST + b"\r\n", frozenset({505}), closes=True),
    Ask(b"GET / HTTP/1.1\r\nExpect: x\r\n" + _HOST + b"\r\n", frozenset({417})),
    Ask(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", frozenset({400}), closes=True),
    Ask(b"GET / HTTP/1.0\r\n\r\n", frozenset({200}), closes=True, path=b"index.html"),
    Ask(b"GET / HTTP/1.1\r\n\r\n", frozenset({400}), closes=True),
    Ask(b"GET / HTTP/1.1\r\n" + 2 * _HOST + b"\r\n", frozenset({400}), closes=True),
    Ask(b"GET / HTTP/1.1\nHost: h\n\n", frozenset({400}), closes=True),
    Ask(b"GET /\0 HTTP/1.1\r\n\r\n", frozenset({400}), closes=True),
    Ask(b"GET /" + b"a" * 300 + b" HTTP/1.1\r\n\r\n", frozenset({414}), closes=True),
    Ask(b"GET / HTTP/1.1\r\nA: " + b"b" * 2048 + b"\r\n\r\n", frozenset({431}), closes=True),
    Ask(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 25 + b"\r\n", frozenset({431}), closes=True),
    Ask(
        b"GET / HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        frozenset({400}),
        closes=True,
    ),
    # The same for those who know common requests by an expression.
    Ask(b"GET /" + b"a" * 300 + b" HTTP/1.1\r\n" + _HOST + b"\r\n", frozenset({414}), closes=True),
    Ask(b"GET / HTTP/1.1\r\n" + _HOST + b"A: %s\r\n\r\n" % (b"b" * 2048), frozenset({431}), True),
    Ask(b"GET / HTTP/1.1\r\n" + _HOST + b"A: b\r\n" * 24 + b"\r\n", frozenset({431}), closes=True),
    Ask(b"\x16\x03\x01\x00\r\n\r\n\r\n", frozenset({400}), closes=True),
]


@st.composite
def _asks(draw: st.DrawFn) -> Ask:
    target, path, status = draw(st.sampled_from(_TARGETS))
    method = draw(st.sampled_from([b"GET", b"GET", b"HEAD"]))
    selecting = draw(st.lists(st.sampled_from(_SELECTING), max_size=2))
    fields = draw(
        st.permutations([*selecting, *draw(st.lists(st.sampled_from(_PLAIN), max_size=3))])
    )
    is_last = draw(st.booleans()) and draw(st.booleans())
    field, body = draw(st.sampled_from([*_BODIES, (b"Connection: close", b"")]))
    lines = [b"%s %s HTTP/1.1" % (method, target), _HOST[:-2], *fields, *([field] * is_last)]
    wire = (
        draw(st.sampled_from([b"", b"\r\n"])) + b"\r\n".join(lines) + b"\r\n\r\n" + body * is_last
    )
    statuses = _SELECTED if path and selecting else frozenset({status})
    return Ask(wire, statuses, is_last or status == 400, path)


GARBAGE: Final = st.lists(
    st.sampled_from(
        [b"GET / HTTP/1.1\r\n", b"\r\n", b"\n", b"\r", b"Host: a\r\n", b"\0", b" ", b":"]
    )
    | st.binary(max_size=8),
    max_size=12,
).map(b"".join)

ASKS: Final = _asks() | st.sampled_from(_ODD)
WIRES: Final = ASKS.map(lambda ask: ask.wire)


@st.composite
def _broken(draw: st.DrawFn) -> bytes:
    wire = draw(WIRES)
    at = draw(st.integers(0, len(wire) - 1))
    put = draw(st.sampled_from(_BYTES) | st.binary(max_size=1))
    return wire[:at] + put + wire[at + draw(st.integers(0, 1)) :] + b"\r\n\r\n"


LIMITS: Final = Limits(max_head=2048, max_target=256, max_fields=24)


@st.composite
def _edges(draw: st.DrawFn) -> bytes:
    which, over = draw(st.sampled_from(["line", "head", "fields"])), draw(st.integers(-2, 3))
    line, fields = b"GET /a.txt HTTP/1.1\r\n", _HOST
    if which == "line":
        query = LIMITS.max_target + LINE_SLACK + over - len(line)
        line = line.replace(b".txt", b".txt?".ljust(4 + query, b"q"))
    elif which == "head":
        value = LIMITS.max_head + over - len(line + fields) - len(b"X: \r\n\r\n")
        fields += b"X: %s\r\n" % (b"y" * value)
    else:
        fields += b"X: y\r\n" * (LIMITS.max_fields + over - 1)
    return line + fields + b"\r\n"


EDGES: Final = _edges()
"""A head that is as long as one may be, or nearly: by its line, in all, or in its fields."""
_BYTES: Final = [bytes([byte]) for byte in b'\0\t\n\r :,;/\\"=-_a0\x7f\xff']
BROKEN: Final = _broken()
"""A request of which one byte is another, one too many, or not there. Its head has an end."""

DOWNLOADS: Final = st.builds(
    lambda method, name, fields: b"\r\n".join(
        [b"%s /%s HTTP/1.1" % (method, name), b"Host: h", *fields, b"", b""]
    ),
    st.sampled_from([b"GET", b"GET", b"GET", b"HEAD"]),
    st.sampled_from([b"large.bin", b"s.js", b"a.txt", b""]),
    st.sampled_from(
        [
            (),
            (b"Accept-Encoding: gzip, br;q=0.5",),
            (b"Range: bytes=900-",),
            (b"Range: bytes=0-9,-40000",),
            (b"Accept-Encoding: br", b"Connection: keep-alive"),
        ]
    ),
)
"""The common request: a file, of which there is something to send."""
LAST: Final = b"GET /a.txt HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
PIPELINE: Final = b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n" * 18
"""More of them than are answered in one go."""
