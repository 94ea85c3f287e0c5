"""Owns what all pages of the server's own share: colours, type, the frame, their policy. Pure.

A page needs no script and nothing from elsewhere, and its policy allows neither: what it shows of
a request or of a disk comes from anybody. Its style stands in it, and is let in by its hash.
"""

from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Final

_STYLE: Final = """
:root{color-scheme:light dark;--back:#fff;--text:#1c2733;--dim:#5d6b7a;--line:#e3e8ee;
--link:#0a58ca;--visited:#6f42a8;--over:#f3f6fa}
@media(prefers-color-scheme:dark){:root{--back:#12171d;--text:#dfe6ee;--dim:#93a1b1;--line:#28313b;
--link:#7cb3ff;--visited:#c3a2f5;--over:#1b222b}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:1rem/1.5 system-ui,sans-serif}
main{max-width:64rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{margin:0;font-size:1.3rem;font-weight:600;overflow-wrap:anywhere}
p{margin:.25rem 0 1.25rem;color:var(--dim);font-size:.9rem}
a{color:var(--link);text-decoration:none}a:visited{color:var(--visited)}
a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:2px}
"""

CLOSING: Final = "</main>\n</html>\n"
"""The end of every page."""

# Control characters, which would be invisible or break the line, by their pictures (U+2400); and
# those that turn the text round, by which "gpj.exe" would look like "exe.jpg".
_TURNING: Final = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_VISIBLE: Final = (
    {code: 0x2400 + code for code in range(0x20)}
    | {0x7F: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), 0x2028, 0x2029, *_TURNING), 0xFFFD)
)
_BLANK: Final = "\N{OPEN BOX}"


class Look:
    """A kind of page: the shared style with rules of its own, and the policy for both.

    `content_security_policy`: the value of the field (CSP Level 3), which every answer with such
    a page must have. `has_forms`: whether its forms may be sent to this site.
    """

    def __init__(self, rules: str = "", *, has_forms: bool = False) -> None:
        self._style = _STYLE + rules
        digest = b64encode(sha256(self._style.encode()).digest())
        self.content_security_policy: Final = (
            b"default-src 'none'; style-src 'sha256-%b'; base-uri 'none'; form-action %b;"
            b" frame-ancestors 'none'" % (digest, b"'self'" if has_forms else b"'none'")
        )

    def opening(self, title: str) -> str:
        """Return the page up to what stands in <main>. `title`: HTML, see `shown`."""
        return (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{self._style}</style>\n<main>\n"
        )


def shown(text: bytes) -> str:
    """Return HTML that shows a text from anybody, in UTF-8 or not, as it is and in its order.

    Blanks at its ends are visible, which nobody would see otherwise.
    """
    visible = text.decode("utf-8", "replace").translate(_VISIBLE)
    inner = visible.strip()
    if inner != visible:
        start = len(visible) - len(visible.lstrip())
        visible = _BLANK * start + inner + _BLANK * (len(visible) - start - len(inner))
    return escape(visible)
