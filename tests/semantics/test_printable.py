"""What is shown of text that anybody may have written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"", ""),
        (b"/a b.txt?q=%0A", "/a b.txt?q=%0A"),
        ("naïve.txt".encode(), "naïve.txt"),
        (b"a\nforged", "a\\nforged"),
        (b"a\r\x1b[2Jb", "a\\r\\x1b[2Jb"),
        (b"\0\x7f\xc2\x9b", "\\x00\\x7f\\x9b"),
        ("x\u202egpj.exe\u2028".encode(), "x\\u202egpj.exe\\u2028"),
        (b"\xff.txt", "\\xff.txt"),
        ("a\udcff\n", "a\\udcff\\n"),
    ],
)
def test_what_is_shown(text: bytes | str, shown: str) -> None:
    assert printable(text) == shown


@given(st.binary() | st.text(st.characters()))
def test_it_is_one_line_that_can_be_written_anywhere(text: bytes | str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")  # no surrogates
    assert printable(shown) == shown
