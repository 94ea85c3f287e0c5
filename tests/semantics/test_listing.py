"""How a directory is shown: its order, HTML that no name can break, JSON."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any, Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.listing import (
    CONTENT_SECURITY_POLICY,
    HTML,
    JSON,
    Entry,
    View,
)

DAY: Final = 86_400
HOST: Final = "http://host.example"


def file(name: bytes, size: int = 0, mtime: int = 0) -> Entry:
    return Entry(name, False, size, mtime)


def folder(name: bytes, size: int = 0, mtime: int = 0) -> Entry:
    return Entry(name, True, size, mtime)


# ---------------------------------------------------------------- a document, taken apart


class Row(NamedTuple):
    """A line of the table, but for its icon."""

    href: str
    text: str
    size: str
    title: str | None
    date: str
    datetime: str | None


class Document(HTMLParser):
    """What a browser finds in it: its elements, and the text right behind each tag."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.others: list[str] = []
        self._is_behind_a_tag = False
        self.feed(content.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute that is given twice"
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        self._is_behind_a_tag = True

    def handle_endtag(self, tag: str) -> None:
        self._is_behind_a_tag = False

    def handle_data(self, data: str) -> None:
        if self._is_behind_a_tag:
            self.texts[-1] += data

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    @property
    def shape(self) -> list[tuple[str, dict[str, str | None]]]:
        """All but what the links lead to: what no name may change."""
        return [
            (
                tag,
                {name: value for name, value in attributes.items() if name != "href" or tag != "a"},
            )
            for tag, attributes in self.elements
        ]

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """The attributes of each of these elements, and the text right behind its tag."""
        return [
            (attributes, text)
            for (name, attributes), text in zip(self.elements, self.texts, strict=True)
            if name == tag
        ]

    @property
    def links(self) -> list[tuple[str, str]]:
        """What each link leads to and says."""
        found = []
        for number, (tag, attributes) in enumerate(self.elements):
            if tag == "a":
                inner = self.elements[number + 1 : number + 2]
                text = self.texts[number]
                if inner and inner[0][0] == "bdi":
                    text += self.texts[number + 1]
                found.append((attributes["href"] or "", text))
        return found

    @property
    def rows(self) -> list[Row]:
        """The lines of the table, without its head and the way up: each ends with a time."""
        found = []
        for end, (tag, attributes) in enumerate(self.elements):
            if tag == "time":
                tags, (*_, link, _, size, _, _) = zip(
                    *self.elements[end - 8 : end + 1], strict=True
                )
                assert " ".join(tags) == "tr td svg use a bdi td td time"
                *_, name, size_text, _, date = self.texts[end - 8 : end + 1]
                found.append(
                    Row(
                        link["href"] or "",
                        name,
                        size_text,
                        size.get("title"),
                        date,
                        attributes["datetime"],
                    )
                )
        return found


def render(view: View, *entries: Entry, path: bytes = b"", is_cut: bool = False) -> bytes:
    return b"".join(view.render(path, list(entries), is_cut))


def document(
    *entries: Entry, path: bytes = b"", view: View | None = None, **more: bool
) -> Document:
    return Document(render(view or View(), *entries, path=path, **more))


def only_row(entry: Entry) -> Row:
    (row,) = document(entry).rows
    return row


# ---------------------------------------------------------------- what a request asks for


@pytest.mark.parametrize(
    ("query", "sort", "order"),
    [
        (None, "name", "asc"),
        (b"", "name", "asc"),
        (b"sort=size", "size", "asc"),
        (b"sort=time&order=desc", "time", "desc"),
        (b"order=desc&sort=name", "name", "desc"),
        (b"sort=%73ize", "size", "asc"),
        (b"sort=size&sort=time", "time", "asc"),  # the last one
        (b"sort=size&sort=", "size", "asc"),
        (b"sort=size&sort=x", "name", "asc"),
        (b"sort=SIZE", "name", "asc"),
        (b"sort=kind", "name", "asc"),
        (b"sort=size ", "name", "asc"),
        (b"sort=size;order=desc", "name", "asc"),
        (b"order=down", "name", "asc"),
        (b"order", "name", "asc"),
        (b"sort", "name", "asc"),
        (b"=&&==&sort=size&?", "size", "asc"),
        (b"a=b&order=desc#sort", "name", "asc"),
        (b"sort=%ff&order=desc&\xff=\xff", "name", "desc"),
        (b"sort=size%00", "name", "asc"),
        (b"view=json", "name", "asc"),
    ],
    ids=repr,
)
def test_views(query: bytes | None, sort: str, order: str) -> None:
    assert View.select(query, prefers_json=False) == View("html", sort, order)
    assert View.select(query, prefers_json=True) == View("json", sort, order)


@given(st.binary() | st.lists(st.sampled_from([b"sort", b"=", b"&", b"size", b"%"])).map(b"".join))
def test_any_query_is_one_of_few_views(query: bytes) -> None:
    view = View.select(query, prefers_json=False)
    assert view.kind == "html"
    assert view.sort in ("name", "size", "time")
    assert view.order in ("asc", "desc")
    assert View.unpack(view.pack()) == view


def test_64_kib_of_any_query() -> None:
    for unit in (b"&", b"=", b"%", b"sort=size&", b"+", b"%ff"):
        View.select(unit * (65536 // len(unit)), prefers_json=False)


def test_kinds() -> None:
    assert View("html").media_type == HTML == b"text/html; charset=utf-8"
    assert View("json").media_type == JSON == b"application/json"
    assert View.unpack(View("json", "size", "desc").pack()) == View("json", "size", "desc")


# ---------------------------------------------------------------- order

HERE: Final = (
    file(b"b", 5, 30),
    folder(b"z", 1, 10),
    file(b"A", 7, 20),
    folder(b"Y", 2, 20),
    file(b"a", 5, 20),
    file(b"\xc3\x84", 5, 10),
    file(b"B", 1, 30),
)


@pytest.mark.parametrize(
    ("sort", "order", "expected"),
    [
        ("name", "asc", "Y z A a B b Ä"),
        ("name", "desc", "z Y Ä b B a A"),
        ("size", "asc", "Y z B a b Ä A"),
        ("size", "desc", "z Y A Ä b a B"),
        ("time", "asc", "z Y Ä A a B b"),
        ("time", "desc", "Y z b B a A Ä"),
    ],
)
def test_order(sort: str, order: str, expected: str) -> None:
    arranged = View("html", sort, order).arranged(HERE)
    assert " ".join(entry.name.decode() for entry in arranged) == expected


ENTRIES: Final = st.lists(
    st.builds(
        Entry,
        st.text("abAB", min_size=1, max_size=2).map(str.encode),
        st.booleans(),
        st.integers(0, 3),
        st.integers(-2, 2),
    ),
    unique_by=lambda entry: entry.name,
)


@given(ENTRIES, st.sampled_from(["name", "size", "time"]), st.randoms())
def test_the_order_does_not_depend_on_the_disk(
    entries: list[Entry], sort: str, chance: Any
) -> None:
    up, down = View("html", sort, "asc"), View("html", sort, "desc")
    arranged = up.arranged(entries)
    chance.shuffle(entries)
    assert up.arranged(entries) == arranged
    assert sorted(arranged) == sorted(entries)
    folders = [entry for entry in arranged if entry.is_directory]
    files = [entry for entry in arranged if not entry.is_directory]
    assert arranged == folders + files
    assert down.arranged(entries) == folders[::-1] + files[::-1]


# ---------------------------------------------------------------- no name breaks the HTML

ODD: Final = [
    *(
        b"<script>alert(1)</script>",
        b"</bdi></a><img src=x onerror=x>",
        b"<!--",
        b"-->",
        b"<![CDATA[",
    ),
    *(b'" onclick="x', b"' onclick='x", b"&lt;", b"&amp", b"&#60;", b"&", b"]]>", b"</table>"),
    *(b"<", b">", b'"', b"'", b"`", b"=", b"</title><script>", b"<plaintext>", b"<?x"),
    *(b"javascript:x", b"data:text/html,x", b"\\\\host", b"..;", b"...", b"a:b", b"http:"),
    *(b"?a", b"#", b"#a", b"%", b"%2e%2e", b"%2f", b"%00", b";", b"+", b"~", b"a b", b" ", b"  "),
    *(b"\n", b"\r\n", b"\t", b"\x01", b"\x1b[31m", b"\x7f", b"\xff", b"\xc3", b"\xed\xa0\x80"),
    *(b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\xc2\x85", b"\xef\xbf\xbd", "ä€😀".encode(), b"a" * 255),
]
NAMES: Final = (
    (st.sampled_from(ODD) | st.binary(min_size=1) | st.lists(st.sampled_from(ODD)).map(b"".join))
    .map(lambda name: name.replace(b"/", b"").replace(b"\0", b""))
    .filter(lambda name: name not in (b"", b".", b".."))
)
ANY: Final = st.lists(st.builds(Entry, NAMES, st.booleans(), st.just(5), st.just(0)), max_size=4)


def shown(name: bytes) -> str:
    """A name for people, who see all that is in it, and see it in its order."""
    return "".join(map(visible, name.decode("utf-8", "replace")))


def visible(character: str) -> str:
    if character < " ":
        return chr(0x2400 + ord(character))
    if character == "\x7f":
        return "\N{SYMBOL FOR DELETE}"
    is_odd = re.fullmatch("[\x80-\x9f\u2028-\u202e\u2066-\u2069]", character)
    return "\N{REPLACEMENT CHARACTER}" if is_odd else character


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("\x01\t\n\x1f", "\u2401\u2409\u240a\u241f"),
        (" ~\x7f", " ~\u2421"),
        ("\x80\x9f\xa0", "\ufffd\ufffd\xa0"),
        ("\u2027\u2028\u2029\u202a\u202e\u202f", "\u2027\ufffd\ufffd\ufffd\ufffd\u202f"),
        ("\u2065\u2066\u2069\u206a", "\u2065\ufffd\ufffd\u206a"),
        ("photo\u202egpj.exe", "photo\ufffdgpj.exe"),
    ],
    ids=ascii,
)
def test_names_are_seen_as_they_are(name: str, expected: str) -> None:
    assert only_row(file(name.encode())).text == shown(name.encode()) == expected


@given(ANY, st.lists(NAMES, max_size=3))
def test_no_name_is_markup(entries: list[Entry], parents: list[bytes]) -> None:
    """No element, attribute or comment appears that harmless names would not have."""
    harmless = [entry._replace(name=b"x") for entry in entries]
    found = document(*entries, path=b"/".join(parents))
    assert found.shape == document(*harmless, path=b"/".join(b"x" for _ in parents)).shape
    assert found.others == []
    assert [row.text for row in found.rows] == [
        shown(entry.name) + "/" * entry.is_directory for entry in entries
    ]
    ((_, title),) = found.all("title")
    assert title == "Index of " + "".join(f"/{shown(parent)}" for parent in parents) + "/"


@given(st.lists(NAMES, min_size=1, max_size=2), st.lists(NAMES, max_size=2))
def test_a_prefix_is_seen_and_no_link(prefix: list[bytes], parents: list[bytes]) -> None:
    """Its folder is the topmost that can be left for: above it may be anything."""
    path = b"/".join(parents)
    view = View.select(None, False, b"/".join(prefix))
    assert View.unpack(view.pack()) == view
    found, plain = document(path=path, view=view), document(path=path)
    assert [href for href, _ in found.all("a")] == [href for href, _ in plain.all("a")]
    ((_, title),) = found.all("title")
    assert title == "Index of " + "".join(f"/{shown(name)}" for name in prefix + parents) + "/"
    (_, first), *_ = found.all("bdi")
    assert first == "/".join(map(shown, prefix))
    json = View.select(None, True, b"/".join(prefix))
    assert render(json, path=path) == render(View("json"), path=path)


@given(ANY, st.lists(NAMES, max_size=3))
def test_every_link_leads_to_its_name(entries: list[Entry], parents: list[bytes]) -> None:
    """As a browser resolves it against the directory's own URL, byte for byte."""
    here = b"".join(parent + b"/" for parent in parents)
    found = document(*entries, path=here[:-1])
    for entry, row in zip(entries, found.rows, strict=True):
        target = urlsplit(urljoin(f"{HOST}/{quote_from_bytes(here)}", row.href))
        assert (target.scheme, target.netloc) == ("http", "host.example")
        assert (target.query, target.fragment) == ("", "")
        assert unquote_to_bytes(target.path) == b"/" + here + entry.name + b"/" * entry.is_directory
        assert re.fullmatch(r"[A-Za-z0-9%._~-]+/?", row.href)


@given(st.lists(NAMES, max_size=4))
def test_every_parent_has_its_link(parents: list[bytes]) -> None:
    """Also where the server is below a prefix of somebody else's."""
    path = b"/".join(parents)
    for prefix in ("/", "/prefix/deep/"):
        base = HOST + prefix + quote_from_bytes(path) + "/" * bool(path) + "?sort=size"
        links = document(path=path).links
        crumbs, rest = links[: len(parents) + 1], links[len(parents) + 1 :]
        assert [text for _, text in crumbs] == ["/", *map(shown, parents)]
        for depth, (href, _) in enumerate(crumbs):
            above = "".join(f"{quote_from_bytes(parent)}/" for parent in parents[:depth])
            assert urljoin(base, href) == HOST + prefix + above
        ups = [href for href, text in rest if text == ".."]
        assert len(ups) == bool(parents)
        for href in ups:
            above = "".join(f"{quote_from_bytes(parent)}/" for parent in parents[:-1])
            assert urljoin(base, href) == HOST + prefix + above


def test_nothing_runs_and_nothing_is_fetched() -> None:
    found = document(*(make(name, 1, DAY) for name in ODD for make in (file, folder)), path=b"a/b")
    ((_, style),) = found.all("style")
    assert not re.search(r"url|@import|expression|[<\\]", style)
    allowed = {"a", "bdi", "h1", "html", "i", "main", "meta", "p", "path", "style", "svg", "symbol"}
    allowed |= {"table", "tbody", "td", "th", "thead", "time", "title", "tr", "use"}
    assert {tag for tag, _ in found.elements} == allowed
    ids = {attributes["id"] for _, attributes in found.elements if "id" in attributes}
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not {"src", "srcset", "action", "xlink:href", "http-equiv"} & set(attributes)
        href = attributes.get("href")
        if href is not None and tag != "a":
            assert (tag, href[0], href[1:] in ids) == ("use", "#", True)
        elif href is not None:
            assert not urlsplit(href).scheme
            assert not href.startswith(("/", "\\"))


def test_the_content_security_policy_lets_the_style_in_and_nothing_else() -> None:
    ((_, style),) = document().all("style")
    digest = b64encode(sha256(style.encode()).digest())
    directives = dict(each.split(None, 1) for each in CONTENT_SECURITY_POLICY.split(b"; "))
    assert directives == {
        b"default-src": b"'none'",
        b"style-src": b"'sha256-" + digest + b"'",
        b"base-uri": b"'none'",
        b"form-action": b"'none'",
        b"frame-ancestors": b"'none'",
    }


def test_a_whole_document() -> None:
    """The frame, which the other tests take for granted."""
    text = render(View(), folder(b"sub"), file(b"a.txt", 1234, DAY), path=b"x").decode()
    assert text.startswith('<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n')
    assert text.endswith(
        '<tr class="d"><td><svg><use href="#d"/></svg><a href="../">..</a><td><td>\n'
        '<tr class="d"><td><svg><use href="#d"/></svg><a href="sub/"><bdi>sub/</bdi></a>'
        '<td><td><time datetime="1970-01-01T00:00:00Z">1970-01-01 00:00</time>\n'
        '<tr><td><svg><use href="#f"/></svg><a href="a.txt"><bdi>a.txt</bdi></a>'
        '<td title="1234 bytes">1.2 KB'
        '<td><time datetime="1970-01-02T00:00:00Z">1970-01-02 00:00</time>\n'
        "</tbody>\n</table>\n</main>\n</html>\n"
    )


# ---------------------------------------------------------------- the columns


@pytest.mark.parametrize(
    ("view", "hrefs", "sorted_by"),
    [
        (View(), ["name desc", "size asc", "time asc"], ("Name \N{UPWARDS ARROW}", "ascending")),
        (View("html", "name", "desc"), ["name asc", "size asc", "time asc"],
         ("Name \N{DOWNWARDS ARROW}", "descending")),
        (View("html", "size"), ["name asc", "size desc", "time asc"],
         ("Size \N{UPWARDS ARROW}", "ascending")),
        (View("html", "time", "desc"), ["name asc", "size asc", "time asc"],
         ("Modified (UTC) \N{DOWNWARDS ARROW}", "descending")),
    ],
)  # fmt: skip
def test_the_heads_of_the_columns_sort(
    view: View, hrefs: list[str], sorted_by: tuple[str, str]
) -> None:
    found = document(view=view)
    links = [(href, text) for href, text in found.links if href.startswith("?")]
    asked = [View.select(href[1:].encode(), prefers_json=False) for href, _ in links]
    assert [f"{each.sort} {each.order}" for each in asked] == hrefs
    states = [attributes.get("aria-sort") for attributes, _ in found.all("th")]
    ((text, state),) = [
        (text, state) for (_, text), state in zip(links, states, strict=True) if state
    ]
    assert (text, state) == sorted_by


@pytest.mark.parametrize(
    ("entries", "is_cut", "expected"),
    [
        ([], False, "0 folders, 0 files, 0 B"),
        ([folder(b"a", 4096)], False, "1 folder, 0 files, 0 B"),
        ([folder(b"a"), folder(b"b"), file(b"c", 600)], False, "2 folders, 1 file, 600 B"),
        ([file(b"c", 600), file(b"d", 400)], True,
         "0 folders, 2 files, 1.0 KB; there are more, which are not shown"),
        ([file(b"c", 1)] * 1234, False, "0 folders, 1,234 files, 1.2 KB"),
    ],
    ids=["nothing", "a folder", "some", "too many", "many"],
)  # fmt: skip
def test_the_summary(entries: list[Entry], is_cut: bool, expected: str) -> None:
    ((_, text),) = document(*entries, is_cut=is_cut).all("p")
    assert text == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (1049, "1.0 KB"),
        (1051, "1.1 KB"),
        (99_949, "99.9 KB"),
        (99_950, "100 KB"),
        (100_499, "100 KB"),
        (100_501, "101 KB"),
        (999_499, "999 KB"),
        (999_500, "1.0 MB"),
        (10**6, "1.0 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.0 GB"),
        (15 * 10**11, "1.5 TB"),
        (15 * 10**14, "1.5 PB"),
        (999_499 * 10**12, "999 PB"),
        (999_500 * 10**12, "1.0 EB"),
        (2**63 - 1, "9.2 EB"),  # the largest file that there can be
    ],
)
def test_sizes(size: int, expected: str) -> None:
    row = only_row(file(b"x", size))
    assert (row.size, row.title) == (expected, f"{size} bytes")


