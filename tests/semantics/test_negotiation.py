"""What a client prefers: content codings, and media types."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.negotiation import (
    media_weight,
    names_html,
    preferred_codings,
    prefers,
)

OFFERED: Final = (b"br", b"zstd", b"gzip")
ALL: Final = [b"br", b"zstd", b"gzip"]


# ---------------------------------------------------------------- content codings


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),  # the file as it is suits everybody
        (b"", []),
        (b" ", []),
        (b",", []),
        (b"br", [b"br"]),
        (b"gzip, br", [b"br", b"gzip"]),  # at equal weight the server decides
        (b"gzip, deflate, br, zstd", ALL),
        (b"gzip;q=0.9, br;q=0.8, zstd;q=0.85", [b"gzip", b"zstd", b"br"]),
        (b"br;q=0.5, gzip", [b"gzip", b"br"]),
        (b"br;q=0.001, gzip;q=0.002", [b"gzip", b"br"]),
        (b"br;q=0.998, gzip;q=0.999", [b"gzip", b"br"]),
        (b"br;q=1.000, gzip;q=1", [b"br", b"gzip"]),
        (b"br;q=1., gzip;q=0.", [b"br"]),
        (b"br;q=0", []),
        (b"br;q=0.000, gzip", [b"gzip"]),
        # what is not offered does not matter
        (b"deflate", []),
        (b"deflate, compress;q=0.1, gzip;q=0.01", [b"gzip"]),
        # anything
        (b"*", ALL),
        (b"*;q=0", []),
        (b"*;q=0.1", ALL),
        (b"gzip, *;q=0", [b"gzip"]),
        (b"br;q=0, *", [b"zstd", b"gzip"]),
        (b"*, br;q=0", [b"zstd", b"gzip"]),
        (b"gzip, *;q=0.5", [b"gzip", b"br", b"zstd"]),
        (b"br;q=0.1, *;q=0.5", [b"zstd", b"gzip"]),  # the file as it is is better than br
        # as it is
        (b"identity", []),
        (b"identity;q=0", []),
        (b"gzip, identity;q=0", [b"gzip"]),
        (b"gzip;q=0.5, identity", []),
        (b"gzip;q=0.5, identity;q=0.5", [b"gzip"]),
        (b"gzip;q=0.5, identity;q=0.501, br;q=0.6", [b"br"]),
        (b"identity;q=0.5, *;q=0.4", []),
        (b"identity;q=0.4, *;q=0.5", ALL),
        # names
        (b"x-gzip", [b"gzip"]),
        (b"X-GZip;Q=0.5, BR;q=0.4", [b"gzip", b"br"]),
        (b"x-br", []),
        (b"brotli", []),
        (b"gzip;q=0, x-gzip", []),
        # twice: what was refused once must not be sent
        (b"br, br;q=0", []),
        (b"br;q=0, br", []),
        (b"br;q=0.9, br;q=0.2, gzip;q=0.5", [b"gzip", b"br"]),
        (b"*, *;q=0", []),
        (b"x-gzip, gzip;q=0", []),
        # space
        (b"\tbr ,\tgzip\t", [b"br", b"gzip"]),
        (b"br ; q=0.1,gzip\t;\tq=0.2", [b"gzip", b"br"]),
        (b"br,,gzip,", [b"br", b"gzip"]),
    ],
    ids=repr,
)
def test_codings(value: bytes | None, expected: list[bytes]) -> None:
    assert preferred_codings(value, OFFERED) == expected


@pytest.mark.parametrize(
    "member",
    [
        b"br;q",
        b"br;q=",
        b"br;q=2",
        b"br;q=1.001",
        b"br;q=1.0000",
        b"br;q=0.1234",
        b"br;q=.5",
        b"br;q=-1",
        b"br;q=+1",
        b"br;q=00",
        b"br;q=1e0",
        b"br;q=nan",
        b"br;q=1 0",
        b'br;q="1"',
        b"br;q =1",
        b"br;q= 1",
        b"br;",
        b"br;;q=1",
        b"br;x=1",
        b"br;q=1;q=1",
        b"br;q=1;x=1",
        b"br q=1",
        b"br br",
        b"br/br",
        b'"br"',
        b"br=1",
        b";q=1",
        b"br\n",
        b"br;q=1\n",
        b"\x0bbr",
        b"br\xa0",
        b"br;q=\xb2",
    ],
    ids=repr,
)
def test_a_malformed_member_is_ignored_and_no_other(member: bytes) -> None:
    assert preferred_codings(member, OFFERED) == []
    assert preferred_codings(b"gzip;q=0.5," + member + b", zstd", OFFERED) == [b"zstd", b"gzip"]


def test_nothing_is_offered() -> None:
    assert preferred_codings(b"*", ()) == []
    assert preferred_codings(b"br", [b"gzip"]) == []


def test_the_order_of_the_server_is_any() -> None:
    found = preferred_codings(b"br, gzip, zstd;q=0.9", [b"zstd", b"gzip", b"br"])
    assert found == [b"gzip", b"br", b"zstd"]


WEIGHTS: Final = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
NAMES: Final = [*OFFERED, b"x-gzip", b"deflate", b"*", b"identity"]
MEMBERS: Final = st.lists(st.tuples(st.sampled_from(NAMES), WEIGHTS), max_size=8)


@given(MEMBERS, st.permutations(OFFERED), st.sampled_from([b",", b" ,\t", b", ,"]))
def test_codings_are_as_the_weights_say(
    members: list[tuple[bytes, float]], offered: list[bytes], comma: bytes
) -> None:
    field = comma.join(b"%s;q=%.3f" % member for member in members)

    def weight_of(*names: bytes) -> float | None:
        return min((weight for name, weight in members if name in names), default=None)

    anything = weight_of(b"*") or 0.0
    weights = {}
    for coding in (*offered, b"identity"):
        own = weight_of(coding, b"x-gzip") if coding == b"gzip" else weight_of(coding)
        weights[coding] = anything if own is None else own
    found = preferred_codings(field, offered)
    for coding in offered:
        is_wanted = weights[coding] > 0 and weights[coding] >= weights[b"identity"]
        assert (coding in found) == is_wanted
    assert found == sorted(found, key=lambda coding: (-weights[coding], offered.index(coding)))


@given(MEMBERS, st.binary(max_size=40))
def test_what_is_refused_is_never_sent(members: list[tuple[bytes, float]], junk: bytes) -> None:
    field = b",".join(b"%s;q=%.3f" % member for member in members)
    for value in (b"br;q=0," + field + b"," + junk, junk + b"," + field + b",BR;Q=0.000"):
        assert b"br" not in preferred_codings(value, OFFERED)


# ---------------------------------------------------------------- media types

JSON: Final = b"application/json"
HTML: Final = b"text/html"


@pytest.mark.parametrize(
    ("accept", "json", "html"),
    [
        (None, 1, 1),
        (b"", 0, 0),
        (b"*/*", 1, 1),
        (b"*/*;q=0.1", 0.1, 0.1),
        (b"*", 0, 0),  # malformed
        (b"application/json", 1, 0),
        (b"APPLICATION/Json", 1, 0),
        (b"application/*", 1, 0),
        (b"*/json", 0, 0),
        (b"application/json5", 0, 0),
        (b"text/html, application/json;q=0.9", 0.9, 1),
        (b"text/html;q=0.25,*/*;q=0.125", 0.125, 0.25),
        # the most specific one decides, wherever it stands
        (b"*/*, application/*;q=0.5, application/json;q=0.25", 0.25, 1),
        (b"application/json;q=0.25, application/*;q=0.5, */*", 0.25, 1),
        (b"application/*;q=0.5, */*", 0.5, 1),
        (b"*/*;q=0.5, application/json;q=0", 0, 0.5),
        (b"*/*;q=0.5, text/*;q=0", 0.5, 0),
        # with parameters it is another type, but for a charset
        (b"text/html;level=1", 0, 0),
        (b"text/html;level=1, */*;q=0.5", 0.5, 0.5),
        (b"text/html;level=1;q=0.1, text/html;q=0.4", 0, 0.4),
        (b"application/json;v=1;q=0, application/json", 1, 0),
        (b"text/html;charset=utf-8;q=0.5", 0, 0.5),
        (b'text/html;Charset="utf-8";q=0.5', 0, 0.5),
        (b"text/html \t;\t charset=x ; Q=0.5 , application/json", 1, 0.5),
        (b"text/html;charset=x;level=1", 0, 0),
        (b"text/html;level=1;charset=x", 0, 0),
        (b"text/html;charset=x;charset=x", 0, 0),
        (b"text/html;charset", 0, 0),
        (b"text/html;charset2=x", 0, 0),
        # what comes behind the weight does not matter
        (b"text/html;q=0.5;level=1", 0, 0.5),
        (b'text/html;q=0.5;a;b="c,d", application/json', 1, 0.5),
        # commas in quotes
        (b'text/html;q=0.5;a="x,application/json,y"', 0, 0.5),
        (b'text/html;q=0.5;a="\\",application/json,\\""', 0, 0.5),
        (b'text/html;q=0.5;a="\\\\",application/json', 1, 0.5),
        (b'text/html;charset="x,y;q=0.1";q=0.5, application/json', 1, 0.5),
        # what is malformed is ignored
        (b"text/html;q=2, application/json", 1, 0),
        (b"text/html;q=x, */*;q=0.5", 0.5, 0.5),
        (b"text/html;q=0.5;q=0.9", 0, 0),
        (b"text/ html, application /json", 0, 0),
        (b"text, html/, /json, application/json", 1, 0),
        (b"text/html;q=0.5;", 0, 0.5),
        (b"text/html;q=0.5;;a", 0, 0.5),
        (b'text/html;q=0.5;a="x, application/json', 0, 0),  # a quote that nobody closes
        (b'application/json, text/html;a="x', 1, 0),
        (b'text/html;a="x\\', 0, 0),
        (b'text/html", application/json', 0, 0),
        (b"application/json,,\t,text/html", 1, 1),
    ],
    ids=repr,
)
def test_media_weight(accept: bytes | None, json: float, html: float) -> None:
    assert (media_weight(accept, JSON), media_weight(accept, HTML)) == (json, html)


CHROME: Final = (
    b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,"
    b"*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (CHROME, True),
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),  # Firefox
        (b"text/html", True),
        (b"TEXT/HTML;q=0.001", True),
        (b"text/*", True),
        (b"text/html;charset=utf-8", True),
        (b'a/b;c="d,e",text/html', True),
        (b"application/xhtml+xml", True),
        (b"application/xhtml+xml, text/html;q=0", False),
        (b"text/html;q=0, text/*", False),
        (b"text/html, text/html;q=0.000", False),
        (b"text/*;q=0, application/xhtml+xml", True),
        (b"text/*;q=0", False),
        # what a page loads
        (None, False),
        (b"", False),
        (b"*/*", False),  # scripts, fetch(), curl
        (b"image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", False),
        (b"text/css,*/*;q=0.1", False),
        (b"application/json, text/plain, */*", False),
        (b"application/xml", False),
        (b"text/html-sandboxed", False),
        (b'a/b;c="d,text/html,e"', False),
        (b"text/html;q=1.5", False),
    ],
    ids=repr,
)
def test_names_html(accept: bytes | None, expected: bool) -> None:
    assert names_html(accept) == expected


RANGES: Final = st.lists(
    st.tuples(st.sampled_from([b"*/*", b"text/*", b"text/html", b"a/b"]), WEIGHTS), max_size=6
)
CHARSETS: Final = st.sampled_from([b"", b";charset=b", b' ; Charset=",text/html;q=0,"'])
EXTENSIONS: Final = st.sampled_from([b"", b";a=b", b';a=",text/html;q=0,"', b' ; a="\\""'])


@given(RANGES, CHARSETS, EXTENSIONS, st.booleans())
def test_media_weights_are_the_largest_of_the_most_specific(
    ranges: list[tuple[bytes, float]], before: bytes, after: bytes, is_special: bool
) -> None:
    weights: dict[bytes, list[float]] = {}
    for name, weight in ranges:
        weights.setdefault(name, []).append(weight)
    specific = next((weights[n] for n in (HTML, b"text/*", b"*/*") if n in weights), [0.0])
    field = b", ".join(b"%s%s;q=%.3f%s" % (name, before, w, after) for name, w in ranges)
    if is_special:
        field += b", text/html;level=1;q=0.001, text/html;level=2;q=0"
    assert media_weight(field, HTML) == max(specific)
    is_named = any(name in (HTML, b"text/*") and weight for name, weight in ranges)
    assert names_html(field) == (is_named and 0 not in weights.get(HTML, []))


UNITS: Final = (
    *(
        b",",
        b"a",
        b" ",
        b"\t,",
        b";",
        b"q",
        b";q",
        b";q=",
        b";q=0",
        b"a;q=1,",
        b"/",
        b"a/b",
        b"a/b,",
    ),
    *(b'"', b"\\", b'\\"', b'""', b';a="', b';a="\\', b";a=b", b" ;", b"\n", b"\\\n", b"\xff"),
)


@pytest.mark.parametrize("unit", UNITS, ids=repr)
@pytest.mark.parametrize("start", [b"", b"a/b", b'a/b;c="', b"br;q=0.1"], ids=repr)
def test_64_kib_of_anything(unit: bytes, start: bytes) -> None:
    for end in (b"", b'"', b"x", b";q=1"):
        value = start + unit * (65536 // len(unit)) + end
        preferred_codings(value, OFFERED)
        media_weight(value, HTML)
        names_html(value)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        (b"*/*", False),
        (b"application/json", True),
        (b"application/json, text/plain, */*", True),  # named, where the other is "anything"
        (b"application/*, */*", True),
        (b"text/html, application/json", False),
        (b"text/html;q=0.9, application/json", True),
        (b"text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", False),
        (b"application/json;q=0.5, */*", False),
    ],
    ids=repr,
)
def test_prefers(accept: bytes | None, expected: bool) -> None:
    assert prefers(accept, JSON, HTML) == expected


@pytest.mark.parametrize(("commas", "counts"), [(32, True), (33, False), (5000, False)])
def test_a_list_that_is_too_long_counts_for_nothing(commas: int, counts: bool) -> None:
    others = b"a/b," * (commas - 1)
    assert media_weight(others + b"text/html;q=0.5,x/y", HTML) == (0.5 if counts else 1)
    assert names_html(others + b"text/html,x/y") == counts
    assert preferred_codings(b"a," * commas + b"br", [b"br"]) == [b"br"] * counts


@pytest.mark.parametrize(("length", "counts"), [(4096, True), (4097, False)])
def test_nor_does_one_of_many_bytes(length: int, counts: bool) -> None:
    assert preferred_codings(b"br,".ljust(length, b"a"), [b"br"]) == [b"br"] * counts
    accept = b"text/html;q=0.5,".ljust(length, b"a")
    assert media_weight(accept, HTML) == (0.5 if counts else 1)
