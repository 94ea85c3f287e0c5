"""Owns how a directory is shown: order, HTML, JSON. Pure; a helper process runs it.

The HTML needs no script, and allows none: names come from anybody.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl, quote, unquote_to_bytes

HTML: Final = b"text/html; charset=utf-8"
JSON: Final = b"application/json"

_STYLE: Final = """
:root{color-scheme:light dark;--back:#fff;--text:#1c2733;--dim:#5d6b7a;--line:#e3e8ee;
--link:#0a58ca;--over:#f3f6fa;--folder:#d9930d;--file:#8795a5}
@media(prefers-color-scheme:dark){:root{--back:#12171d;--text:#dfe6ee;--dim:#93a1b1;--line:#28313b;
--link:#7cb3ff;--over:#1b222b;--folder:#e5b04a;--file:#72818f}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:1rem/1.5 system-ui,sans-serif}
main{max-width:64rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{margin:0;font-size:1.3rem;font-weight:600;overflow-wrap:anywhere}
h1 i{color:var(--dim);font-style:normal;font-weight:400;margin:0 .3rem}
p{margin:.25rem 0 1.25rem;color:var(--dim);font-size:.9rem}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:2px}
table{width:100%;border-collapse:collapse}
th{padding:.4rem .6rem;text-align:left;font-size:.85rem;font-weight:600;white-space:nowrap;
border-bottom:2px solid var(--line)}th a{color:var(--dim)}th[aria-sort] a{color:var(--text)}
td{padding:.4rem .6rem;border-bottom:1px solid var(--line)}
th:nth-child(2),td:nth-child(2){text-align:right}
td:nth-child(n+2){width:1%;color:var(--dim);font-size:.9rem;white-space:nowrap;
font-variant-numeric:tabular-nums}
.i{display:none}
tbody tr:hover{background:var(--over)}
td:first-child{position:relative;padding-left:2.35rem;overflow-wrap:anywhere}
td a{display:inline-block;min-width:3rem;white-space:pre-wrap}
svg{position:absolute;left:.6rem;top:.65rem;width:1.1rem;height:1.1rem;fill:var(--file)}
.d svg{fill:var(--folder)}
@media(max-width:40rem){main{padding:1rem .5rem 2rem}td{padding:.1rem .5rem;border:0}
tbody tr{display:grid;grid-template-columns:1fr auto;padding:.45rem 0;border-bottom:1px solid
var(--line)}thead tr{display:flex;border-bottom:2px solid var(--line)}th{border:0}
td:first-child{grid-column:1/3}td:nth-child(n+2){width:auto;font-size:.8rem}
td:nth-child(2){order:1;text-align:right}td:nth-child(3){padding-left:2.35rem}
svg{top:.35rem}}
"""
_HASH: Final = b64encode(sha256(_STYLE.encode()).digest())
CONTENT_SECURITY_POLICY: Final = (
    b"default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none';"
    b" frame-ancestors 'none'" % _HASH
)

# Each icon once; the rows refer to it.
_ICONS: Final = (
    '<svg class="i"><symbol id="d" viewBox="0 0 16 16"><path d="M1.5 2h4.6l1.6 2h6.8q1 0 1 1v8q0'
    ' 1-1 1h-13q-1 0-1-1V3q0-1 1-1z"/></symbol><symbol id="f" viewBox="0 0 16 16"><path fill-rule='
    '"evenodd" d="M3 0h6.5L14 4.500V15q0 1-1 1H3q-1 0-1-1V1q0-1 1-1zm6 1.500V5h3.500z"/></symbol>'
    "</svg>"
)
_COLUMNS: Final = (("name", "Name"), ("size", "Size"), ("time", "Modified (UTC)"))
_SORTED: Final = {
    "asc": (' aria-sort="ascending"', " \N{UPWARDS ARROW}"),
    "desc": (' aria-sort="descending"', " \N{DOWNWARDS ARROW}"),
}
_UNITS: Final = ("KB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")  # files may have holes
# Control characters, which would be invisible or break the line, by their pictures (U+2400); and
# those that turn the text round, by which "gpj.exe" would look like "exe.jpg".
_TURNING: Final = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_VISIBLE: Final = (
    {code: 0x2400 + code for code in range(0x20)}
    | {0x7F: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), 0x2028, 0x2029, *_TURNING), 0xFFFD)
)


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
    """

    kind: str = "html"
    sort: str = "name"
    order: str = "asc"
    prefix: str = ""
    shown: str = ""

    @classmethod
    def select(
        cls,
        query: bytes | None,
        prefers_json: bool,
        prefix: bytes = b"",
        shown: Iterable[bytes] = (),
    ) -> Self:
        """What a request asks for; what is unknown counts as not said. `prefix` is not quoted."""
        asked = dict(parse_qsl((query or b"").decode("latin-1")))
        sort, order = asked.get("sort", "name"), asked.get("order", "asc")
        return cls(
            "json" if prefers_json else "html",
            sort if sort in dict(_COLUMNS) else "name",
            order if order == "desc" else "asc",
            quote(prefix),
            "".join(f"{quote(name)}/" for name in sorted(shown)),
        )

    def pack(self) -> bytes:
        return " ".join(self).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        return cls(*packed.decode().split(" "))

    @property
    def is_plain(self) -> bool:
        """Whether it is in the order that is shown where none is asked for."""
        return (self.sort, self.order) == ("name", "asc")

    @property
    def media_type(self) -> bytes:
        return JSON if self.kind == "json" else HTML

    def hides(self, name: bytes) -> bool:
        """Return whether a name is left out, since it begins with a dot; semantics/target.py."""
        return name.startswith(b".") and quote(name) not in self.shown.split("/")

    def arranged(self, entries: Iterable[Entry]) -> list[Entry]:
        """Directories first, then by column; equal ones by name."""
        found = sorted(entries, key=lambda entry: (entry.name.lower(), entry.name))
        if self.sort == "size":
            found.sort(key=lambda entry: 0 if entry.is_directory else entry.size)
        elif self.sort == "time":
            found.sort(key=lambda entry: entry.mtime)
        if self.order == "desc":
            found.reverse()
        found.sort(key=lambda entry: not entry.is_directory)
        return found

    def render(self, path: bytes, entries: list[Entry], is_cut: bool) -> Iterator[bytes]:
        """The document, piece by piece. `path` is relative to the root; `is_cut`: not all names."""
        if self == NOTHING:
            return iter(())
        pieces = _json(entries) if self.kind == "json" else _html(self, path, entries, is_cut)
        return (piece.encode() for piece in pieces)


NOTHING: Final = View("nothing")
"""No document: there is a directory that can be read, and that is all that HEAD asks for."""


def _json(entries: list[Entry]) -> Iterator[str]:
    comma = "[\n"
    for entry in entries:
        yield comma + json.dumps(
            {
                "name": _text(entry.name),
                "href": _href(entry),
                "type": "directory" if entry.is_directory else "file",
                "size": None if entry.is_directory else entry.size,
                "mtime": _date(entry.mtime),
            },
            ensure_ascii=False,
        )
        comma = ",\n"
    yield "\n]\n" if entries else "[]\n"


def _html(view: View, path: bytes, entries: list[Entry], is_cut: bool) -> Iterator[str]:
    root = unquote_to_bytes(view.prefix)
    title = escape(_shown(b"/".join((b"", *filter(None, (root, path)), b""))))
    yield (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Index of {title}</title>\n<style>{_STYLE}</style>\n{_ICONS}\n<main>\n"
        f"<h1>{_breadcrumbs(root, path)}</h1>\n<p>{_summary(entries, is_cut)}</p>\n"
        f"<table>\n<thead><tr>{_column_heads(view)}</tr></thead>\n<tbody>\n"
    )
    if path:
        yield '<tr class="d"><td><svg><use href="#d"/></svg><a href="../">..</a><td><td>\n'
    for entry in entries:
        yield _row(entry)
    yield "</tbody>\n</table>\n</main>\n</html>\n"


def _breadcrumbs(root: bytes, path: bytes) -> str:
    """Links that are relative, so that they hold wherever the site is mounted."""
    names = path.split(b"/") if path else []
    first = f"/<bdi>{escape(_shown(root))}</bdi>/" if root else "/"
    links = [f'<a href="{"../" * len(names) or "./"}">{first}</a><i></i>']
    for depth, name in enumerate(names, 1):
        up = "../" * (len(names) - depth) or "./"
        links.append(f'<a href="{up}"><bdi>{escape(_shown(name))}</bdi></a><i>/</i>')
    return "".join(links)


def _summary(entries: list[Entry], is_cut: bool) -> str:
    folders = sum(entry.is_directory for entry in entries)
    files = len(entries) - folders
    size = sum(entry.size for entry in entries if not entry.is_directory)
    text = f"{_count(folders, 'folder')}, {_count(files, 'file')}, {_size(size)}"
    return f"{text}; there are more, which are not shown" if is_cut else text


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _column_heads(view: View) -> str:
    """Links that sort by the column, and the other way round by the one that is sorted by."""
    heads = []
    for column, title in _COLUMNS:
        is_sorted = column == view.sort
        order = "desc" if is_sorted and view.order == "asc" else "asc"
        state, arrow = _SORTED[view.order] if is_sorted else ("", "")
        href = f"?sort={column}&amp;order={order}"
        heads.append(f'<th scope="col"{state}><a href="{href}">{title}{arrow}</a></th>')
    return "".join(heads)


def _row(entry: Entry) -> str:
    text, date = escape(_shown(entry.name)), _date(entry.mtime)
    if entry.is_directory:
        head, icon, size = '<tr class="d">', "#d", "<td>"
        text += "/"
    else:
        head, icon, size = "<tr>", "#f", f'<td title="{entry.size} bytes">{_size(entry.size)}'
    return (
        f'{head}<td><svg><use href="{icon}"/></svg><a href="{_href(entry)}"><bdi>{text}</bdi></a>'
        f'{size}<td><time datetime="{date}">{date[:10]} {date[11:16]}</time>\n'
    )


def _href(entry: Entry) -> str:
    """Every byte of a name that means something in a URL is escaped, a colon included."""
    return quote(entry.name, safe="") + "/" * entry.is_directory


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _shown(name: bytes) -> str:
    return _text(name).translate(_VISIBLE)


def _size(size: int) -> str:
    """For people: three digits of it."""
    if size < 1000:
        return f"{size} B"
    value, units = size / 1000, iter(_UNITS)
    unit = next(units)
    while value >= 999.5:
        value, unit = value / 1000, next(units)
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def _date(mtime: int) -> str:
    """As in RFC 3339, in UTC; what datetime cannot say becomes the nearest that it can."""
    first, last = -62_135_596_800, 253_402_300_799
    return datetime.fromtimestamp(min(max(mtime, first), last), UTC).isoformat()[:19] + "Z"
