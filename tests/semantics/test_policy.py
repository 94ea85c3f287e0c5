"""What whoever runs the server has chosen: fields, types, sidecars and pages."""

import re
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.errors import NOSNIFF, Headers
from trio_amped.semantics.policy import SUFFIXES, Policy

FOR_EVER: Final = (b"Cache-Control", b"max-age=31536000, immutable")


def policy(**settings: Any) -> Policy:
    """A Policy from values that a type checker would not let through."""
    return Policy(**settings)


# ---------------------------------------------------------------- what cannot be

NAME: Final = "must have a name of letters, digits and -, not "
VALUE: Final = "must have a value of visible ASCII, not "
PAGE: Final = "must be the path of a file below the root, as in a URL, not "
RULE: Final = "must be STATUS=/PAGE with a status from 400 to 599, not "
NO_RULES: Final = ("", "/404.html", "399=/a", "600=/a", "40=/a", "4004=/a", "4x4=/a", " 404=/a")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("precompressed", ["brotli"], "must be among br, zstd, gzip, not 'brotli'"),
        ("precompressed", ["br", ""], "must be among br, zstd, gzip, not ''"),
        ("precompressed", ["GZIP"], "must be among br, zstd, gzip, not 'GZIP'"),
        ("headers", ["*.js"], "must be GLOB: Name: value, not '*.js'"),
        ("headers", [": A: b"], "must be GLOB: Name: value, not ': A: b'"),
        ("headers", ["*: A"], "must be GLOB: Name: value, not '*: A'"),
        ("headers", ["*:"], "must be GLOB: Name: value, not '*:'"),
        ("headers", ["*: : b"], "must be GLOB: Name: value, not '*: : b'"),
        ("headers", ["*: A : b"], f"{NAME}'A ', in '*: A : b'"),
        ("headers", ["*: A b: c"], f"{NAME}'A b', in '*: A b: c'"),
        ("headers", ["*: Ä: b"], f"{NAME}'Ä', in '*: Ä: b'"),
        ("headers", ["*: A: ä"], f"{VALUE}'ä', in '*: A: ä'"),
        ("headers", ["*: A: b\r\nC: d"], rf"{VALUE}'b\r\nC: d', in '*: A: b\r\nC: d'"),
        ("headers", ["*: A: b\n"], rf"{VALUE}'b\n', in '*: A: b\n'"),
        ("headers", ["*: A\n: b"], rf"{NAME}'A\n', in '*: A\n: b'"),
        ("headers", ["*: A: \0"], rf"{VALUE}'\x00', in '*: A: \x00'"),
        ("headers", ["*: A: \x7f"], rf"{VALUE}'\x7f', in '*: A: \x7f'"),
        ("headers", ["a[: A: b"], "must close each [ of its pattern, not 'a['; [[] is one itself"),
        ("headers", ["*: ETag: x"], "must not set ETag: the server itself does"),
        ("immutable", ["*.js", ""], "must not have an empty pattern"),
        ("cors", ["a.example"], "must be an origin (https://host), or *, not 'a.example'"),
        ("media_types", ["*.x"], "must be GLOB: TYPE/SUBTYPE, not '*.x'"),
        ("media_types", ["*.x:"], "must be GLOB: TYPE/SUBTYPE, not '*.x:'"),
        ("media_types", ["*.x: text"], "must be GLOB: TYPE/SUBTYPE, not '*.x: text'"),
        ("media_types", ["*.x: text/"], "must be GLOB: TYPE/SUBTYPE, not '*.x: text/'"),
        ("media_types", ["*.x: a/b c"], "must be GLOB: TYPE/SUBTYPE, not '*.x: a/b c'"),
        ("media_types", ["*.x: a/b/c"], "must be GLOB: TYPE/SUBTYPE, not '*.x: a/b/c'"),
        ("media_types", ["*.x: a/b;\n"], r"must be GLOB: TYPE/SUBTYPE, not '*.x: a/b;\n'"),
        ("media_types", ["*.x: a/ä"], "must be GLOB: TYPE/SUBTYPE, not '*.x: a/ä'"),
        *[
            ("charset", bad, f"must be a character encoding such as utf-8, or empty, not {bad!r}")
            for bad in ("utf 8", "utf-8\r", "utf-9", "hex", "rot13", "idna", "unicode_escape")
        ],
        ("fallback", "", f"{PAGE}''"),
        ("fallback", "index.html", f"{PAGE}'index.html'"),
        ("fallback", "http://a/index.html", f"{PAGE}'http://a/index.html'"),
        ("fallback", "/", f"{PAGE}'/'"),
        ("fallback", "/app/", f"{PAGE}'/app/'"),
        ("fallback", "/../index.html", f"{PAGE}'/../index.html'"),
        ("fallback", "/.hidden", f"{PAGE}'/.hidden'"),
        ("fallback", "/a?b", f"{PAGE}'/a?b'"),
        ("fallback", "/a?", f"{PAGE}'/a?'"),
        ("fallback", "/a b", f"{PAGE}'/a b'"),
        ("fallback", "/ä", f"{PAGE}'/ä'"),
        ("fallback", "/%zz", f"{PAGE}'/%zz'"),
        ("error_pages", ["404"], "must be STATUS=/PAGE with a status from 400 to 599, not '404'"),
        ("error_pages", ["404=index.html"], f"{PAGE}'index.html'"),
        ("error_pages", ["404 =/a"], f"{RULE}'404 =/a'"),
        ("error_pages", ["-404=/a"], f"{RULE}'-404=/a'"),
        ("error_pages", ["4\u06604=/a"], f"{RULE}'4\u06604=/a'"),  # a zero, in Arabic
        *[("error_pages", [bad], f"{RULE}{bad!r}") for bad in NO_RULES],
        *[
            ("hidden", [".git", bad], "must have names that begin with a dot, such as .treeinfo, "
             f"not {bad!r}")
            for bad in ("", "git", ".", "..", ".a/b", ".a/", "/.a", ".a\0", "*")
        ],
    ],
)  # fmt: skip
def test_what_cannot_be(setting: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{re.escape(f'{setting} {message}')}\Z"):
        policy(**{setting: value})


OURS: Final = """
    Connection Keep-Alive Proxy-Connection TE Trailer Transfer-Encoding Upgrade Age Date Location
    Accept-Ranges ETag Last-Modified Content-Encoding Content-Length Content-Range Content-Type
"""


@pytest.mark.parametrize("name", OURS.split())
def test_the_server_itself_sets(name: str) -> None:
    for each in (name, name.upper(), name.lower()):
        with pytest.raises(ValueError, match=f"^headers must not set {each}: the server itself"):
            policy(headers=[f"*: {each}: x"])


def test_the_first_problem_is_told_and_its_option() -> None:
    with pytest.raises(ValueError, match=r"^cors must be an origin"):
        policy(headers=["*: A: b"], cors=["*", "x"], fallback="x")


# ---------------------------------------------------------------- fields


@pytest.mark.parametrize(
    ("settings", "path", "expected"),
    [
        ({}, b"a", (NOSNIFF,)),
        ({"headers": ["*: A: b"]}, b"a", (NOSNIFF, (b"A", b"b"))),
        ({"headers": ["*.x: A: b"]}, b"a", (NOSNIFF,)),
        ({"headers": ["*:A:b"]}, b"a", (NOSNIFF, (b"A", b"b"))),
        ({"headers": ["*: A: \t b c:d \t"]}, b"a", (NOSNIFF, (b"A", b"b c:d"))),
        # the last one counts, under its own name, in the place of the first
        ({"headers": ["*: A: b", "*: C: d", "*: a: e"]}, b"a",
         (NOSNIFF, (b"a", b"e"), (b"C", b"d"))),
        ({"headers": ["*: A: b", "*.x: A: c"]}, b"a", (NOSNIFF, (b"A", b"b"))),
        ({"headers": ["*.x: A: c", "*: A: b"]}, b"a.x", (NOSNIFF, (b"A", b"b"))),
        # an empty value takes a field away, and a later rule gives it again
        ({"headers": ["*: A: b", "*: A:"]}, b"a", (NOSNIFF,)),
        ({"headers": ["*: A:"]}, b"a", (NOSNIFF,)),
        ({"headers": ["*: A: b", "*.x: A: \t"]}, b"a.y", (NOSNIFF, (b"A", b"b"))),
        ({"headers": ["*: A:", "*: A: b"]}, b"a", (NOSNIFF, (b"A", b"b"))),
        ({"headers": ["*: x-content-type-options:"]}, b"a", ()),
        # for ever
        ({"immutable": ["hashed"]}, b"x/a.3f2a9c1d.js", (NOSNIFF, FOR_EVER)),
        ({"immutable": ["hashed"]}, b"x/a.js", (NOSNIFF,)),
        ({"immutable": ["hashed"]}, b"hashed", (NOSNIFF,)),
        ({"immutable": ["*.js"]}, b"x/a.js", (NOSNIFF, FOR_EVER)),
        ({"immutable": ["*.js"]}, b"x/a.3f2a9c1d.css", (NOSNIFF,)),
        ({"immutable": ["*.js", "hashed"]}, b"x/a.3f2a9c1d.css", (NOSNIFF, FOR_EVER)),
        ({"immutable": ["*.js", "/x/*"]}, b"x/a.css", (NOSNIFF, FOR_EVER)),
        # whatever the rules say
        ({"immutable": ["*.js"], "headers": ["*: cache-control: no-cache"]}, b"a.js",
         (NOSNIFF, FOR_EVER)),
        ({"immutable": ["*.js"], "headers": ["*: cache-control: no-cache"]}, b"a",
         (NOSNIFF, (b"cache-control", b"no-cache"))),
        ({"immutable": ["*"], "headers": ["*: Cache-Control:"]}, b"a", (NOSNIFF, FOR_EVER)),
    ],
    ids=str,
)  # fmt: skip
def test_fields(settings: dict[str, list[str]], path: bytes, expected: Headers) -> None:
    assert policy(**settings).headers(path) == expected


RULES: Final = st.lists(
    st.tuples(
        st.sampled_from(["*", "*.js", "/a/*", "b.js"]),
        st.sampled_from(["A", "a", "B", "X-Content-Type-Options"]),
        st.text("bc :;,\t", max_size=3),
    ),
    max_size=6,
)


@given(RULES, st.sampled_from([b"b.js", b"a/b.js", b"a/c", b"c"]))
def test_the_last_rule_that_matches_counts(rules: list[tuple[str, str, str]], path: bytes) -> None:
    of_glob = {"*": True, "*.js": path[-3:] == b".js", "/a/*": path[:2] == b"a/"}
    of_glob["b.js"] = path.split(b"/")[-1] == b"b.js"
    found = dict(policy(headers=[f"{glob}: {name}: {value}" for glob, name, value in rules])
                 .headers(path))  # fmt: skip
    for name in ("A", "B"):
        values = [value for glob, each, value in rules if of_glob[glob] and each.upper() == name]
        last = values[-1].strip(" \t").encode() if values else b""
        sent = [value for each, value in found.items() if each.upper() == name.encode()]
        assert sent == ([last] if last else [])


@given(st.text(max_size=8), st.text(max_size=8))
def test_no_rule_can_break_a_head(name: str, value: str) -> None:
    """Whatever is let through has neither a line end nor any other control character."""
    try:
        fields = policy(headers=[f"*: {name}: {value}"]).headers(b"a")
    except ValueError:
        return
    for sent_name, sent_value in fields:
        assert re.fullmatch(rb"[!-~]+", sent_name)
        assert b":" not in sent_name
        assert re.fullmatch(rb"[\t -~]+", sent_value)


# ---------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("settings", "path", "expected"),
    [
        ({}, b"a.html", b"text/html; charset=utf-8"),
        ({"charset": "latin-1"}, b"a.css", b"text/css; charset=latin-1"),
        ({"charset": ""}, b"a.css", b"text/css"),
        ({"charset": "latin-1"}, b"a.json", b"application/json"),
        ({"media_types": ["*.css: a/b"]}, b"x/a.css", b"a/b"),  # as it is: no charset
        ({"media_types": ["*.css: text/x"]}, b"a.css", b"text/x"),
        ({"media_types": ["*.css: a/b;c=d"]}, b"a.css", b"a/b;c=d"),
        ({"media_types": ["*.css: a/b ; c=\"d e\""]}, b"a.css", b'a/b ; c="d e"'),
        ({"media_types": ["*.css: a/b"]}, b"a.html", b"text/html; charset=utf-8"),
        ({"media_types": ["*: a/b", "*.css: c/d", "*.html: e/f"]}, b"a.css", b"c/d"),
        ({"media_types": ["*.css: c/d", "*: a/b"]}, b"a.css", b"a/b"),
    ],
    ids=str,
)  # fmt: skip
def test_types(settings: dict[str, Any], path: bytes, expected: bytes) -> None:
    assert policy(**settings).media_type(path) == expected


