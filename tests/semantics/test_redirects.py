"""Redirects that were written down: what they match, where they lead, and which are odd."""

import re
from typing import Final
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.errors import HttpError
from trio_amped.semantics.redirects import Redirects
from trio_amped.semantics.target import parse_target

FROM: Final = "must be from a path as in a URL, such as /old or /old/*, not "
TO: Final = "must be to a path or a URL, such as /new or https://host/, not "
END: Final = "must have /:splat at the end of its path, or nothing such, not "


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("", "must be 'FROM TO [STATUS]', not ''"),
        ("/a", "must be 'FROM TO [STATUS]', not '/a'"),
        ("/a /b 301 x", "must be 'FROM TO [STATUS]', not '/a /b 301 x'"),
        ("/a /b 200", "must have a status of 301, 302, 303, 307, 308, not '200'"),
        ("/a /b 301!", "must have a status of 301, 302, 303, 307, 308, not '301!'"),
        ("a /b", FROM + "'a'"),
        ("/a*b /b", FROM + "'/a*b'"),
        ("/a* /b", FROM + "'/a*'"),
        ("/*/a /b", FROM + "'/*/a'"),
        ("/a?b /b", FROM + "'/a?b'"),
        ("/a#b /b", FROM + "'/a#b'"),
        ("/:year/* /b", FROM + "'/:year/*'"),
        ("/.git /b", FROM + "'/.git'"),
        ("/é /b", FROM + "'/é'"),
        ("http://a/b /b", FROM + "'http://a/b'"),
        ("/a b", TO + "'b'"),
        ("/a //b", TO + "'//b'"),
        ("/a /\\b", TO + "'/\\\\b'"),
        ("/a /é", TO + "'/é'"),
        ("/a ftp://b/", TO + "'ftp://b/'"),
        ("/a https:///b", TO + "'https:///b'"),
        ("/a https://u@b/", TO + "'https://u@b/'"),
        ("/a https://b?c", TO + "'https://b?c'"),
        ("/a https://b//c", TO + "'https://b//c'"),
        ("/a/* https://b:splat", TO + "'https://b:splat'"),
        ("/a/* https://:splat/", TO + "'https://:splat/'"),
        ("/a/* https://b.:splat/c", TO + "'https://b.:splat/c'"),
        ("/a /b/:splat", "must be from a path that ends in /* where it is to '/b/:splat'"),
        ("/a/* /b/:splat/c", END + "'/b/:splat/c'"),
        ("/a/* /b:splat", END + "'/b:splat'"),
        ("/a/* /b/:splat.html", END + "'/b/:splat.html'"),
        ("/a/* /b/:slug", END + "'/b/:slug'"),
        ("/a /../b", "must not be to '/../b': target leads above the root"),
        ("/a /%zz", "must not be to '/%zz': target with a malformed escape"),
    ],
)
def test_what_is_none(rule: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        Redirects([rule])


ODD: Final = [
    ([], []),
    (["/a /b", "/b /c"], []),
    (["/a /a"], []),  # it never counts
    (["/* /maintenance 302"], []),
    (["/a /b", "/b /a"], ["'/a /b' leads round and round", "'/b /a' leads round and round"]),
    (["/a/* /a/b/:splat"], ["'/a/* /a/b/:splat' leads round and round"]),
    (["/a/* /b/:splat", "/b/* /c/:splat"], []),
    (["/a /x", "/x /y", "/y /x"], [
        "'/x /y' leads round and round", "'/y /x' leads round and round"]),
    (["/a https://b/", "/b/* https://b/a/:splat"], []),
    (["/a /b", "/a/ /c"], ["'/a/ /c' is never reached: '/a /b' stands before it"]),
    (["/a/* /b", "/a /c"], ["'/a /c' is never reached: '/a/* /b' stands before it"]),
    (["/a/* /b", "/a/b/* /c"], ["'/a/b/* /c' is never reached: '/a/* /b' stands before it"]),
    (["/* /b", "/a /c"], ["'/a /c' is never reached: '/* /b' stands before it"]),
    (["/a /b", "/a/* /c", "/ab /c"], []),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "odd"), ODD)
def test_what_is_odd(rules: list[str], odd: list[str]) -> None:
    assert list(Redirects(rules).oddities()) == [f"redirect {line}" for line in odd]


RULES: Final = Redirects(
    ["/a /x", "/a/b/* /y/:splat", "/a/* https://h.example/z/:splat?:splat", "/* /all"]
)


@given(
    st.text(st.sampled_from("ab/\\.%:0dAn?#&@\r\n\té"), max_size=12).map(str.encode),
    st.sampled_from(["/a/b/", "/a/", "/"]),
)
def test_what_a_client_writes_is_no_host_and_no_field(text: bytes, start: str) -> None:
    try:
        target = parse_target(start.encode() + text)
    except HttpError:
        return
    redirect = RULES.get(target)
    if redirect is None:
        assert target == parse_target(b"/all")._replace(query=target.query)
        return
    location = redirect.location(target)
    assert re.fullmatch(rb"[!-~]+", location)
    assert location.startswith((b"https://h.example/z/", b"./", b"../"))
    parts = urlsplit(location)
    assert parts.netloc in (b"", b"h.example")
    assert b"\\" not in parts.path


def test_many_rules_cost_no_more_than_one() -> None:
    """However many there are, and however deep a target is."""
    rules = Redirects([f"/{number}/* /b" for number in range(1000)])
    assert len(list(rules._numbers(b"7/" + b"x/" * 200 + b"x"))) == 1
    found = rules.get(parse_target(b"/7" + b"/x" * 200))
    assert found is not None
    assert found.rule == "/7/* /b"
