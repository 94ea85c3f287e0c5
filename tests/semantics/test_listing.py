"""How a directory is shown: its order, HTML that no name can break, JSON."""

import gzip
import json
import re
from base64 import b64encode
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from itertools import accumulate
from typing import Any, Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlencode, urljoin, urlsplit

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
from trio_amped.semantics.look import shown

DAY: Final = 86_400
HOST: Final = "http://host.example"
POLICY: Final = CONTENT_SECURITY_POLICY.decode()


def file(name: bytes, size: int = 0, mtime: int = 0) -> Entry:
    return Entry(name, False, size, mtime)


def folder(name: bytes, size: int = 0, mtime: int = 0) -> Entry:
    return Entry(name, True, size, mtime)


# ---------------------------------------------------------------- a document, taken apart


class Row(NamedTuple):
    """A line of the table."""

    href: str
    text: str
    size: str
    title: str | None
    date: str
    datetime: str | None
    kind: str | None


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
        """All but what the links lead to, and of which kind a name is: what no name may change."""
        return [
            (
                tag,
                {
                    name: value
                    for name, value in attributes.items()
                    if (tag, name) not in (("a", "href"), ("tr", "class"))
                },
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
                tags, (row, _, link, _, size, _, _) = zip(
                    *self.elements[end - 6 : end + 1], strict=True
                )
                assert " ".join(tags) == "tr td a bdi td td time"
                _, _, _, name, size_text, _, date = self.texts[end - 6 : end + 1]
                found.append(
                    Row(
                        link["href"] or "",
                        name,
                        size_text,
                        size.get("title"),
                        date,
                        attributes["datetime"],
                        row.get("class"),
                    )
                )
        return found

    @property
    def presses(self) -> list[tuple[str, str]]:
        """What each button asks for, as a browser resolves it, and the text right behind it.

        Those who only follow links do not see them.
        """
        found, fields = [], list[tuple[str, str]]()
        for number, (tag, attributes) in enumerate(self.elements):
            value = attributes.get("value") or ""
            if tag == "form":
                assert not {"action", "method"} & set(attributes)
                fields = []
            elif tag == "input":
                fields.append((attributes["name"] or "", value))
            elif tag == "button":
                own = [] if "form" in attributes else list(fields)
                own += [(attributes["name"] or "", value)] if "name" in attributes else []
                text = self.texts[number]
                if self.elements[number + 1 : number + 2] == [("bdi", {})]:
                    text += self.texts[number + 1]
                found.append((f"{attributes.get('formaction') or ''}?{urlencode(own)}", text))
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
    assert View.select(query, False, gzip=True) == View("html", sort, order, coding="gzip")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"filter=a", "a"),
        (b"filter=a%20b+c", "a b c"),
        (b"filter=%C3%A4%ff%00", "\xe4\ufffd\0"),
        (b"filter=" + b"a" * 300, "a" * 255),
        (b"filter=", ""),
        (b"filter", ""),
        (b"FILTER=a", ""),
    ],
    ids=["a", "blanks", "bytes", "too long", "empty", "no value", "capitals"],
)
def test_filters(query: bytes, expected: str) -> None:
    view = View.select(query, prefers_json=False)
    assert view == View(filter=expected)
    assert b"\0" not in view.pack()
    assert View.unpack(view.pack()) == view
    assert view.is_plain == (not expected)


@pytest.mark.parametrize(
    ("wanted", "name", "expected"),
    [
        ("", b"a", True),
        ("b", b"abc", True),
        ("B", b"abc", True),
        ("b", b"aBc", True),
        ("\xc4", "\xe4".encode(), True),
        ("d", b"abc", False),
        ("*", b"abc", False),
        ("*", b"a*", True),
        ("\ufffd", b"\xff", True),
    ],
)
def test_what_a_filter_leaves(wanted: str, name: bytes, expected: bool) -> None:
    assert View(filter=wanted).hides(name) != expected


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