# ---------------------------------------------------------------- sidecars and pages


@pytest.mark.parametrize(
    ("codings", "path", "expected"),
    [
        ([], b"a.js", {}),
        (["gzip"], b"a.js", {b"gzip": b"a.js.gz"}),
        (["gzip", "br"], b"x/a.js", {b"gzip": b"x/a.js.gz", b"br": b"x/a.js.br"}),
        (["zstd", "zstd"], b"a", {b"zstd": b"a.zst"}),
        (["br"], b"a.svg", {b"br": b"a.svg.br"}),
        (["br"], b"a.wasm", {b"br": b"a.wasm.br"}),
        *[(["br"], b"a." + kind, {}) for kind in (b"png", b"zip", b"gz", b"br", b"mp4", b"woff2")],
    ],
    ids=str,
)
def test_sidecars(codings: list[str], path: bytes, expected: dict[bytes, bytes]) -> None:
    found = policy(precompressed=codings).sidecars(path)
    assert list(found.items()) == list(expected.items())


def test_every_coding_has_its_suffix() -> None:
    codings = [coding.decode() for coding in SUFFIXES]
    assert policy(precompressed=codings).sidecars(b"a") == {
        b"br": b"a.br",
        b"zstd": b"a.zst",
        b"gzip": b"a.gz",
    }


