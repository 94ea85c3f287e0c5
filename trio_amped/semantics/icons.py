"""Owns the kinds of names that a listing tells apart by an icon, and how these are drawn. Pure.

An icon is a shape that the style cuts out of a coloured box: nothing is fetched, the policy of the
page stays strict, and a row of the listing needs no more than the class that says its kind.
"""

from typing import Final

from .media_types import is_compressed, media_type

FOLDER: Final = "d"
PARENT: Final = "u"
_IMAGE, _FILM, _SOUND, _ARCHIVE, _TEXT, _PAPER = "i", "v", "a", "z", "t", "p"
_OTHER: Final = ""

_BY_MAIN_TYPE: Final = {b"image": _IMAGE, b"video": _FILM, b"audio": _SOUND, b"text": _TEXT}
_PACKED: Final = frozenset(
    (b"application/x-tar", b"application/x-cpio", b"application/x-iso9660-image")
)
_PAPERS: Final = (
    *(b"application/pdf", b"application/postscript", b"application/rtf", b"application/msword"),
    *(b"application/vnd.ms-", b"application/vnd.openxml", b"application/vnd.oasis."),
    b"application/epub",
)
_WRITTEN: Final = (
    b"json",
    b"xml",
    b"yaml",
    b"toml",
    b"sql",
    b"x-sh",
    b"x-tex",
    b"latex",
    b"ndjson",
)


def icon(name: bytes) -> str:
    """Return the class of a row for a file of this name: its kind by its extension, or none."""
    kind = media_type(name)
    main, _, sub = kind.partition(b"/")
    if main in _BY_MAIN_TYPE:
        return _BY_MAIN_TYPE[main]
    if kind.startswith(_PAPERS):
        return _PAPER
    if sub.endswith(_WRITTEN):
        return _TEXT
    if kind in _PACKED or (main == b"application" and is_compressed(kind)):
        return _ARCHIVE
    return _OTHER


# Shapes of 16 by 16 pixels, as in SVG; what lies inside of another part is a hole.
_SHEET: Final = "M3 0h6.5L14 4.5V15q0 1-1 1H3q-1 0-1-1V1q0-1 1-1zM9 1.5V5h3.5z"
_LINES: Final = "M4.5 7.5h7v1h-7zM4.5 10h7v1h-7zM4.5 12.5h4.5v1h-4.5z"
_FRAME: Final = "M1 2h14q1 0 1 1v10q0 1-1 1H1q-1 0-1-1V3q0-1 1-1z"
_SUN: Final = "M3 5.5a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0-3 0z"
_SHAPES: Final = {
    _OTHER: _SHEET,
    FOLDER: "M1.5 2h4.6l1.6 2h6.8q1 0 1 1v8q0 1-1 1h-13q-1 0-1-1V3q0-1 1-1z",
    PARENT: "M8 2l6 6h-4v6H6V8H2z",
    _IMAGE: _FRAME + _SUN + "M2 12h12l-4-5.5L7.5 10l-2-2z",
    _FILM: _FRAME + "M6 4.5v7l5.5-3.5z",
    _SOUND: "M5 2l9-1v11a2.5 2 0 1 1-1.5-2V4l-6 .7V13.5a2.5 2 0 1 1-1.5-2z",
    _ARCHIVE: "M1 2h14v4H1zM1.5 7h13v7h-13zM6 8.5V10h4V8.5z",
    _TEXT: _SHEET + _LINES,
    _PAPER: _SHEET + _LINES,
}
_COLOURS: Final = {
    _OTHER: ("#8795a5", "#72818f"),
    FOLDER: ("#d9930d", "#e5b04a"),
    PARENT: ("#8795a5", "#72818f"),
    _IMAGE: ("#2f9e6e", "#4fb98a"),
    _FILM: ("#7a5bd0", "#9d85e6"),
    _SOUND: ("#c2528b", "#d979a8"),
    _ARCHIVE: ("#a9744f", "#c4946f"),
    _TEXT: ("#5f87b5", "#7d9fc6"),
    _PAPER: ("#cf4f45", "#e0776e"),
}


def _rules() -> str:
    boxes, dark = [], []
    for kind, shape in _SHAPES.items():
        box = f"{'.' * bool(kind)}{kind or 'tr'} td:first-child::before"
        light, other = _COLOURS[kind]
        boxes.append(f'{box}{{background:{light};clip-path:path(evenodd,"{shape}")}}')
        dark.append(f"{box}{{background:{other}}}")
    place = (
        "tbody td:first-child::before{content:'';position:absolute;left:.6rem;top:.65rem;"
        "width:16px;height:16px;forced-color-adjust:none}"
    )
    scheme = "@media(prefers-color-scheme:dark){" + "\n".join(dark) + "}"
    return "\n".join((place, *boxes, scheme)) + "\n"


RULES: Final = _rules()
"""The style of the icons, for a table whose rows have these classes."""
