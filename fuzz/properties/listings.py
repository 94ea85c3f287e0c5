"""Listings of directories whose names come from anybody."""

import gzip
import json
import re
import unicodedata
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from hypothesis import strategies as st

from fuzz.target import Target
from trio_amped.semantics.listing import Entry, View
from trio_amped.semantics.target import parse_target

_ELEMENTS: Final = {
    *("html", "meta", "title", "style", "main", "h1", "p", "i", "form", "input", "button"),
    *("table", "thead", "tbody", "tr", "th", "td", "a", "bdi", "time"),
}
_ATTRIBUTES: Final = {
    *("lang", "charset", "name", "content", "class", "id", "role", "type", "value", "maxlength"),
    *("placeholder", "aria-label", "form", "formaction"),
    *("scope", "aria-sort", "href", "title", "datetime"),
}
_TURNING: Final = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


class Page(HTMLParser):
    """What a browser finds in a listing: its links with their texts, what its columns ask for."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[tuple[str, str]] = []
        self.columns: list[dict[str, str]] = []
        self.title = ""
        self._place: list[str] = []
        self._hidden: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in _ELEMENTS, f"a name became <{tag}>"
        found = dict(attributes)
        assert found.keys() <= _ATTRIBUTES, f"a name became an attribute: {attributes}"
        if tag == "a":
            assert "td" in self._place, "a link that is no name"
            self.rows.append((found["href"] or "", ""))
        elif tag in ("input", "button") and "th" in self._place:
            asked = {found["name"] or "": found["value"] or ""}
            if tag == "button":
                self.columns.append(asked | self._hidden)
            self._hidden = self._hidden | asked if tag == "input" else {}
        self._place.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._place and self._place.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "a" in self._place and "td" in self._place:
            href, text = self.rows[-1]
            self.rows[-1] = href, text + data
        elif self._place[-1:] == ["title"]:
            self.title += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a name became a comment: {data}")


def check_listing(path: bytes, entries: list[Entry], view: View) -> None:
    """A listing shows each name once, as text, with a link that leads back to it."""
    arranged = view.arranged(entries)
    _check_order(view, arranged)
    content = b"".join(view.render(path, arranged, is_cut=False))
    page = (gzip.decompress(content) if view.coding else content).decode()
    rows = _rows_of_json(page) if view.kind == "json" else _rows_of_html(view, path, page)
    assert len(rows) == len(entries)
    for entry, (href, text) in zip(arranged, rows, strict=True):
        # A browser that is asked for what stands beside the page: RFC 3986 5.2.
        target = parse_target(b"/" + _escaped(path) + href.encode())
        assert target.path == (path + b"/" + entry.name if path else entry.name)
        assert target.is_directory == entry.is_directory
        assert target.query is None
        name = entry.name.decode("utf-8", "replace")
        if view.kind == "json":
            assert text == name
        else:
            assert text.endswith("/") or not entry.is_directory
            _check_shown(text[: len(text) - entry.is_directory], name)


def _check_shown(text: str, name: str) -> None:
    """What is in a name is seen, in its order."""
    blanks = "".join(character for character in name if unicodedata.category(character) == "Zs")
    start = len(name) - len(name.lstrip(blanks or "\0"))
    end = max(start, len(name.rstrip(blanks or "\0")))
    for place, (shown, character) in enumerate(zip(text, name, strict=True)):
        if not start <= place < end:  # which nobody would see
            assert shown == "\N{OPEN BOX}"
            continue
        assert shown == character or (shown.isprintable() and not character.isprintable())
        assert unicodedata.category(shown) not in ("Cc", "Zl", "Zp")
        assert unicodedata.bidirectional(shown) not in _TURNING


def _escaped(path: bytes) -> bytes:
    return b"".join(b"%%%02X" % byte if byte != 0x2F else b"/" for byte in path) + b"/" * bool(path)


def _rows_of_html(view: View, path: bytes, page: str) -> list[tuple[str, str]]:
    found = Page(page)
    names = [name.decode("utf-8", "replace") for name in (unquote_to_bytes(view.prefix), path)]
    shown = "".join(f"/{name}" for name in names if name) + "/"
    if shown.isprintable():
        assert found.title == f"Index of {shown}"
    if path:
        assert found.rows.pop(0) == ("../", "Parent folder")
    assert len(found.columns) == (3 if found.rows else 0)
    for column, asked in zip(("name", "size", "time"), found.columns, strict=False):
        turns = (view.sort, view.order) == (column, "asc")
        wanted = {"sort": column, "order": "desc" if turns else "asc", "filter": view.filter}
        assert {"order": "asc", "filter": ""} | asked == wanted
    return found.rows


def _rows_of_json(page: str) -> list[tuple[str, str]]:
    rows: list[dict[str, Any]] = json.loads(page)
    return [(row["href"], row["name"]) for row in rows]


def _check_order(view: View, arranged: list[Entry]) -> None:
    """Directories first; then by what was asked for."""
    kinds = [entry.is_directory for entry in arranged]
    assert kinds == sorted(kinds, reverse=True)
    for is_directory in (True, False):
        part = [entry for entry in arranged if entry.is_directory is is_directory]
        keys: list[Any] = [_natural(entry.name) for entry in part]
        if view.sort == "size":
            keys = [0 if is_directory else entry.size for entry in part]
        elif view.sort == "time":
            keys = [entry.mtime for entry in part]
        assert keys == sorted(keys, reverse=view.order == "desc")


def _natural(name: bytes) -> list[tuple[int, int]]:
    """The place of each character, and of each number as a whole, which is where 0 would be."""
    parts = re.findall("(?s)[0-9]+|.", name.decode("utf-8", "replace").casefold())
    return [(ord("0"), int(part)) if "0" <= part[0] <= "9" else (ord(part), 0) for part in parts]


_TOKENS: Final = st.sampled_from(
    [
        *(b"<script>", b"</a>", b"<b ", b"<!--", b"-->", b"&lt;", b"&amp", b"'", b'"', b">"),
        *(
            b"javascript:",
            b"a",
            b"B",
            b"index",
            b"1",
            b"02",
            b"10",
            b"%2F",
            b"%",
            b"?",
            b"#",
            b";",
            b":",
            b" ",
        ),
        *(b"..", b"=", b"\n", b"\r", b"\t", b"\x7f", b"\xff", b"\xc3\xa9"),
        *(b"\xe2\x80\xae", b"\xe2\x80\xa8"),  # right to left; a line separator
    ]
)
_NAMES: Final = (
    st.lists(_TOKENS | st.binary(min_size=1, max_size=3), min_size=1, max_size=5)
    .map(b"".join)
    # Of such names a listing has none: they are no names, or hidden.
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .map(lambda name: b"_" + name if name.startswith(b".") else name)
)
_PATHS: Final = st.lists(_NAMES, max_size=2).map(b"/".join)

TARGETS: Final = (
    Target(
        "listings",
        check_listing,
        {
            "path": _PATHS,
            "entries": st.lists(
                st.builds(
                    Entry,
                    _NAMES,
                    st.booleans(),
                    st.integers(0, 2**63 - 1),
                    st.integers(-(2**63), 2**63 - 1) | st.just(0),
                ),
                max_size=8,
                unique_by=lambda entry: entry.name,
            ),
            "view": st.builds(
                View,
                st.sampled_from(["html", "html", "json"]),
                st.sampled_from(["name", "size", "time"]),
                st.sampled_from(["asc", "desc"]),
                _PATHS.map(quote),
                st.just(""),
                st.sampled_from(["", "gzip"]),
                st.sampled_from(["", "a", "<b>", '"', "&"]),
            ),
        },
    ),
)
