"""Owns the shape of the requests that nearly all clients send: one regular expression. Pure.

What it accepts it understands as h11 and `check_request` do; whatever it does not accept is for
them. It only ever says "this, and nothing else", so a wrong "no" costs time and nothing more.
"""

import re
from typing import Final

# Fields that have a say in the answer, or in where the request ends. All others are read over.
_OUT_OF_THE_ORDINARY: Final = (
    *("content-length", "transfer-encoding", "te", "trailer", "expect", "upgrade"),
    *("range", "if-range", "if-match", "if-modified-since", "if-unmodified-since"),
    *("origin", "access-control-request-method", "keep-alive", "proxy-connection"),
)
_ONCE: Final = ("host", "connection", "accept-encoding", "if-none-match")


def _any_case(name: str) -> bytes:
    """A pattern for a field name. (re.IGNORECASE would take twice the time for all of it.)"""
    letters = (f"[{each.upper()}{each}]" if each.isalpha() else re.escape(each) for each in name)
    return "".join(letters).encode()


def _field(name: str, group: int, value: bytes) -> bytes:
    """A field that may be there once: when its group has matched before, there is no match."""
    return rb"%s:(?(%d)(?!))[ ]?(?P<%s>%s)\r\n" % (
        _any_case(name),
        group,
        name.replace("-", "_").encode(),
        value,
    )


MOST_FIELDS: Final = 100
"""More of them are not common."""
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_TCHARS: Final = "!#$%&'*+-.^_`|~0123456789" + _LETTERS + _LETTERS.upper()  # RFC 9110 5.6.2
_INITIALS: Final = {name[0] for name in (*_OUT_OF_THE_ORDINARY, *_ONCE)}


def _one_of(characters: str) -> bytes:
    return f"[{re.escape(characters)}]".encode()


_TCHAR: Final = _one_of(_TCHARS)
_OTHER_INITIAL: Final = _one_of("".join(each for each in _TCHARS if each.lower() not in _INITIALS))
_VALUE: Final = rb"[\t -~\x80-\xff]*+"
_HOST: Final = rb"[A-Za-z0-9.\-]++(?::[0-9]++)?"
_KEEP_OR_CLOSE: Final = _any_case("keep-alive") + rb"|(?P<close>" + _any_case("close") + rb")"
_TAG: Final = rb'(?:W/)?"[!#-~\x80-\xff]*+"'
# Spelled as browsers do it. They would be found by the last alternative as well, in twice the time.
_USUAL: Final = (
    rb"User-Agent|Accept(?:-Language)?+|Referer|Cookie|Cache-Control|Pragma|Priority"
    rb"|Upgrade-Insecure-Requests"
)

# Each alternative is told by its first bytes and gives nothing back (possessive quantifiers), so
# the time is linear in the length of the head.
_HEAD: Final = re.compile(
    rb"(?P<method>GET|HEAD) (?P<path>/[!->@-~]*+)(?:\?[!\x22$-~]*+)? HTTP/1\.1\r\n(?:"
    + _OTHER_INITIAL + _TCHAR + rb"*+:" + _VALUE + rb"\r\n"
    rb"|(?:" + _USUAL + rb"):" + _VALUE + rb"\r\n"
    rb"|" + _field("host", 3, _HOST) + rb"|" + _field("connection", 4, _KEEP_OR_CLOSE)
    + rb"|" + _field("accept-encoding", 6, _VALUE) + rb"|" + _field("if-none-match", 7, _TAG)
    + rb"|(?!(?:" + b"|".join(map(_any_case, (*_OUT_OF_THE_ORDINARY, *_ONCE))) + rb"):)"
    + _TCHAR + rb"++:" + _VALUE + rb"\r\n"
    rb"){0,%d}+\r\n(?(3)|(?!))" % MOST_FIELDS
)  # fmt: skip

match_common = _HEAD.match
"""A GET or HEAD with one Host and nothing out of the ordinary, at a position of the bytes.

The match ends where the head does. Its groups: `method`, `path` (as it was sent, without the
query), `close` (if the connection is to be), `accept_encoding`, `if_none_match`; None for what
is not there.
"""
GROUPS: Final = _HEAD.groupindex
"""Their numbers: to ask by number takes half the time."""
