"""What a request target names."""

import re
import sys
from urllib.parse import quote_from_bytes, unquote_to_bytes, urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.errors import HttpError
from trio_amped.semantics.target import Target, is_host, parse_target, read_target


def test_escapes_are_decoded_by_few_calls() -> None:
    """Or 2600 of them, which a target has room for, would hold the event loop."""
    calls = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        parsed = parse_target(b"/" + b"%61" * 2600)
    finally:
        sys.setprofile(None)
    assert parsed.path == b"a" * 2600
    assert calls < 50


def outcome(target: bytes) -> Target | int:
    """What is named, or the status of the error."""
    try:
        return parse_target(target)
    except HttpError as error:
        return error.status


@pytest.mark.parametrize(
    ("target", "path", "is_directory", "query"),
    [
        (b"/", b"", True, None),
        (b"/a", b"a", False, None),
        (b"/a/", b"a", True, None),
        (b"/a/b.html", b"a/b.html", False, None),
        (b"/a?x=1", b"a", False, b"x=1"),
        (b"/a?", b"a", False, b""),
        (b"/a?b?c/../%zz", b"a", False, b"b?c/../%zz"),
        (b"/?/", b"", True, b"/"),
        (b"/a%20b", b"a b", False, None),
        (b"/%41", b"A", False, None),
        (b"/%e2%82%AC", b"\xe2\x82\xac", False, None),
        (b"/%ff", b"\xff", False, None),
        (b"/%2541", b"%41", False, None),  # decoded once
        (b"/a%3fb", b"a?b", False, None),
        (b"/a%23b", b"a#b", False, None),
        (b"/a+b", b"a+b", False, None),
        (b"/a%0ab", b"a\nb", False, None),
        (b"/a;v=1", b"a;v=1", False, None),
        (b"/a\\b", b"a\\b", False, None),
        (b"//a", b"a", False, None),
        (b"//a//b//", b"a/b", True, None),
        (b"///", b"", True, None),
        (b"/.", b"", True, None),
        (b"/a/.", b"a", True, None),
        (b"/a/..", b"", True, None),
        (b"/a/b/..", b"a", True, None),
        (b"/./a", b"a", False, None),
        (b"/a/../b", b"b", False, None),
        (b"/a/%2e%2E/b", b"b", False, None),
        (b"/a/%2e", b"a", True, None),
        (b"/a//../b", b"b", False, None),  # empty segments are merged first
        (b"/a..", b"a..", False, None),
        (b"/a.b/c.", b"a.b/c.", False, None),
        (b"/.git/../a", b"a", False, None),  # names nothing hidden
        (b"/a%2fb/../c", b"c", False, None),
        (b"/.well-known", b".well-known", False, None),
        (b"/.well-known/acme/x", b".well-known/acme/x", False, None),
        (b"/a/../.well-known/x", b".well-known/x", False, None),
        (b"/%2ewell-known/x", b".well-known/x", False, None),
        (b"http://a/b", b"b", False, None),
        (b"HTTPS://a/b?c", b"b", False, b"c"),
        (b"http://a", b"", True, None),
        (b"http://a?b", b"", True, b"b"),
        (b"http://a:80/", b"", True, None),
        (b"http://[::1]:80/b/", b"b", True, None),
        (b"/http://a/b", b"http:/a/b", False, None),
    ],
    ids=repr,
)
def test_what_is_named(target: bytes, path: bytes, is_directory: bool, query: bytes | None) -> None:
    assert parse_target(target) == Target(path, is_directory, query)


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"*",
        b"a",
        b"a/b",
        b"example.com:443",
        b"ftp://a/b",
        b"http:/a",
        b"http:a",
        b"http://",
        b"http:///a",
        b"http://?a",
        b"http://user@a/b",
        b"http://a b/",
        b"http://[::1/",
        b"http://a:b/",
        b"/a#b",
        b"/a?b#c",
        b"/a b",
        b"/a\tb",
        b"/a\x7f",
        b"/a\x00",
        b"/a\n",
        b"/\xc3\xa9",
        b"/a?\xff",
        b"/%",
        b"/%4",
        b"/%zz",
        b"/%4g",
        b"/a%/b",
        b"/%%41",
        b"/%00",
        b"/a%00b",
        b"/a%00/../b",
        b"/..",
        b"/../a",
        b"/a/../..",
        b"/a/../../a",
        b"/%2e%2e/a",
        b"/.%2e/a",
        b"//..",
        b"/./..",
        b"/.git/../..",
    ],
    ids=repr,
)
def test_malformed(target: bytes) -> None:
    assert outcome(target) == 400


