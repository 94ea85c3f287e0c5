"""Owns how a directory is shown: order, HTML, JSON. Pure; a helper process runs it.

The HTML needs no script, and allows none: names come from anybody. It is read by programs as well
(fsspec, wget -r, rclone, GDAL), for which each link is one more thing to fetch. So its links are
the names and `../` alone: what leads to another order, or further up, are buttons of forms, which
only people press.
"""

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from html import escape
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

from . import icons
from .look import CLOSING, Look, shown

HTML: Final = b"text/html; charset=utf-8"
JSON: Final = b"application/json"
GZIP: Final = b"gzip"
"""The content coding in which a listing can be made (RFC 9110 8.4.1.3)."""

_LEVEL: Final = 4  # of gzip

# Rows are grids of their own, and no part of a table's layout: of 5 000 a browser lays out those
# that are seen, and has the first view in a fifth of the time.
_LOOK: Final = Look(
    """
main{max-width:50rem}
h1 i{color:var(--dim);font-style:normal;font-weight:400;margin:0 .3rem}
button{margin:0;padding:0;border:0;background:none;color:inherit;font:inherit;text-align:inherit;
cursor:pointer}
button:hover{text-decoration:underline}
h1 button{color:var(--link);overflow-wrap:anywhere}
.filter{display:flex;gap:.5rem;margin:0 0 1rem}
.filter input{flex:0 1 20rem;min-width:8rem}
.filter *{padding:.3rem .7rem;border:1px solid var(--line);border-radius:.3rem;
background:var(--over);color:var(--text);font:inherit;white-space:nowrap}
table,thead,tbody{display:block}
tr{display:grid;grid-template-columns:minmax(0,1fr) 6rem 10.5rem;align-items:baseline;
border-bottom:1px solid var(--line)}
thead tr{border-width:2px}
tbody tr{content-visibility:auto;contain-intrinsic-size:auto 2.35rem}
tbody tr:hover{background:var(--over)}
th,td{padding:.4rem .6rem;text-align:left}
th{font-size:.85rem;white-space:nowrap}
th button{color:var(--dim);font-weight:600}th[aria-sort] button{color:var(--text)}
th:nth-child(2),td:nth-child(2){text-align:right}
td:nth-child(n+2){color:var(--dim);font-size:.9rem;white-space:nowrap;
font-variant-numeric:tabular-nums}
td:first-child{position:relative;padding-left:2.35rem;overflow-wrap:anywhere}
td a{display:inline-block;min-width:3rem;white-space:pre-wrap}
"""
    + icons.RULES
    + """
@media(max-width:40rem){main{padding:1rem .5rem 2rem}
thead tr{display:flex}
tbody tr{grid-template-columns:1fr auto;padding:.45rem 0;contain-intrinsic-size:auto 4rem}
td{padding:.1rem .5rem}td:first-child{grid-column:1/3}td:nth-child(n+2){font-size:.8rem}
td:nth-child(2){order:1}td:nth-child(3){padding-left:2.35rem}
tbody td:first-child::before{top:.4rem}}
""",
    has_forms=True,
)
CONTENT_SECURITY_POLICY: Final = _LOOK.content_security_policy

_COLUMNS: Final = (("name", "Name"), ("size", "Size"), ("time", "Modified (UTC)"))
_SORTED: Final = {
    "asc": (' aria-sort="ascending"', " \N{UPWARDS ARROW}"),
    "desc": (' aria-sort="descending"', " \N{DOWNWARDS ARROW}"),
}
_UNITS: Final = ("KB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")  # files may have holes
_MANY: Final = 1000  # names, beyond which a page has a field to filter them
_LONGEST_FILTER: Final = 255  # characters: no name has more (NAME_MAX, limits.h)
_NUMBER: Final = re.compile("0*([0-9]+)")


class Entry(NamedTuple):
    """A name in a directory; `size` in bytes, `mtime` in seconds since 1970."""

    name: bytes
    is_directory: bool
    size: int
    mtime: int