UNITS: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15, "EB": 10**18}


@given(st.integers(1000, 2**63 - 1) | st.integers(4, 18).map(lambda digits: 10**digits - 1))
def test_a_size_has_two_or_three_digits_and_is_right(size: int) -> None:
    number, unit = only_row(file(b"x", size)).size.split()
    assert re.fullmatch(r"[1-9][0-9]?\.[0-9]|[1-9][0-9][0-9]", number)
    step = 0.1 if "." in number else 1.0
    assert abs(float(number) - size / UNITS[unit]) <= step * 0.500001


def test_many_files_with_holes_in_them() -> None:
    """tmpfs and XFS have files of 8 EiB that take no room."""
    document(*[file(b"x", 2**63 - 1)] * 109)


@pytest.mark.parametrize(
    ("mtime", "expected"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (1_700_000_059, "2023-11-14T22:14:19Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (-62_135_596_800, "0001-01-01T00:00:00Z"),
        (-62_135_596_801, "0001-01-01T00:00:00Z"),  # the nearest that can be said
        (253_402_300_799, "9999-12-31T23:59:59Z"),
        (253_402_300_800, "9999-12-31T23:59:59Z"),
        (-(2**63), "0001-01-01T00:00:00Z"),
        (2**63 - 1, "9999-12-31T23:59:59Z"),
    ],
)
def test_dates(mtime: int, expected: str) -> None:
    row = only_row(file(b"x", 0, mtime))
    assert (row.datetime, row.date) == (expected, f"{expected[:10]} {expected[11:16]}")
    (found,) = json.loads(render(View("json"), folder(b"x", 0, mtime)))
    assert found["mtime"] == expected


# ---------------------------------------------------------------- JSON


def test_json() -> None:
    entries = (folder(b"a b", 4096, 0), file("ä".encode(), 5, DAY), file(b"\xff", 0, -1))
    assert json.loads(render(View("json"), *entries, path=b"x")) == [
        {"name": "a b", "href": "a%20b/", "type": "directory", "size": None,
         "mtime": "1970-01-01T00:00:00Z"},
        {"name": "ä", "href": "%C3%A4", "type": "file", "size": 5,
         "mtime": "1970-01-02T00:00:00Z"},
        {"name": "\N{REPLACEMENT CHARACTER}", "href": "%FF", "type": "file", "size": 0,
         "mtime": "1969-12-31T23:59:59Z"},
    ]  # fmt: skip
    assert json.loads(render(View("json"))) == []


@given(ANY)
def test_json_says_what_html_says(entries: list[Entry]) -> None:
    found = json.loads(render(View("json"), *entries))
    assert [each["href"] for each in found] == [row.href for row in document(*entries).rows]
    assert [each["name"] for each in found] == [
        entry.name.decode("utf-8", "replace") for entry in entries
    ]


@pytest.mark.parametrize("kind", ["html", "json"])
def test_it_is_made_piece_by_piece(kind: str) -> None:
    """No piece is of more than one entry: a large directory is never in memory as a whole."""
    pieces = list(View(kind).render(b"", [file(b"x")] * 1000, False))
    assert len(pieces) >= 1000
    assert max(map(len, pieces[1:])) < 300