@pytest.mark.parametrize(
    "target",
    [
        b"/.git",
        b"/.git/config",
        b"/a/.htaccess",
        b"/%2ehtaccess",
        b"/...",
        b"/.well-known/.a",
        b"/.well-known/a/.b",
        b"/a/.well-known/b",
        b"/.well-known/.well-known",
        b"/.WELL-KNOWN/a",
        b"/.well-knowns",
        b"/a%2fb",
        b"/a%2F",
        b"/%2f",
        b"/%2fetc/passwd",
        b"/a%2f..%2fb",
        b"/..%2fa",
        b"/.well-known/a%2fb",
        b"/.well-known%2fa",
    ],
    ids=repr,
)
def test_names_no_file(target: bytes) -> None:
    assert outcome(target) == 404


@pytest.mark.parametrize(
    ("target", "shown", "refusal"),
    [
        (b"/.zarray", [b".zarray"], None),
        (b"/a/.zarray", [b".zarray"], None),
        (b"/.zarray/", [b".zarray"], None),
        (b"/.zarray/a", [b".zarray"], None),
        (b"/%2ezarra%79", [b".zarray"], None),
        (b"/.well-known/.zarray", [b".zarray"], None),
        (b"/.a/.b", [b".a", b".b"], None),
        (b"/a/.well-known/b", [b".well-known"], None),
        (b"/a.zarray", [], None),
        (b"/.zarray", [], "hidden name"),
        (b"/.zarray", [b".ZARRAY", b".zarra", b"zarray"], "hidden name"),
        (b"/.zarray2", [b".zarray"], "hidden name"),
        (b"/.a/.b", [b".a"], "hidden name"),
        (b"/.a/.b", [b".b"], "hidden name"),
        (b"/...", [b".zarray"], "hidden name"),
        (b"/.zarray%2fb", [b".zarray"], "slash within a name"),
        (b"/.zarray%2f.b", [b".zarray", b".b", b".zarray/.b"], "slash within a name"),
    ],
    ids=repr,
)
def test_hidden_names_that_are_served(
    target: bytes, shown: list[bytes], refusal: str | None
) -> None:
    assert read_target(target).refusal(frozenset(shown)) == refusal


@pytest.mark.parametrize("bad", [b"%zz", b"%00", b"../../..", b"#"], ids=repr)
@pytest.mark.parametrize("hidden", [b"/.git/", b"/a%2fb/"], ids=repr)
def test_400_outranks_404(hidden: bytes, bad: bytes) -> None:
    assert outcome(hidden + bad) == 400


@pytest.mark.parametrize(
    ("target", "index", "file_path"),
    [
        (b"/", b"index.html", b"index.html"),
        (b"/a/", b"index.html", b"a/index.html"),
        (b"/a/..", b"index.html", b"index.html"),
        (b"/a", b"index.html", b"a"),
        (b"/a/", b"index.htm", b"a/index.htm"),
    ],
    ids=repr,
)
def test_file_path(target: bytes, index: bytes, file_path: bytes) -> None:
    assert parse_target(target).file_path(index) == file_path


def test_index_html_is_the_default_index() -> None:
    assert parse_target(b"/a/").file_path() == b"a/index.html"


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (b"/a", b"a/"),
        (b"/a/b", b"b/"),
        (b"/a?b=c", b"a/?b=c"),
        (b"/a?", b"a/?"),
        (b"/a?//b/c", b"a/?//b/c"),
        (b"//a", b"a/"),
        (b"//evil.example/a", b"a/"),
        (b"//evil.example", b"evil.example/"),
        (b"/\\evil.example", b"%5Cevil.example/"),
        (b"/%5c%5cevil.example", b"%5C%5Cevil.example/"),
        (b"/javascript:alert", b"javascript%3Aalert/"),
        (b"/.well-known", b".well-known/"),
        (b"/a%20b%0d%0aX:y", b"a%20b%0D%0AX%3Ay/"),
        (b"/a%3fb?c", b"a%3Fb/?c"),
        (b"/%ff", b"%FF/"),
        (b"http://a/b", b"b/"),
    ],
    ids=repr,
)
def test_slash_location(target: bytes, location: bytes) -> None:
    assert parse_target(target).slash_location() == location