@pytest.mark.parametrize(
    "names",
    [
        "img1 img2 img10 img10a img11 img100",
        "1 2 3.9 3.10 10 10.1",
        "a a-1 a.txt a0 A1 a1b a9b a10 a_ b",
        "a1b2 a1b10 a2b1 a10b1",
        "0 00 000 001 01 1 002 2",
        f"a2 a{'1' * 199} a{'0' * 50}{'2' * 199} a{'1' * 200}",
    ],
    ids=lambda names: names[:10],
)
def test_numbers_are_ordered_by_their_value(names: str) -> None:
    entries = [file(name.encode()) for name in names.split()]
    for kind in ("html", "json"):
        assert View(kind).arranged(reversed(entries)) == entries
        assert View(kind, order="desc").arranged(entries) == entries[::-1]


@given(st.lists(st.text("01289ab-.\xb2\u0664", min_size=1), min_size=2, max_size=2, unique=True))
def test_the_natural_order(names: list[str]) -> None:
    """Each number is one character, where 0 would be, and the larger ones are behind."""

    def place(name: str) -> list[tuple[int, int]]:
        parts = re.findall("[0-9]+|.", name.casefold())
        return [(0x30, int(part)) if part[0] in "0123456789" else (ord(part), 0) for part in parts]

    first, second = names
    if place(first) < place(second):
        found = View().arranged([file(second.encode()), file(first.encode())])
        assert [entry.name.decode() for entry in found] == names


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


@pytest.mark.parametrize("name", ODD, ids=repr)
def test_names_are_seen_as_they_are(name: bytes) -> None:
    row = only_row(file(name))
    assert row.text == unescape(shown(name))
    assert row.text.strip()


@given(st.text(min_size=1))
def test_no_filter_is_markup(text: str) -> None:
    plain, found = document(view=View(filter="x")), document(view=View(filter=text))
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    assert found.others == []
    ((_, summary),) = found.all("p")
    assert summary == f"No names with “{unescape(shown(text.encode()))}” here"


@given(ANY, st.lists(NAMES, max_size=3))
def test_no_name_is_markup(entries: list[Entry], parents: list[bytes]) -> None:
    """No element, attribute or comment appears that harmless names would not have."""
    harmless = [entry._replace(name=b"x") for entry in entries]
    found = document(*entries, path=b"/".join(parents))
    assert found.shape == document(*harmless, path=b"/".join(b"x" for _ in parents)).shape
    assert found.others == []
    assert [row.text for row in found.rows] == [
        unescape(shown(entry.name)) + "/" * entry.is_directory for entry in entries
    ]
    ((_, title),) = found.all("title")
    assert title == f"Index of {path_shown(parents)}"


def path_shown(names: list[bytes]) -> str:
    return unescape(shown(b"".join(b"/" + name for name in names) + b"/"))


@given(st.lists(NAMES, min_size=1, max_size=2), st.lists(NAMES, max_size=2))
def test_a_prefix_is_seen_and_no_link(prefix: list[bytes], parents: list[bytes]) -> None:
    """Its folder is the topmost that can be left for: above it may be anything."""
    path = b"/".join(parents)
    view = View.select(None, False, b"/".join(prefix))
    assert View.unpack(view.pack()) == view
    found, plain = document(path=path, view=view), document(path=path)
    assert [href for href, _ in found.links] == [href for href, _ in plain.links]
    assert [asks for asks, _ in found.presses] == [asks for asks, _ in plain.presses]
    ((_, title),) = found.all("title")
    assert title == f"Index of {path_shown(prefix + parents)}"
    (_, first), *_ = found.all("bdi")
    assert first == f"/{unescape(shown(b'/'.join(prefix)))}/"
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
def test_every_parent_has_its_button(parents: list[bytes]) -> None:
    """Also where the server is below a prefix of somebody else's."""
    path = b"/".join(parents)
    for prefix in ("/", "/prefix/deep/"):
        base = HOST + prefix + quote_from_bytes(path) + "/" * bool(path) + "?sort=size"
        presses = document(path=path).presses
        above = list(accumulate((f"{quote_from_bytes(each)}/" for each in parents), initial=""))
        assert [urljoin(base, asks) for asks, _ in presses] == [
            HOST + prefix + each for each in above[:-1]
        ]
        names = ["/", *(unescape(shown(each)) for each in parents)]
        assert [text for _, text in presses] == names[:-1]
        (here,) = document(path=path).all("bdi")[-1:]
        assert here == ({}, names[-1])


