"""What the scripts of other sites may read."""

from typing import Final

import pytest

from trio_amped.semantics.cors import Cors
from trio_amped.semantics.errors import Headers
from trio_amped.semantics.request import Request

A: Final = "https://a.example"
B: Final = "http://b.example:8080"
ANY: Final = (b"Access-Control-Allow-Origin", b"*")
VARY: Final = (b"Vary", b"Origin")
EXPOSED: Final = (
    b"Access-Control-Expose-Headers",
    b"Accept-Ranges, Content-Encoding, Content-Length, Content-Range, ETag",
)
ALLOWED: Final = (
    (b"Access-Control-Allow-Methods", b"GET, HEAD, OPTIONS"),
    (b"Access-Control-Allow-Headers", b"*"),
    (b"Access-Control-Max-Age", b"86400"),
)
OTHERS: Final = (
    *(f"{A}:443", f"{A}.", f"{A}/", f"{A}.evil", f" {A}"),
    *("a.example", "http://a.example", "https://xa.example", "https://aXexample"),
)
ASKS: Final = "Access-Control-Request-Method: GET"


def request(*lines: str, method: str = "GET") -> Request:
    fields = [line.encode().split(b": ", 1) for line in lines]
    headers = tuple((name.lower(), value) for name, value in fields)
    return Request(method.encode(), b"/", b"1.1", headers)


def named(origin: str) -> Headers:
    """The fields for a site that may read."""
    return ((b"Access-Control-Allow-Origin", origin.encode()), EXPOSED, VARY)


@pytest.mark.parametrize(
    ("origins", "asked", "expected"),
    [
        # no other site
        ([], request(f"Origin: {A}"), ()),
        ([], request(f"Origin: {A}", ASKS, method="OPTIONS"), ()),
        # any
        (["*"], request(), (ANY, EXPOSED)),
        (["*"], request(f"Origin: {A}"), (ANY, EXPOSED)),
        (["*"], request("Origin: null"), (ANY, EXPOSED)),
        (["*"], request("Origin: ?"), (ANY, EXPOSED)),
        ([A, "*"], request("Origin: https://c.example"), (ANY, EXPOSED)),
        # those named; what they do not get depends on their name as well
        ([A], request(), (VARY,)),
        ([A], request(f"Origin: {A}"), named(A)),
        ([A], request(f"Origin: {A}", method="HEAD"), named(A)),
        ([A, B], request(f"Origin: {B}"), named(B)),
        ([A], request(f"Origin: {B}"), (VARY,)),
        ([A], request("Origin: null"), (VARY,)),
        ([A], request("Origin: *"), (VARY,)),
        ([A], request("Origin: "), (VARY,)),
        ([A], request(f"Origin: {A}", f"Origin: {A}"), (VARY,)),
        ([A], request(f"Origin: {A} {B}"), (VARY,)),
        *[([A], request(f"Origin: {other}"), (VARY,)) for other in OTHERS],
        # in any case, and as it was sent
        (["HTTPS://A.Example"], request(f"Origin: {A}"), named(A)),
        ([A], request("Origin: HTTPS://A.EXAMPLE"), named("HTTPS://A.EXAMPLE")),
        # preflights
        (["*"], request(f"Origin: {A}", ASKS, method="OPTIONS"), (ANY, EXPOSED, *ALLOWED)),
        ([A], request(f"Origin: {A}", ASKS, method="OPTIONS"), (*named(A), *ALLOWED)),
        ([A], request(f"Origin: {B}", ASKS, method="OPTIONS"), (VARY,)),
        ([A], request(ASKS, method="OPTIONS"), (VARY,)),
        ([A], request(f"Origin: {A}", method="OPTIONS"), named(A)),
        ([A], request(f"Origin: {A}", ASKS, method="GET"), named(A)),
        (["*"], request(ASKS, method="OPTIONS"), (ANY, EXPOSED)),
        (["*"], request(f"Origin: {A}", f"Origin: {A}", ASKS, method="OPTIONS"), (ANY, EXPOSED)),
        ([A], request(f"Origin: {A}", ASKS, ASKS, method="OPTIONS"), (*named(A), *ALLOWED)),
    ],
    ids=str,
)  # fmt: skip
def test_who_may_read(origins: list[str], asked: Request, expected: Headers) -> None:
    assert fields_of(origins, asked) == expected


def fields_of(origins: list[str], asked: Request) -> Headers:
    """All fields that an answer to a request has."""
    cors = Cors(origins)
    preflight = cors.preflight(asked) if asked.method == b"OPTIONS" else ()
    return cors.headers(asked.field(b"origin")) + preflight


def test_a_shared_cache_cannot_give_one_site_the_answer_of_another() -> None:
    """Either all answers are the same, or each says that it depends on the site."""
    for origins in ([], ["*"], [A], [A, B], [A, "*"]):
        answers = [fields_of(origins, request(*lines)) for lines in
                   ((), (f"Origin: {A}",), (f"Origin: {B}",), ("Origin: null",))]  # fmt: skip
        assert len(set(answers)) == 1 or all(VARY in answer for answer in answers)


@pytest.mark.parametrize(
    "origin",
    [
        A,
        B,
        f"{A}:80",
        "http://a:443",
        "http://localhost",
        "http://[::1]:3000",
        "chrome-extension://abcdefgh",
        "a+b-1.c://d",
    ],
)
def test_origins(origin: str) -> None:
    assert fields_of([origin], request(f"Origin: {origin}")) == named(origin)


NO_ORIGINS: Final = (
    *("", "null", "**", "a.example", "//a.example", "://a.example", "https:a.example", "https://"),
    *(f"{A}/", f"{A}/path", f"{A},{B}", f"{A} ", f" {A}", f"{A} {B}", f"{A}\n", f"{A}\r\nX: y"),
    *("1https://a", "https ://a", "https://ä.example", "https://a\x7f", "https://\udcff"),
    # what no browser ever sends
    *(f"{A}:443", "http://a.example:80", "https://*.example", "https://user@a.example", f"{A}?x"),
    *("HTTPS://a.example:443", "https://[::1]:443", "https://a:", "https://[::g]"),
)


@pytest.mark.parametrize("origin", NO_ORIGINS, ids=repr)
def test_no_origins(origin: str) -> None:
    with pytest.raises(ValueError, match=r"^must be an origin \(https://host\), or \*, not ") as no:
        Cors([A, origin])
    assert str(no.value).endswith(f"not {origin!r}")