@pytest.mark.parametrize(
    "value",
    [
        b"a",
        b"example.com",
        b"example.com.",
        b"EXAMPLE.com:8080",
        b"a:",
        b"a_b",
        b"127.0.0.1:1",
        b"%41",
        b"[::1]",
        b"[::1]:80",
        b"[2001:DB8::1.2.3.4]",
        b"[v1.a:b]",
    ],
    ids=repr,
)
def test_hosts(value: bytes) -> None:
    assert is_host(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b":80",
        b"a b",
        b"a:b",
        b"a:80:80",
        b"a/b",
        b"a@b",
        b"a?",
        b"a#",
        b"a,b:c",
        b"%4",
        b"\xff",
        b"a\n",
        b"[]",
        b"[::1",
        b"::1",
        b"[:::1]",
        b"[1::2::3]",
        b"[::1%25eth0]",
        b"[g::]",
        b"[v.a]",
        b"[v1.]",
        b"<script>",
    ],
    ids=repr,
)
def test_no_hosts(value: bytes) -> None:
    assert not is_host(value)


SEGMENTS = [b"a", b"", b".", b"..", b"%2e", b"%2E%2e", b".git", b"%2f", b"%00", b"%", b"~%41"]
SEGMENTS += [b".well-known", b"..%2f..", b"\\", b"%c0%ae%c0%ae", b"?", b"a:b@c"]
TARGETS = st.lists(st.sampled_from(SEGMENTS), max_size=8).map(lambda s: b"/" + b"/".join(s))


@given(TARGETS | st.binary().map(lambda raw: b"/" + raw) | st.binary())
def test_a_target_never_leaves_the_root(target: bytes) -> None:
    named = outcome(target)
    if isinstance(named, int):
        assert named in (400, 404)
        return
    segments = named.path.split(b"/") if named.path else []
    assert b"\0" not in named.path
    assert not {b"", b".", b".."} & set(segments)
    assert not any(s.startswith(b".") for s in segments[1:])
    assert not named.path.startswith(b".") or segments[0] == b".well-known"
    assert named.path or named.is_directory


@given(TARGETS, st.frozensets(st.sampled_from([b".a", b".b", b".well-known", b"..."])))
def test_a_site_shows_the_hidden_names_that_it_names(
    target: bytes, shown: frozenset[bytes]
) -> None:
    if outcome(target) == 400:
        return
    found = read_target(target)
    names = found.path.split(b"/")
    hidden = {name for name in names if name[:1] == b"."}
    if names[0] == b".well-known":
        hidden = {name for name in names[1:] if name[:1] == b"."}
    assert (found.refusal(shown) == "hidden name") == (found.is_file_path and not hidden <= shown)


@given(TARGETS)
def test_normalising_agrees_with_a_naive_stack(target: bytes) -> None:
    path = target.partition(b"?")[0]
    stack: list[bytes] = []
    above = False
    for segment in map(unquote_to_bytes, filter(None, path.split(b"/"))):
        if segment == b"..":
            above = above or not stack
            stack = stack[:-1]
        elif segment != b".":
            stack = [*stack, segment]
    malformed = re.search(rb"%(?![0-9a-fA-F]{2})|%00", path) or above
    hidden = [s for i, s in enumerate(stack) if s[:1] == b"." and (i or s != b".well-known")]
    if malformed:
        assert outcome(target) == 400
    elif hidden or any(b"/" in segment for segment in stack):
        assert outcome(target) == 404
    else:
        assert parse_target(target).path == b"/".join(stack)


NAMES = st.binary(min_size=1).filter(lambda n: not re.search(rb"[/\0]|^\.", n))


@given(st.lists(NAMES, min_size=1), st.sampled_from([b"", b"?", b"?a=/b//c"]))
def test_names_survive_the_round_trip(names: list[bytes], query: bytes) -> None:
    path = b"/".join(names)
    target = b"/" + quote_from_bytes(path).encode()
    assert parse_target(target).path == path
    location = parse_target(target + query).slash_location()
    assert re.fullmatch(rb"[A-Za-z0-9%_.~-]+/(\?[!-~]*)?", location)
    resolved = target.rpartition(b"/")[0] + b"/" + location
    assert urljoin(b"http://host" + target, location.rstrip(b"?")).endswith(resolved.rstrip(b"?"))
    assert parse_target(resolved) == Target(path, True, query[1:] if query else None)


@given(TARGETS, st.sampled_from([b"a", b"a:80", b"[::1]"]))
def test_absolute_form_names_the_same(target: bytes, authority: bytes) -> None:
    assert outcome(b"http://" + authority + target) == outcome(target)


@pytest.mark.parametrize(
    "unit", [b"/", b"a", b"%41", b"a/../", b"./", b"/a", b"[", b"%", b"h"], ids=repr
)
def test_64_kib_of_anything(unit: bytes) -> None:
    tail = unit * (65536 // len(unit))
    for start in (b"/", b"http://", b"http://a/", b""):
        named = outcome(start + tail)
        assert isinstance(named, Target) or named in (400, 404)
    is_host(tail)