class View(NamedTuple):
    """How a directory is to be shown; `sort` is the name of a column.

    `prefix`: what stands before its path in a URL, quoted, without slashes at its ends. `shown`:
    the names that are shown though they begin with a dot, quoted, with a slash behind each.
    `coding`: GZIP, or empty for none. `filter`: what each name must contain, in small or capital
    letters.
    """

    kind: str = "html"
    sort: str = "name"
    order: str = "asc"
    prefix: str = ""
    shown: str = ""
    coding: str = ""
    filter: str = ""

    @classmethod
    def select(
        cls,
        query: bytes | None,
        prefers_json: bool,
        prefix: bytes = b"",
        shown: Iterable[bytes] = (),
        *,
        gzip: bool = False,
    ) -> Self:
        """Return what a request asks for; what is unknown counts as not said.

        `prefix` is not quoted. `gzip`: whether the client would rather have that coding.
        """
        asked = dict(parse_qsl((query or b"").decode("latin-1")))
        sort, order = asked.get("sort", "name"), asked.get("order", "asc")
        return cls(
            "json" if prefers_json else "html",
            sort if sort in dict(_COLUMNS) else "name",
            order if order == "desc" else "asc",
            quote(prefix),
            "".join(f"{quote(name)}/" for name in sorted(shown)),
            GZIP.decode() if gzip else "",
            asked.get("filter", "")[:_LONGEST_FILTER],
        )

    def pack(self) -> bytes:
        """Write the view for a helper: without a NUL, which ends it there."""
        return " ".join(map(quote, self)).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        return cls(*map(unquote, packed.decode().split(" ")))

    @property
    def is_plain(self) -> bool:
        """Return whether it is the one that is shown where none is asked for."""
        return (self.sort, self.order, self.filter) == ("name", "asc", "")

    @property
    def media_type(self) -> bytes:
        return JSON if self.kind == "json" else HTML

    def hides(self, name: bytes) -> bool:
        """Return whether a name is left out: by its dot (semantics/target.py), or by the filter."""
        if name.startswith(b".") and quote(name) not in self.shown.split("/"):
            return True
        return bool(self.filter) and self.filter.casefold() not in _text(name).casefold()

    def arranged(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return directories first, then by column; equal ones by name."""
        found = sorted(entries, key=lambda entry: entry.name)
        found.sort(key=_natural)  # where that is the same, the order stays
        if self.sort == "size":
            found.sort(key=lambda entry: 0 if entry.is_directory else entry.size)
        elif self.sort == "time":
            found.sort(key=lambda entry: entry.mtime)
        if self.order == "desc":
            found.reverse()
        found.sort(key=lambda entry: not entry.is_directory)
        return found

    def render(self, path: bytes, entries: list[Entry], is_cut: bool) -> Iterator[bytes]:
        """Return the document, piece by piece, in its coding.

        `path` is relative to the root; `is_cut`: not all names.
        """
        if self == NOTHING:
            return iter(())
        text = _json(entries, is_cut) if self.kind == "json" else _html(self, path, entries, is_cut)
        pieces = (piece.encode() for piece in text)
        return _zipped(pieces) if self.coding else pieces


NOTHING: Final = View("nothing")
"""No document: there is a directory that can be read, and that is all that HEAD asks for."""


def _natural(entry: Entry) -> str:
    """Return by what names are ordered for people: without case, and numbers by their value.

    A number becomes 0, which keeps its place among other characters, the count of its digits, and
    these. So a name has one short key, and 200 000 of them fit in a helper's memory.
    """
    name = _text(entry.name).casefold()
    return _NUMBER.sub(lambda number: f"0{chr(len(number[1]))}{number[1]}", name)


def _zipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Return pieces of the same in gzip, without a date: the same names give the same bytes."""
    gzip = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # 16: gzip (zlib.h)
    yield from filter(None, map(gzip.compress, pieces))
    yield gzip.flush()


def _json(entries: list[Entry], is_cut: bool) -> Iterator[str]:
    """Return a list with an object for each name; the last one says `more` if there are more."""
    comma = "[\n"
    for number, entry in enumerate(entries, 1):
        row: dict[str, object] = {
            "name": _text(entry.name),
            "href": _href(entry),
            "type": "directory" if entry.is_directory else "file",
            "size": None if entry.is_directory else entry.size,
            "mtime": _date(entry.mtime),
        }
        if is_cut and number == len(entries):
            row["more"] = True
        yield comma + json.dumps(row, ensure_ascii=False)
        comma = ",\n"
    yield "\n]\n" if entries else "[]\n"


def _html(view: View, path: bytes, entries: list[Entry], is_cut: bool) -> Iterator[str]:
    root = unquote_to_bytes(view.prefix)
    title = shown(b"/".join((b"", *filter(None, (root, path)), b"")))
    has_filter = view.filter or len(entries) > _MANY
    heads = f"<thead><tr>{_column_heads(view)}</tr></thead>\n" if entries else ""
    yield (
        f"{_LOOK.opening(f'Index of {title}')}"
        f'<form id="up"></form>\n<h1>{_breadcrumbs(root, path)}</h1>\n'
        f"<p>{_summary(view, entries, is_cut)}</p>\n{_filter_form(view) if has_filter else ''}"
        f"<table>\n{heads}<tbody>\n"
    )
    if path:
        yield f'<tr class="{icons.PARENT}"><td><a href="../">Parent folder</a><td><td>\n'
    for entry in entries:
        yield _row(entry)
    yield f"</tbody>\n</table>\n{CLOSING}"


def _breadcrumbs(root: bytes, path: bytes) -> str:
    """Return the way from the root, whose buttons are relative: it holds wherever a site is.

    No links: fsspec takes `../../` for a folder in this one, and goes round for ever.
    """
    names = [f"/{shown(root)}/" if root else "/", *map(shown, path.split(b"/"))]
    if not path:
        return f"<bdi>{names[0]}</bdi>"
    *above, here = names
    crumbs = []
    for depth, name in enumerate(above):
        up = "../" * (len(above) - depth)
        crumbs.append(f'<button form="up" formaction="{up}"><bdi>{name}</bdi></button>')
        crumbs.append(f"<i>{'/' if depth else ''}</i>")
    return "".join((*crumbs, f"<bdi>{here}</bdi>"))


def _summary(view: View, entries: list[Entry], is_cut: bool) -> str:
    wanted = f"with \N{LEFT DOUBLE QUOTATION MARK}{_filter(view)}\N{RIGHT DOUBLE QUOTATION MARK}"
    if not entries:
        return f"No names {wanted} here" if view.filter else "This folder is empty"
    folders = sum(entry.is_directory for entry in entries)
    files = len(entries) - folders
    parts = [_count(folders, "folder")] if folders else []
    if files:
        size = sum(entry.size for entry in entries if not entry.is_directory)
        parts += [_count(files, "file"), _size(size)]
    text = ", ".join(parts) + (f" {wanted}" if view.filter else "")
    return f"{text}; there are more, which are not shown" if is_cut else text


def _filter(view: View) -> str:
    return shown(view.filter.encode())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _filter_form(view: View) -> str:
    """Return the field for a part of a name; the order stays what it is."""
    show_all = '<button form="up">Show all</button>' if view.filter else ""
    return (
        f'<form class="filter" role="search">{_hidden(view, "sort", "order")}<input type="search"'
        f' name="filter" value="{escape(view.filter)}" maxlength="{_LONGEST_FILTER}"'
        ' placeholder="Part of a name" aria-label="Part of a name"><button>Filter</button>'
        f"{show_all}</form>\n"
    )


def _hidden(view: View, *names: str) -> str:
    """Return fields of a form with what is not as usual in a view."""
    usual = View()._asdict()
    return "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in view._asdict().items()
        if name in names and value != usual[name]
    )