@given(ANY, st.lists(NAMES, max_size=3), st.sampled_from(["", "x"]))
def test_links_are_the_names_and_the_way_up(
    entries: list[Entry], parents: list[bytes], wanted: str
) -> None:
    """Programs take each link for a file or a folder: none leads here, or further up."""
    found = document(*entries, path=b"/".join(parents), view=View(filter=wanted))
    up = [("../", "Parent folder")] if parents else []
    assert found.links == up + [(row.href, row.text) for row in found.rows]
    assert not {"action", "src", "data", "cite", "ping"} & {
        name for _, attributes in found.elements for name in attributes
    }


def test_nothing_runs_and_nothing_is_fetched() -> None:
    found = document(*(make(name, 1, DAY) for name in ODD for make in (file, folder)), path=b"a/b")
    ((_, style),) = found.all("style")
    assert not re.search(r"url|@import|expression|[<\\]", style)
    allowed = {"a", "bdi", "button", "form", "h1", "html", "i", "input", "main", "meta", "p"}
    allowed |= {"style", "table", "tbody", "td", "th", "thead", "time", "title", "tr"}
    assert {tag for tag, _ in found.elements} == allowed
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not {"src", "srcset", "action", "xlink:href", "http-equiv"} & set(attributes)
        href = attributes.get("href")
        assert href is None or tag == "a"
        for target in filter(None, (href, attributes.get("formaction"))):
            assert not urlsplit(target).scheme
            assert not target.startswith(("/", "\\"))


def test_the_content_security_policy_lets_the_style_and_the_forms_in() -> None:
    ((_, style),) = document().all("style")
    assert f"'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'" in POLICY
    assert "form-action 'self'" in POLICY