def test_sidecars_do_not_depend_on_what_a_type_is_called() -> None:
    chosen = policy(precompressed=["br"], media_types=["*.png: text/plain", "*.js: image/png"])
    assert chosen.sidecars(b"a.png") == {}
    assert chosen.sidecars(b"a.js") == {b"br": b"a.js.br"}


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/index.html", b"index.html"),
        ("/a/b", b"a/b"),
        ("/a%20b%ff", b"a b\xff"),
        ("//a/./b/../c", b"a/c"),
        ("/.well-known/a", b".well-known/a"),
    ],
)
def test_pages(target: str, path: bytes) -> None:
    chosen = policy(fallback=target, error_pages=[f"404={target}", f"599={target}"])
    assert chosen.fallback == path
    assert chosen.error_pages == {404: path, 599: path}


def test_the_last_error_page_counts() -> None:
    assert policy(error_pages=["404=/a", "400=/c", "404=/b=d"]).error_pages == {
        404: b"b=d",
        400: b"c",
    }


def test_the_defaults_are_plain() -> None:
    chosen = Policy()
    assert (chosen.fallback, chosen.error_pages, chosen.lists_directories) == (None, {}, False)
    assert chosen.sidecars(b"a.js") == {}
    assert Policy(listing=True).lists_directories


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", b"max-age=0"),
        ("0300", b"max-age=300"),
        ("300;includesubdomains", b"max-age=300; includeSubDomains"),
        (
            " 31536000 ; preload;  INCLUDESUBDOMAINS",
            b"max-age=31536000; preload; includeSubDomains",
        ),
    ],
)
def test_hsts(text: str, value: bytes) -> None:
    """RFC 6797 6.1: the names of directives are in any case."""
    assert policy(hsts=text).hsts == ((b"Strict-Transport-Security", value),)
    assert policy().hsts == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, r"hsts must be SECONDS\[; includeSubDomains\]\[; preload\], not ")
            for text in (
                *("", "-1", "1.5", "a year", "1; a", "1;", "1; preload=1", "12345678901"),
                *("1; includeSubDomains; includesubdomains", "max-age=1", "1\r\nX: y", "\u0661"),
            )
        ),
        ("300; includeSubDomains; preload", "hsts must be at least 31536000; includeSubDomains"),
        ("31536000; preload", "hsts must be at least 31536000; includeSubDomains with preload"),
    ],
)
def test_hsts_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        policy(hsts=text)


def test_hsts_and_a_rule_for_the_same_field() -> None:
    rule = "*: strict-transport-security: max-age=1"
    assert policy(headers=[rule])
    with pytest.raises(ValueError, match=r"^hsts must not be given beside a header rule"):
        policy(headers=[rule], hsts="1")
