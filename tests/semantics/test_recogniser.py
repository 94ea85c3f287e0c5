"""The common request: what is recognised, and that h11 and our own checks are of one mind."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_amped.semantics.head import HeadReader, Limits
from trio_amped.semantics.recogniser import (
    CONDITIONAL,
    MOST_FIELDS,
    READ_BY_SETTINGS,
    recogniser,
    target_of,
)
from trio_amped.semantics.request import Asked, check_request
from trio_amped.semantics.target import plain_target, read_target
from trio_amped.serving.framing import Framing

MIB = 1 << 20
RECOGNISER = recogniser()
match_common, GROUPS = RECOGNISER.match, RECOGNISER.numbers


def head(*fields: str, line: str = "GET /a HTTP/1.1", host: str | None = "Host: h") -> bytes:
    """A head of these lines; `host=None`: without that field."""
    lines = [line, *([host] if host is not None else []), *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


# ------------------------------------------------------------------ what is recognised

CHROMIUM = (
    *("sec-ch-ua-mobile: ?0", 'sec-ch-ua: "Chromium";v="120"', "Upgrade-Insecure-Requests: 1"),
    *("User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "Accept: text/html,*/*;q=0.8"),
    *("Sec-Fetch-Site: none", "Accept-Encoding: gzip, deflate, br, zstd"),
    *("Accept-Language: en-GB,en;q=0.9", "Cookie: session=1; theme=dark", "Priority: u=0, i"),
)
COMMON = {
    "the least": head(),
    "HEAD": head(line="HEAD /a HTTP/1.1"),
    "the root": head(line="GET / HTTP/1.1"),
    "a query": head(line="GET /a?b=c&d=%20/? HTTP/1.1"),
    "an empty query": head(line="GET /a? HTTP/1.1"),
    "escapes": head(line="GET /%61/b%20c HTTP/1.1"),
    "dots, which are for parse_target": head(line="GET /../..//a HTTP/1.1"),
    "all that a path may have": head(line=f"GET /{''.join(map(chr, range(36, 63)))}@[]^~ HTTP/1.1"),
    "a browser": head("Connection: keep-alive", *CHROMIUM),
    "lower-case names": head("connection: keep-alive", "accept-encoding: br", host="host: h"),
    "upper-case names": head("CONNECTION: CLOSE", "ACCEPT-ENCODING: br", host="HOST: h"),
    "Connection: Keep-Alive": head("Connection: Keep-Alive"),
    "Connection: close": head("Connection: close"),
    "no space after the colon": head("Connection:close", "Accept-Encoding:br", host="Host:h"),
    "spaces around a value": head("Accept-Encoding: \t gzip \t", "Accept:  */*  "),
    "a port": head(host="Host: h.example-1:8080"),
    "an address": head(host="Host: 127.0.0.1:8080"),
    "Host at the end": head("Accept: */*", "Host: h", host=None),
    "a strong tag": head('If-None-Match: "18eab8af250172fe-10d07c"'),
    "a weak tag": head('If-None-Match: W/"x-1"'),
    "an empty tag": head('If-None-Match: ""'),
    "an empty value": head("Accept-Encoding:", "X:", "Y: "),
    "Upgrade-Insecure-Requests": head("Upgrade-Insecure-Requests: 1"),
    "names that begin as others": head(
        *("Hosts: a", "Host-X: b", "Ranges: 1", "Range-X: 1", "Expected: x", "Tea: t"),
        *("Connections: x", "Origins: x", "Content-Lengths: 5", "Content-Type: x", "If-Nothing: x"),
        "Trailers: x",
    ),
    "names that end others": head("H: x", "C: x", "I: x", "T: x", "X-Range: bytes=0-1", "XTE: x"),
    "all that a name may have": head("!#$%&'*+-.^_`|~09azAZ: x"),
    "a field twice": head("Cookie: a", "Cookie: b", "Pragma: x", "pragma: y"),
    "HTTP/1.0": head(line="GET /a HTTP/1.0"),
    "HTTP/1.0 without Host": head(line="GET /a HTTP/1.0", host=None),
    "blanks around Host": head(host="Host:\th \t"),
    **{
        f"{name}: {value}": head(f"{name}: {value}", "X: y")
        for name in ("If-None-Match", "if-match", "IF-RANGE", "Range", "If-Modified-Since",
                     "If-Unmodified-Since", "Origin", "Accept")
        for value in ("", "a", "*", '"a", W/"b"', " bytes=0-1,5- \t", "https://a.example", "\xff")
    },
    "all that a value may have": head("X: \t !~\x80\xff"),
    "a colon in a value": head("X: Host: other", "Y::"),
    "a body follows for all we know": head() + b"GET",
}  # fmt: skip


@pytest.mark.parametrize("stream", COMMON.values(), ids=COMMON)
def test_common(stream: bytes) -> None:
    match = match_common(stream)
    assert match is not None
    assert match[0] == stream[: stream.index(b"\r\n\r\n") + 4]
    check_agreement(stream)


NOT_COMMON = {
    # the request line
    "POST": head(line="POST /a HTTP/1.1"),
    "OPTIONS": head(line="OPTIONS /a HTTP/1.1"),
    "lower-case method": head(line="get /a HTTP/1.1"),
    "a method that begins as GET": head(line="GETS /a HTTP/1.1"),
    "HTTP/2.0": head(line="GET /a HTTP/2.0"),
    "no version": head(line="GET /a"),
    "lower-case version": head(line="GET /a http/1.1"),
    "absolute-form": head(line="GET http://h/a HTTP/1.1"),
    "asterisk-form": head(line="GET * HTTP/1.1"),
    "a path without its slash": head(line="GET a HTTP/1.1"),
    "a fragment in the query": head(line="GET /a?b#c HTTP/1.1"),
    "two spaces": head(line="GET  /a HTTP/1.1"),
    "a tab": head(line="GET\t/a HTTP/1.1"),
    "a space at the end": head(line="GET /a HTTP/1.1 "),
    "a space in the path": head(line="GET /a b HTTP/1.1"),
    "a space in the query": head(line="GET /a?b c HTTP/1.1"),
    "a control character in the path": head(line="GET /a\x01 HTTP/1.1"),
    "DEL in the path": head(line="GET /a\x7f HTTP/1.1"),
    "DEL in the query": head(line="GET /a?\x7f HTTP/1.1"),
    "a byte that is not ASCII in the path": head(line="GET /\xe9 HTTP/1.1"),
    "a byte that is not ASCII in the query": head(line="GET /?\xe9 HTTP/1.1"),
    # lines
    "an empty line before": b"\r\n" + head(),
    "bare LF": head().replace(b"\r\n", b"\n"),
    "bare LF at the end": head()[:-2] + b"\n",
    "bare LF after a field": head("X: a\nY: b"),
    "bare CR": head("X: a\rY: b"),
    "obs-fold": head("X: a", " b"),
    "obs-fold by a tab": head("X: a", "\tb"),
    "obs-fold of an empty line": head("X: a", " "),
    "obs-fold of the request line": head(" a: b", host="Host: h"),
    "not finished": head()[:-2],
    "one byte short": head()[:-1],
    "without a field": head(host=None),
    "nothing": b"",
    # names
    "a space before the colon": head("X : a"),
    "a space before the colon of Host": head(host="Host : h"),
    "no name": head(": a"),
    "no colon": head("X"),
    "a space in a name": head("X Y: a"),
    "a byte that is not ASCII in a name": head("X\xe9: a"),
    "a control character in a name": head("X\x00: a"),
    # values
    "NUL": head("X: a\0b"),
    "a control character": head("X: a\x0bb"),
    "DEL": head("X: \x7f"),
    # Host
    "no Host": head("Accept: */*", host=None),
    "two Hosts": head("Host: h"),
    "two Hosts in other letters": head("Accept: */*", "hOST: h"),
    "an empty Host": head(host="Host:"),
    "an IPv6 Host": head(host="Host: [::1]:80"),
    "a list of Hosts": head(host="Host: a, b"),
    "a user in Host": head(host="Host: u@h"),
    "an empty port": head(host="Host: h:"),
    "a port that is none": head(host="Host: h:a"),
    # Connection
    "Connection: close, te": head("Connection: close, te"),
    "Connection: upgrade": head("Connection: Upgrade"),
    "Connection: keep-alive, close": head("Connection: keep-alive, close"),
    "Connection: closed": head("Connection: closed"),
    "an empty Connection": head("Connection:"),
    "two Connections": head("Connection: close", "connection: close"),
    # conditions
    "two If-None-Match": head('If-None-Match: "a"', 'if-none-match: "b"'),
    "two Accept-Encoding": head("Accept-Encoding: br", "accept-encoding: gzip"),
    # whatever is out of the ordinary
    **{
        f"{name}: {value}": head(f"{name}: {value}")
        for name, value in (
            *(("Content-Length", "0"), ("Content-Length", "5"), ("Transfer-Encoding", "chunked")),
            *(("TE", "trailers"), ("Trailer", "X"), ("Expect", "100-continue"), ("Upgrade", "h2c")),
            *(("Access-Control-Request-Method", "GET"), ("uPGRADE", "h2c"), ("te", "x")),
            *(("Keep-Alive", "timeout=5"), ("Proxy-Connection", "keep-alive")),
        )
    },
    **{
        f"two of {name}": head(f"{name}: a", "X: y", f"{name.swapcase()}: a")
        for name in (
            "If-None-Match",
            "If-Match",
            "If-Range",
            "Range",
            "If-Modified-Since",
            "If-Unmodified-Since",
            "Origin",
            "Accept",
        )
    },
}


@pytest.mark.parametrize("stream", NOT_COMMON.values(), ids=NOT_COMMON)
def test_not_common(stream: bytes) -> None:
    assert match_common(stream) is None


FIELDS = 'Connection: %s|Accept-Encoding: \t a, b \t|If-None-Match: W/"x"|Accept: */*'


@pytest.mark.parametrize(
    ("stream", "group", "value"),
    [
        (head(), "method", b"GET"),
        (head(line="HEAD /a HTTP/1.1"), "method", b"HEAD"),
        (head(line="GET /%61?b?c HTTP/1.1"), "path", b"/%61"),
        (head(line="GET /%61?b?c HTTP/1.1"), "query", b"b?c"),
        (head(line="GET /a/b.c/?b HTTP/1.1"), "plain", b"/a/b.c/"),
        *((head(line=f"GET {it} HTTP/1.1"), "plain", None) for it in ("/.a", "/a/.b", "//", "/#")),
        *((head(line=f"GET {it} HTTP/1.1"), "path", None) for it in ("/", "/a", "/a/b..c/d?e")),
        (head(line="GET / HTTP/1.0"), "old", b"0"),
        (head(), "old", None),
        (head("Range: \tbytes=0-1 \t"), "range", b"bytes=0-1"),
        (head(host="Host:h.example:80"), "host", b"h.example:80"),
        *((head(), name, None) for name in ("close", "accept_encoding", "if_none_match")),
        *((head(f"Connection: {it}"), "close", it.encode()) for it in ("close", "Close")),
        (head("Connection: keep-alive"), "close", None),
        (head("Accept-Encoding: br"), "accept_encoding", b"br"),
        (head('If-None-Match: W/"x"'), "if_none_match", b'W/"x"'),
        (head(*(FIELDS % "close").split("|")), "if_none_match", b'W/"x"'),
        (head(*reversed((FIELDS % "close").split("|"))), "close", b"close"),
        (head(*reversed((FIELDS % "keep-alive").split("|"))), "close", None),
    ],
    ids=repr,
)
def test_groups(stream: bytes, group: str, value: bytes | None) -> None:
    match = match_common(stream)
    assert match is not None
    assert match[group] == match[GROUPS[group]] == value


def test_heads_are_found_where_they_begin_and_nowhere_else() -> None:
    stream = head(line="GET /1 HTTP/1.1") + head("Connection: close", line="GET /2 HTTP/1.1")
    first = match_common(stream)
    assert first is not None
    assert (first["plain"], first["close"], first.end()) == (b"/1", None, len(stream) // 2 - 9)
    second = match_common(stream, first.end())
    assert second is not None
    assert (second["plain"], second["close"], second.end()) == (b"/2", b"close", len(stream))
    assert match_common(stream, 1) is None
    assert match_common(stream, len(stream)) is None


# ------------------------------------------------------------------ of one mind with h11


def check_agreement(stream: bytes) -> None:
    """Whatever is recognised is cut, accepted and understood alike on the plain path."""
    match = match_common(stream)
    if match is None:
        return
    reader = HeadReader(Limits(max_head=MIB, max_target=MIB, max_fields=MIB))
    reader.feed(stream)
    assert reader.next_head() == match[0]
    request = Framing().receive(match[0])
    check_request(request)
    assert not request.has_body
    assert (request.method, request.target) == (match["method"], target_of(match))
    assert (request.http_version == b"1.0") == (match["old"] is not None)
    if match["plain"] is not None:
        assert read_target(request.target) == plain_target(match["plain"], match["query"])
    assert request.field(b"host") == match["host"]
    connection = request.combined(b"connection") or b""
    assert (connection.lower() == b"close") == (match["close"] is not None)
    assert match["close"] in (None, connection)
    asked = Asked._make(match.group(*RECOGNISER.numbers_of(Asked._fields)))
    assert asked == Asked.of(request)


LINES = st.sampled_from(
    [
        *(b"Connection: keep-alive", b"Connection: close", b"connection:Close", b"Connection: te"),
        *(b"Accept-Encoding: gzip, deflate, br", b"accept-encoding:", b"Accept-Encoding:\t br "),
        *(b'If-None-Match: "18eab8af-a"', b'If-None-Match: W/"x"', b"If-None-Match: *"),
        *(b"Host: h:80", b"Range: bytes=0-1", b"Content-Length: 0", b"Origin: null", b"TE: x"),
        *(b"range:bytes=0-1,4- ", b"If-Range: W/a", b"If-Match:\t*", b"Accept:text/html, */* "),
        *(b"If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT", b"If-Unmodified-Since:", b"Accept:"),
        *(b"Upgrade-Insecure-Requests: 1", b"X:", b"X: a\xff", b"X: a\r\n b", b"Expect: x"),
        *(each.encode() for each in CHROMIUM),
    ]
)
TARGETS = st.sampled_from(
    [
        b"/",
        b"/a.txt",
        b"/a%20b?c=d",
        b"/../x",
        b"/?#",
        b"/#",
        b"*",
        b"http://h/",
        b"/a/b.c/",
        b"//a",
    ]
)
METHODS = st.sampled_from([b"GET", b"GET", b"HEAD", b"POST"])
HOSTS = st.sampled_from([b"Host: h", b"host:example.com:8080", b"Host: [::1]", b"Host: a b"])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Nearly always what a browser would send."""
    fields = draw(st.lists(LINES, max_size=6, unique=True))
    lines = draw(st.permutations([draw(HOSTS), *fields]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    first = b"%s %s HTTP/%s" % (draw(METHODS), draw(TARGETS), version)
    return b"\r\n".join((first, *lines, b"", b""))


ODD_BYTES = st.sampled_from(b'\r\n\t :;,"#?%/\0\x01\x7f\x80\xffaHTtWw0*[]') | st.integers(0, 255)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The same with a few bytes changed, put in, taken away, or a piece doubled."""
    stream = bytearray(draw(heads()))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, max(0, len(stream) - 1)))
        stop = start + draw(st.sampled_from([0, 1, 1, 2, 20]))
        old = bytes(stream[start:stop])
        stream[start:stop] = draw(st.sampled_from([b"", old + old, bytes([draw(ODD_BYTES)])]))
    return bytes(stream) + draw(st.sampled_from([b"", b"GET", b"\r\n"]))


@given(mutated())
@example(head(line="GET /a?b#c HTTP/1.1"))
@example(head("Accept-Encoding: ", line="GET /?\x7e HTTP/1.1"))
def test_what_is_recognised_means_the_same_to_h11(stream: bytes) -> None:
    check_agreement(stream)


@given(st.lists(mutated(), min_size=2, max_size=3).map(b"".join), st.integers(0, 3))
def test_a_head_does_not_depend_on_what_is_around_it(stream: bytes, junk: int) -> None:
    match = match_common(stream)
    moved = match_common(b"x" * junk + stream, junk)
    assert (match and match.groups()) == (moved and moved.groups())
    if match is not None:
        alone = match_common(match[0])
        assert alone is not None
        assert alone.groups() == match.groups()


@given(st.binary(max_size=200).map(lambda tail: b"GET /" + tail) | st.binary(max_size=50))
def test_any_bytes(stream: bytes) -> None:
    check_agreement(stream)


# ------------------------------------------------------------------ fields that settings read


@pytest.mark.parametrize("name", sorted(READ_BY_SETTINGS))
def test_a_field_that_no_setting_reads_is_read_over(name: str) -> None:
    field = name.replace("_", "-")
    stream = head(f"{field}: a", f"{field}: b")
    assert match_common(stream) is None
    without = recogniser(READ_BY_SETTINGS - {name})
    match = without.match(stream)
    assert match is not None
    assert match.group(*without.numbers_of([name, "method"])) == (None, b"GET")


@pytest.mark.parametrize("name", ["authorization", "x_forwarded_for", "cookie"])
def test_a_field_that_is_not_declared_cannot_be_read(name: str) -> None:
    """Or the lane would see none where h11 sees one."""
    with pytest.raises(KeyError):
        RECOGNISER.numbers_of([name])


def test_whatever_selects_an_answer_is_declared() -> None:
    assert set(Asked._fields) == {"method", *CONDITIONAL, *READ_BY_SETTINGS}


# ------------------------------------------------------------------ linear


@pytest.mark.parametrize(
    "unit",
    [
        *(b"a", b"/", b"?", b"%", b":", b"\r\n", b"\r", b" ", b"\t", b"-", b"\xff"),
        *(b"a:\r\n", b"h:\r\n", b"T:x\r\n", b"hos:\r\n", b"Hostt:\r\n", b"If-None-Matc: \r\n"),
        *(b"A: b\r\n c: d\r\n", b"a: b\r\n\r", b"Accept-Encoding: br\r\n", b"Host: h\r\n"),
        *(b'If-None-Match: "', b"Connection: keep-alive\r\n", b"Connection: clos", b"W/"),
        *(b"Host: a.b-c", b"0", b'"', b"te:", b"accept-encodin", b"i"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET /",
        b"GET /?",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nX: ",
        b"GET / HTTP/1.1\r\nHost: ",
        b'GET / HTTP/1.1\r\nHost: h\r\nIf-None-Match: "',
        b"GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: ",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: ",
        b"GET / HTTP/1.1\r\nHost: h\r\n",
    ],
    ids=repr,
)
def test_1_mib_of_anything(start: bytes, unit: bytes) -> None:
    """As large as `--max-head` can be: what is quadratic would take hours."""
    for end in (b"", b"\0", b"\r\n\r\n"):
        match_common(start + unit * (MIB // len(unit)) + end)


@pytest.mark.parametrize("count", [1, MOST_FIELDS])
def test_as_many_fields_as_there_may_be(count: int) -> None:
    assert match_common(head(*["a:"] * (count - 1))) is not None


def test_more_fields_than_that() -> None:
    assert match_common(head(*["a:"] * MOST_FIELDS)) is None