def test_a_whole_document() -> None:
    """The frame, which the other tests take for granted."""
    text = render(View(), folder(b"sub"), file(b"a.txt", 1234, DAY), path=b"x").decode()
    assert text.startswith('<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n')
    assert text.endswith(
        '<tr class="u"><td><a href="../">Parent folder</a><td><td>\n'
        '<tr class="d"><td><a href="sub/"><bdi>sub/</bdi></a>'
        '<td><td><time datetime="1970-01-01T00:00:00Z">1970-01-01 00:00</time>\n'
        '<tr class="t"><td><a href="a.txt"><bdi>a.txt</bdi></a>'
        '<td title="1,234 bytes">1.2 KB'
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
    found = document(folder(b"x"), view=view)
    links = found.presses
    asked = [View.select(href[1:].encode(), prefers_json=False) for href, _ in links]
    assert [f"{each.sort} {each.order}" for each in asked] == hrefs
    states = [attributes.get("aria-sort") for attributes, _ in found.all("th")]
    ((text, state),) = [
        (text, state) for (_, text), state in zip(links, states, strict=True) if state
    ]
    assert (text, state) == sorted_by


MANY: Final = [file(b"%d" % number) for number in range(1001)]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_beyond_1000_names_there_is_a_filter(order: str) -> None:
    """It keeps the order, as the order keeps it."""
    view = View("html", "size", order)
    assert not [1 for _, text in document(*MANY[:1000], view=view).presses if text == "Filter"]
    found = document(*MANY, view=view)
    ((asks, _),) = [press for press in found.presses if press[1] == "Filter"]
    kept = "sort=size" + "&order=desc" * (order == "desc")
    assert asks == f"?{kept}&filter="
    assert View.select(asks[1:].encode(), False) == view
    assert len(found.rows) == 1001


@given(st.text(min_size=1, max_size=255).filter(lambda text: "\r" not in text))
def test_what_is_filtered_can_be_sorted_and_shown_whole(text: str) -> None:
    view = View(filter=text)
    found = document(file(b"x"), view=view)
    asked = {text: View.select(asks[1:].encode(), False) for asks, text in found.presses}
    assert asked["Filter"] == view
    assert asked["Show all"] == View()
    assert asked["Size"] == view._replace(sort="size")
    assert asked["Name \N{UPWARDS ARROW}"] == view._replace(order="desc")


@pytest.mark.parametrize(
    ("entries", "more", "expected"),
    [
        ([], {}, "This folder is empty"),
        ([], {"path": b"x"}, "This folder is empty"),
        ([], {"view": View(filter="<b> ")}, "No names with \u201c<b>\u2423\u201d here"),
        ([folder(b"a", 4096)], {}, "1 folder"),
        ([folder(b"a"), folder(b"b"), file(b"c", 600)], {}, "2 folders, 1 file, 600 B"),
        ([file(b"c", 600), file(b"d", 400)], {"is_cut": True},
         "2 files, 1.0 KB; there are more, which are not shown"),
        ([file(b"c", 1)] * 1234, {}, "1,234 files, 1.2 KB"),
        ([file(b"c", 0)], {"view": View(filter="c")}, "1 file, 0 B with \u201cc\u201d"),
    ],
    ids=["nothing", "nothing below", "none left", "a folder", "some", "too many", "many", "left"],
)  # fmt: skip
def test_the_summary(entries: list[Entry], more: dict[str, Any], expected: str) -> None:
    found = document(*entries, **more)
    ((_, text),) = found.all("p")
    assert text == expected
    assert bool(found.all("th")) == bool(entries), "there is nothing to sort"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"x", None), (b"x.unknown", None), (b"x.woff2", None), (b".png", None),
        (b"x.PNG", "i"), (b"x.svg", "i"), (b"x.webm", "v"), (b"x.flac", "a"), (b"x.txt", "t"),
        (b"x.py", "t"), (b"x.json", "t"), (b"x.geojson", "t"), (b"x.yml", "t"), (b"x.pdf", "p"),
        (b"x.docx", "p"), (b"x.odt", "p"), (b"x.epub", "p"), (b"x.tar", "z"), (b"x.tar.gz", "z"),
        (b"x.deb", "z"), (b"x.7z", "z"), (b"x.iso", "z"),
    ],
)  # fmt: skip
def test_each_kind_has_its_icon(name: bytes, kind: str | None) -> None:
    assert only_row(file(name)).kind == kind
    assert only_row(folder(name)).kind == "d"
    ((_, style),) = document().all("style")
    box = f".{kind}" if kind else "tr"
    assert len(re.findall(re.escape(f"{box} td:first-child::before{{background:#"), style)) == 2


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
    assert (row.size, row.title) == (expected, "1 byte" if size == 1 else f"{size:,} bytes")


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


def test_json_says_that_it_was_cut() -> None:
    """In its last entry, so that it stays a list, and its other entries what they are."""
    whole = json.loads(render(View("json"), file(b"a"), file(b"b")))
    cut = json.loads(render(View("json"), file(b"a"), file(b"b"), is_cut=True))
    assert [each.get("more") for each in whole] == [None, None]
    assert cut == [whole[0], whole[1] | {"more": True}]


@given(ANY, st.sampled_from(["html", "json"]))
def test_gzip_is_the_same_and_has_no_date(entries: list[Entry], kind: str) -> None:
    coded = render(View(kind, coding="gzip"), *entries)
    assert gzip.decompress(coded) == render(View(kind), *entries)
    assert coded[4:8] == bytes(4)  # RFC 1952 2.3.1: no time stamp is available


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
