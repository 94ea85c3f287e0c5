"""The patterns by which options name files, and names with a hash in them."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.globs import Glob, has_content_hash, split_rule


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        # without a slash: the last name
        ("*.js", [b"a.js", b"x/y/a.js", b".js", b"x.js/b.js"], [b"a.JS", b"a.js.br", b"a.js/b"]),
        ("a.js", [b"a.js", b"x/a.js"], [b"ba.js", b"a.jsx", b"a.js/b", b"a\njs"]),
        ("*", [b"a", b"x/y", b"a\nb", b"\xff"], []),
        ("?", [b"a", b"x/y", b"\n"], [b"", b"ab"]),
        ("[ab].c", [b"a.c", b"x/b.c"], [b"c.c", b"[ab].c"]),
        ("[!ab].c", [b"c.c"], [b"a.c", b"x/a.c"]),
        ("[[]", [b"["], [b"[["]),
        ("[]]", [b"]"], [b"[]]"]),
        ("[!z-a]", [b"a", b"z"], [b""]),
        ("a+(b)|^$.c", [b"a+(b)|^$.c"], [b"aa(b)|^$.c"]),  # no regular expression
        ("*a*a*a*b", [b"aaab", b"x/aaxab"], [b"aab"]),
        # with one: the whole path
        ("/a.js", [b"a.js"], [b"x/a.js"]),
        ("x/a.js", [b"x/a.js"], [b"a.js", b"y/x/a.js", b"x/y/a.js"]),
        ("/x/*", [b"x/a", b"x/y/a", b"x/"], [b"x", b"y/x/a", b"xx/a"]),
        ("/*/a", [b"x/a", b"x/y/a"], [b"a"]),
        ("x/", [b"x/"], [b"x", b"x/y"]),
        ("/", [b""], [b"a"]),
        ("/*", [b"", b"a", b"x/y"], []),
        # names are bytes
        ("\N{EURO SIGN}*", ["€.txt".encode()], [b"\xac.txt"]),
        ("*\udcff", [b"a\xff", b"\xff"], ["a\xff".encode()]),
    ],
    ids=repr,
)
def test_globs(pattern: str, matches: list[bytes], others: list[bytes]) -> None:
    glob = Glob(pattern)
    assert [path for path in matches if not glob.matches(path)] == []
    assert [path for path in others if glob.matches(path)] == []


PIECES = ["*", "?", "[a-c]", "[!a]", "a", "b", ".", "/", "é"]
PATTERNS = st.lists(st.sampled_from(PIECES), min_size=1)
PATHS = st.lists(st.sampled_from(["a", "b", "c", ".", "/", "é", "\n", "\udc80"]))


@given(PATTERNS.map("".join), PATHS.map("".join))
def test_it_is_fnmatch(pattern: str, path: str) -> None:
    is_whole = "/" in pattern
    whole = "/" + pattern.removeprefix("/") if is_whole else pattern
    name = "/" + path if is_whole else path.rsplit("/", 1)[-1]
    raw, text = (each.encode("utf-8", "surrogateescape") for each in (name, whole))
    expected = fnmatch.fnmatchcase(raw.decode("latin-1"), text.decode("latin-1"))
    assert Glob(pattern).matches(path.encode("utf-8", "surrogateescape")) == expected


def test_an_empty_pattern() -> None:
    with pytest.raises(ValueError, match=r"^must not have an empty pattern$"):
        Glob("")


@pytest.mark.parametrize("pattern", ["[", "a[b", "[]", "[!]", "[!", "[a]["])
def test_a_bracket_that_is_not_closed(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"^must close each \[ of its pattern, not "):
        Glob(pattern)


def test_a_range_without_members() -> None:
    """Nothing could ever match."""
    with pytest.raises(ValueError, match=r"^must have a character in each \[\] of its pattern"):
        Glob("a[z-b]")


def test_long_names_take_no_time() -> None:
    assert not Glob("*a*a*a*a*a*a*a*a*b").matches(b"a" * 255)
    assert not Glob("/" + "*a/" * 20 + "b").matches(b"a/" * 2000)


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        ("*.x: a", b"b.x", "a"),
        ("*.x:a", b"b.x", "a"),
        (" *.x \t:\t a ", b"b.x", "a"),
        ("*.x:", b"b.x", ""),
        ("*.x: a: b", b"b.x", "a: b"),
        ("*.x: \na\n", b"b.x", "\na\n"),  # for others to refuse
        ("a b/c: d", b"a b/c", "d"),
    ],
    ids=repr,
)
def test_rules(rule: str, path: bytes, value: str) -> None:
    glob, found = split_rule(rule, "GLOB: VALUE")
    assert glob.matches(path)
    assert found == value


@pytest.mark.parametrize("rule", ["", "*.x", "*.x a", ":", ": a", " \t: a"], ids=repr)
def test_no_rules(rule: str) -> None:
    with pytest.raises(ValueError, match=r"^must be GLOB: VALUE, not ") as caught:
        split_rule(rule, "GLOB: VALUE")
    assert str(caught.value).endswith(repr(rule))


@pytest.mark.parametrize(
    "name",
    [
        b"app.3f2a9c1d.js",
        b"main.3905c4c8c96c78a2b78f.js",  # webpack, [contenthash]
        b"179.8e1d1d33b6f4e3a3d6d1.chunk.js",
        b"main.8741ee2b.css",  # create-react-app
        b"index.8d8ad9f1.html",  # parcel
        b"1dd3208c-43cf4b8e6ec2ea4d.js",  # next.js
        b"logo_0a1b2c3d.svg",
        b"admin.css-0123456789abcdef0123456789abcdef.css",  # Rails' Sprockets
        b"base.5af66c1b1797.css",  # Django's ManifestStaticFilesStorage
        b"app.3f2a9c1d.js.map",
        b"app.3f2a9c1d.min.js",
        b"app.3f2a9c1d.js.br",
        b"a/b/app.3f2a9c1d.js",
        b".3f2a9c1d.js",
        b"a.1111111a.b",
        b"a.aaaaaaa1.b",
        b"a." + b"0a" * 32 + b".wasm",  # sha256
        b"20261124-3f2a9c1d.json",
    ],
    ids=repr,
)
def test_names_with_a_hash(name: bytes) -> None:
    assert has_content_hash(name)


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"app.js",
        b"3f2a9c1d",
        b"3f2a9c1d.js",  # no separator: it may be a word, or a number
        b"app.3f2a9c1d",  # nothing behind it
        b"app.3f2a9c1d.",
        b"app.3f2a9c1.js",  # seven
        b"app.3f2a9c1d-x.js",
        b"app.3f2a9c1dx.js",
        b"app.x3f2a9c1d.js",
        b"app3f2a9c1d.js",
        b"app~3f2a9c1d.js",
        b"app.3F2A9C1D.js",
        b"app.3f2a9c1d/app.js",  # of a folder
        b"app.3f2a9c1d.js/",
        b"app.3f2a9c1d.js~",  # behind it is more than an extension
        b"app-3f2a9c1d.js copy",
        b"9b2e4f6a-1111-2222-3333-0c1d2e3f4a5b.png",  # a UUID
        b"nightly-20261124a.zip",  # nine: nobody takes so many
        # a date, a number, a word
        b"report-20261124.pdf",
        b"photo_1234567890.jpg",
        b"a.facade.css",
        b"a.defaced.css",
        b"a.effaceeffaced.css",
        # what these bundlers write is not told from words: --immutable '/assets/*' is for it
        b"index-CCL6Ehr3.js",  # vite, rollup: base64url
        b"c2-Bw-FduHx.js",
        b"c6-BUHwUjUc.js",
        b"main-GLWS4FZU.js",  # esbuild: base32
    ],
    ids=repr,
)
def test_names_without_a_hash(name: bytes) -> None:
    assert not has_content_hash(name)


@pytest.mark.parametrize("unit", [b"a", b"1", b".", b"-a", b".a1", b"a1", b".0a", b"_", b"\n"])
def test_64_kib_of_any_name(unit: bytes) -> None:
    for end in (b"", b".js", b".01234567", b"-0123456a"):
        has_content_hash(b"." + unit * (65536 // len(unit)) + end)
