"""Which site a request is for: its host, then the longest prefix that its path begins with."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.routing import Place, Routes, longest
from trio_amped.semantics.target import Target, host_name, read_target, target_host

SITES: Sequence[tuple[Sequence[str], str]] = [
    ((), "/"),
    ((), "/static/"),
    ((), "/static/deep"),
    (("a.example", "[::1]"), "/"),
    (("a.example",), "/b%20c/"),
    (("B.example",), "/only/"),
]


def found(host: str, path: str) -> int | None:
    place = longest(Routes(SITES).at_host(host.encode()), read_target(path.encode()))
    return None if place is None else place.number


@pytest.mark.parametrize(
    ("host", "path", "number"),
    [
        ("other", "/", 0),
        ("", "/a", 0),
        ("other", "/static", 1),
        ("other", "/static/", 1),
        ("other", "/static/a/b?q=/static/deep", 1),
        ("other", "//static/./x/../a", 1),
        ("other", "/%73tatic/a", 1),
        ("other", "/statica", 0),
        ("other", "/STATIC/a", 0),
        ("other", "/static/../a", 0),
        ("other", "/static/deep", 2),
        ("other", "/static/deep/a", 2),
        ("other", "/static/deeper", 1),
        ("a.example", "/static/a", 3),
        ("A.Example:8000", "/", 3),
        ("a.example:", "/", 3),
        ("[::1]:80", "/a", 3),
        ("[::2]:80", "/a", 0),
        ("a.example", "/b%20c/d", 4),
        ("a.example", "/b c".replace(" ", "%20"), 4),
        ("a.example.", "/", 3),
        ("a.example..", "/", 0),
        ("x.a.example", "/", 0),
        ("b.example", "/only/a", 5),
        ("b.example", "/", None),
    ],
)
def test_a_request_is_for_one_site(host: str, path: str, number: int | None) -> None:
    assert found(host, path) == number


def test_a_host_that_is_none_of_ours() -> None:
    routes = Routes([(("a.example",), "/")])
    assert not routes.at_host(b"b.example")
    assert not routes.at_host(b"")
    assert routes.at_host(b"a.example:1") == [Place(0, b"")]


WILD: Sequence[tuple[Sequence[str], str]] = [
    (("*.a.example", "a.example"), "/"),
    (("b.a.example",), "/"),
    (("*.b.a.example",), "/b/"),
]


@pytest.mark.parametrize("anywhere", [True, False])
@pytest.mark.parametrize(
    ("host", "number"),
    [
        ("a.example", 0),
        ("x.a.example", 0),
        ("X-1_y.A.example.:8000", 0),
        ("b.a.example", 1),
        ("x.b.a.example", 2),
        ("y.x.a.example", 3),
        (".a.example", 3),
        ("*.a.example", 3),
        ("x;y.a.example", 3),
        ("x%2Fy.a.example", 3),
        ("example", 3),
        ("xa.example", 3),
        ("", 3),
    ],
)
def test_a_wildcard_is_one_label(host: str, number: int, anywhere: bool) -> None:
    """As in certificates; the name itself stands before a wildcard for it."""
    routes = Routes([*WILD, ((), "/")] if anywhere else WILD)
    places = [place.number for place in routes.at_host(host.encode())]
    assert places == ([] if number == 3 and not anywhere else [number])
    assert routes.names(host_name(host.encode())) == (number < 3)


def test_what_another_listener_serves_is_nowhere() -> None:
    """It is not for the site of all other hosts."""
    sites = [(("a",), "/"), (("*.a",), "/"), (("b",), "/"), ((), "/")]
    routes = Routes(sites, served=[2, 3])
    for host, numbers in {"a": [], "x.a": [], "b": [2], "c": [3]}.items():
        assert [place.number for place in routes.at_host(host.encode())] == numbers
        assert routes.names(host.encode()) == (host == "b")
    assert not Routes([((), "/")], served=[]).at_host(b"a")


def test_two_sites_at_one_place_of_two_listeners() -> None:
    sites = [(("a",), "/"), (("a",), "/")]
    for number in (0, 1):
        assert Routes(sites, served=[number]).at_host(b"a") == [Place(number, b"")]
    with pytest.raises(ValueError, match="prefix must not be that of two sites: a/"):
        Routes(sites, served=[0, 1])


def test_the_host_makes_no_difference_where_none_is_named() -> None:
    routes = Routes([((), "/a"), ((), "/b/")])
    assert not routes.asks_host
    assert routes.at_host(b"x") == [Place(0, b"a"), Place(1, b"b")]
    assert Routes(SITES).asks_host
    assert Routes([(("a",), "/")]).asks_host
    assert Routes([(("a", "A"), "/")]).at_host(b"a") == [Place(0, b"")], "said twice"


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ([((), "static/")], "prefix must be the path of a folder, as in a URL, not 'static/'"),
        ([((), "")], "prefix must be the path of a folder"),
        ([((), "/a?b")], "prefix must be the path of a folder"),
        ([((), "/../a")], "prefix must be the path of a folder"),
        ([((), "/.git")], "prefix must be the path of a folder"),
        ([((), "/%zz")], "prefix must be the path of a folder"),
        ([((), "/\xe9")], "prefix must be the path of a folder"),
        ([((), "http://h/a")], "prefix must be the path of a folder"),
        ([(("a:80",), "/")], "hosts must be names or addresses, without a port"),
        *(
            ([((host,), "/")], "hosts must be names or addresses, .* a wildcard is the whole first")
            for host in ("*", "*.", "*a.b", "a.*", "a.*.b", "*.*.b", "*.a:80", "**.a")
        ),
        ([(("",), "/")], "hosts must be names"),
        ([(("a b",), "/")], "hosts must be names"),
        ([((), "/a"), ((), "/a/")], "prefix must not be that of two sites: /a/"),
        ([(("h", "i"), "/"), (("I",), "//")], "prefix must not be that of two sites: i//"),
    ],
)
def test_what_cannot_be(sites: Sequence[tuple[Sequence[str], str]], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("?", r"\?")):
        Routes(sites)


@pytest.mark.parametrize(
    ("path", "prefix", "below"),
    [
        ("/a/b", b"", Target(b"a/b", False, None)),
        ("/a/b", b"a", Target(b"b", False, None)),
        ("/a/b/?q", b"a/b", Target(b"", True, b"q")),
        ("/a/b?q", b"a/b", Target(b"", False, b"q")),
        ("/ab", b"a", None),
        ("/", b"a", None),
        ("/a/.b", b"a", Target(b".b", False, None, hidden=frozenset({b".b"}))),
        ("/a%2Fb", b"a", Target(b"b", False, None, is_file_path=False)),
        ("/.well-known/a", b"", Target(b".well-known/a", False, None)),
        (
            "/a/.well-known/b",
            b"a",
            Target(b".well-known/b", False, None, hidden=frozenset({b".well-known"})),
        ),
    ],
)
def test_a_target_below_a_prefix(path: str, prefix: bytes, below: Target | None) -> None:
    assert read_target(path.encode()).below(prefix) == below


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"a", b"a"),
        (b"A.b:80", b"a.b"),
        (b"a:", b"a"),
        (b"[::1]", b"[::1]"),
        (b"[::A]:8", b"[::a]"),
        (b"", b""),
        (b"1.2.3.4:5", b"1.2.3.4"),
        (b"A.b.:80", b"a.b"),
        (b"a.", b"a"),
        (b"a..", b"a."),
        (b".", b""),
    ],
)
def test_the_name_of_a_host(value: bytes, name: bytes) -> None:
    assert host_name(value) == name


@pytest.mark.parametrize(
    ("target", "host"),
    [(b"/a", None), (b"*", None), (b"http://h:1/a", b"h:1"), (b"HTTPS://h", b"h"), (b"h:1", None)],
)
def test_the_host_of_a_target(target: bytes, host: bytes | None) -> None:
    assert target_host(target) == host


SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=4)


@given(st.lists(SEGMENTS, unique_by=tuple, min_size=1, max_size=6), SEGMENTS)
def test_it_is_what_a_naive_reader_finds(prefixes: list[list[str]], path: list[str]) -> None:
    routes = Routes([((), "/" + "/".join(prefix)) for prefix in prefixes])
    place = longest(routes.at_host(b"h"), read_target(("/" + "/".join(path)).encode()))
    fits = [prefix for prefix in prefixes if path[: len(prefix)] == prefix]
    if place is None:
        assert not fits
    else:
        assert prefixes[place.number] == max(fits, key=len)
