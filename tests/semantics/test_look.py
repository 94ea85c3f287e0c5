"""What all pages of the server's own share: a frame, a policy, and texts from anybody."""

import re
from base64 import b64encode
from hashlib import sha256
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.look import CLOSING, Look, shown


@pytest.mark.parametrize("rules", ["", "td{color:red}\n"])
@pytest.mark.parametrize(("has_forms", "action"), [(False, b"'none'"), (True, b"'self'")])
def test_the_policy_lets_the_style_in_and_nothing_else(
    rules: str, has_forms: bool, action: bytes
) -> None:
    look = Look(rules, has_forms=has_forms)
    (style,) = re.findall(r"<style>(.*?)</style>", look.opening("a"), re.DOTALL)
    assert style.endswith(rules)
    assert not re.search(r"url|@import|expression|[<\\]", style)
    digest = b64encode(sha256(style.encode()).digest())
    directives = dict(each.split(None, 1) for each in look.content_security_policy.split(b"; "))
    assert directives == {
        b"default-src": b"'none'",
        b"style-src": b"'sha256-" + digest + b"'",
        b"base-uri": b"'none'",
        b"form-action": action,
        b"frame-ancestors": b"'none'",
    }


def test_the_frame() -> None:
    page = Look().opening("a title") + CLOSING
    assert page.startswith('<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n')
    assert "<title>a title</title>" in page
    assert page.endswith("<main>\n</main>\n</html>\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a b  c", "a b  c"),
        (b"", ""),
        (b"<a href='x'>&", "&lt;a href=&#x27;x&#x27;&gt;&amp;"),
        (b"\x01\t\n\x1f\x7f", "\u2401\u2409\u240a\u241f\u2421"),
        (b"\xff", "\ufffd"),
        ("\x80\x9f\u2028\u202e\u2066".encode(), "\ufffd" * 5),
        (b" a", "\u2423a"),
        (b"a b  ", "a b\u2423\u2423"),
        ("\xa0\u3000".encode(), "\u2423\u2423"),
        (b" \t ", "\u2423\u2409\u2423"),
    ],
    ids=ascii,
)
def test_a_text_is_seen_as_it_is(text: bytes, expected: str) -> None:
    assert shown(text) == expected


@given(st.binary() | st.text().map(str.encode))
def test_any_text_is_seen_and_is_no_markup(text: bytes) -> None:
    html = shown(text)
    assert not set(html) & set("<>\"'")
    visible = unescape(html)
    assert len(visible) == len(text.decode("utf-8", "replace"))
    assert visible == visible.strip()
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", visible)