def _column_heads(view: View) -> str:
    """Return buttons that sort by the column, and by the one that is sorted by the other way."""
    heads = []
    for column, title in _COLUMNS:
        is_sorted = column == view.sort
        order = "desc" if is_sorted and view.order == "asc" else "asc"
        state, arrow = _SORTED[view.order] if is_sorted else ("", "")
        hidden = _hidden(view._replace(order=order), "order", "filter")
        button = f'<button name="sort" value="{column}">{title}{arrow}</button>'
        heads.append(f'<th scope="col"{state}><form>{hidden}{button}</form></th>')
    return "".join(heads)


def _row(entry: Entry) -> str:
    text, date = shown(entry.name), _date(entry.mtime)
    if entry.is_directory:
        kind, size = icons.FOLDER, "<td>"
        text += "/"
    else:
        kind = icons.icon(entry.name)
        size = f'<td title="{_count(entry.size, "byte")}">{_size(entry.size)}'
    head = f'<tr class="{kind}">' if kind else "<tr>"
    return (
        f'{head}<td><a href="{_href(entry)}"><bdi>{text}</bdi></a>'
        f'{size}<td><time datetime="{date}">{date[:10]} {date[11:16]}</time>\n'
    )


def _href(entry: Entry) -> str:
    """Return a relative URL. Every byte that means something in one is escaped, a colon too."""
    return quote(entry.name, safe="") + "/" * entry.is_directory


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _size(size: int) -> str:
    """Return three digits of it, for people."""
    if size < 1000:
        return f"{size} B"
    value, units = size / 1000, iter(_UNITS)
    unit = next(units)
    while value >= 999.5:
        value, unit = value / 1000, next(units)
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def _date(mtime: int) -> str:
    """Return a time as in RFC 3339, in UTC: the nearest that datetime can say."""
    first, last = -62_135_596_800, 253_402_300_799
    return datetime.fromtimestamp(min(max(mtime, first), last), UTC).isoformat()[:19] + "Z"
