"""Owns the shape of the requests that nearly all clients send: one regular expression. Pure.

The recogniser must never read a head in another way than h11 and `check_request` do; a head that it
rejects goes to them, so a wrong "no" costs time and nothing more. It captures every field that has
a say in the answer to a GET or HEAD (`Asked`), and refuses all fields that have a say in where the
request ends, or in who must answer. All other fields are read over.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final, NamedTuple, TypeAlias

from .request import Asked
from .target import MOST_SLASHES

Match: TypeAlias = re.Match[bytes]

_LEFT_TO_H11: Final = (
    *("content-length", "transfer-encoding", "te", "trailer", "expect", "upgrade"),
    *("access-control-request-method", "keep-alive", "proxy-connection"),
)
CONDITIONAL: Final = (
    *("if_match", "if_unmodified_since", "if_none_match", "if_modified_since"),
    *("if_range", "range"),
)
"""The fields of `Asked` that HTTP itself reads."""
READ_BY_SETTINGS: Final = frozenset(("accept", "accept_encoding", "origin"))
"""The fields of `Asked` that count only where a setting says so (description.py)."""

MOST_FIELDS: Final = 100
"""A head with more of them is not common."""

_OF_THE_FORM: Final = ("accept", "accept_encoding")  # which say which form of a file is sent
_OF_A_COPY: Final = ("if_none_match", "if_modified_since")  # which say what a client has of it
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_TCHARS: Final = "!#$%&'*+-.^_`|~0123456789" + _LETTERS + _LETTERS.upper()  # RFC 9110 5.6.2
_VALUE: Final = rb"[\t -~\x80-\xff]*+"
_TRIMMED: Final = (
    rb"[!-~\x80-\xff][\t -~\x80-\xff]*(?<![\t ])|"  # the same without blanks around it
)
_HOST: Final = rb"[A-Za-z0-9.\-]++(?::[0-9]++)?"
# Visible bytes but for those that mean something: "%", "#", "?", "/", and "." at the start of a
# name (hidden, or a dot segment). Such a path is what it looks like, decoded and normalised.
_NAME: Final = rb'[!"$&-\-0->@-~][!"$&-.0->@-~]*+'
# Spelled as browsers do it. They would be found by the last alternative as well, in twice the time.
_USUAL: Final = (
    *(b"User-Agent", b"Accept-Language", b"Accept", b"Referer", b"Cookie", b"Cache-Control"),
    *(b"Pragma", b"Priority", b"Upgrade-Insecure-Requests"),
)


def _any_case(name: str) -> bytes:
    """A pattern for a field name. (re.IGNORECASE would take twice the time for all of it.)"""
    letters = (f"[{each.upper()}{each}]" if each.isalpha() else re.escape(each) for each in name)
    return "".join(letters).encode()


def _one_of(characters: str) -> bytes:
    return f"[{re.escape(characters)}]".encode()


def _once(name: str, number: int, value: bytes = _TRIMMED) -> bytes:
    """A field that may be there once: when its group, of that number, has matched, none matches."""
    header = _any_case(name.replace("_", "-"))
    pattern = rb"%b:(?(%d)(?!))[ \t]*+(?P<%b>%b)[ \t]*+\r\n"
    return pattern % (header, number, name.encode(), value)


def _unless(names: Iterable[str], then: bytes) -> bytes:
    """A pattern that goes on with another one if none of these groups has matched."""
    for name in names:
        then = b"(?(%b)|%b)" % (name.encode(), then)
    return then


def _usual(captured: Iterable[str]) -> bytes:
    return b"|".join(each for each in _USUAL if each.lower().decode() not in captured)


class Recogniser(NamedTuple):
    """Finds a common request, and says what it asks.

    `match(data, start)` matches one whole head of a GET or HEAD, or returns None. The groups of the
    match: `plain`, the path if it is what it looks like, or else `path`; `query`; `old`, if it is
    HTTP/1.0; `host`; `close`, if the connection is to be; the fields of `Asked`; and `usual`, which
    is empty, if a GET gets the whole file, and no other field of its answer than its neighbours:
    neither of `close` and `old` is there, nor a field that asks for that. So is `renewing`, also if
    there is If-None-Match or If-Modified-Since. To ask by number takes half the time.
    """

    match: Callable[..., Match | None]
    numbers: Mapping[str, int]

    def numbers_of(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the numbers of groups; that of `never`, which is None, for a field not read.

        Raises KeyError for a field of which no setting can say that it reads it.
        """
        never = dict.fromkeys(READ_BY_SETTINGS, self.numbers["never"])
        numbers = {**never, **self.numbers}
        return tuple(numbers[name] for name in names)


@cache
def recogniser(reads: frozenset[str] = READ_BY_SETTINGS) -> Recogniser:
    """Make the recogniser for sites whose settings read these fields of `Asked`."""
    captured = [*(each for each in Asked._fields if each in reads), *CONDITIONAL]
    fields = [_once(each, number) for number, each in enumerate(captured, 10)]
    known = ("host", "connection", *_LEFT_TO_H11, *captured)
    names = [each.replace("_", "-") for each in known]
    initials = {name[0] for name in names}
    others = "".join(each for each in _TCHARS if each.lower() not in initials)
    more = [each for each in captured if each not in (*_OF_THE_FORM, *_OF_A_COPY)]
    usual = rb"(?P<renewing>)" + _unless(_OF_A_COPY, rb"(?P<usual>)")
    keep, close = _any_case("keep-alive"), _any_case("close")
    # Each alternative is told by its first bytes and gives nothing back (possessive quantifiers),
    # so the time is linear in the length of the head. No group stands within another: the re of
    # Python 3.11 to 3.13 loses the spans of such groups in a possessive repetition.
    pattern = re.compile(
        rb"(?P<method>GET|HEAD) "
        rb"(?:(?P<plain>/(?:" + _NAME + rb"/){0,%d}+(?:" % (MOST_SLASHES - 1)
        + _NAME + rb")?+)(?=[? ])"
        rb"|(?P<path>/[!->@-~]*+))(?:\?(?P<query>[!\x22$-~]*+))? HTTP/1\.(?:1|(?P<old>0))\r\n(?:"
        + _one_of(others) + _one_of(_TCHARS) + rb"*+:" + _VALUE + rb"\r\n"
        rb"|(?:" + _usual(captured) + rb"):" + _VALUE + rb"\r\n|"
        + _once("host", 6, _HOST)
        + rb"|" + _any_case("connection") + rb":(?(7)(?!))(?(8)(?!))[ \t]*+"
        + rb"(?:(?P<keep>" + keep + rb")|(?P<close>" + close + rb"))\r\n|"
        + rb"(?P<never>(?!))|"
        + rb"|".join(fields)
        + rb"|(?!(?:" + b"|".join(map(_any_case, names)) + rb"):)"
        + _one_of(_TCHARS) + rb"++:" + _VALUE + rb"\r\n"
        rb"){0,%d}+\r\n(?(host)|(?(old)|(?!)))" % MOST_FIELDS
        + _unless(("close", "old", *more), usual)
    )  # fmt: skip
    return Recogniser(pattern.match, pattern.groupindex)


def target_of(match: Match) -> bytes:
    """Return the target of a common request as it was sent."""
    path, query = match["plain"] or match["path"], match["query"]
    return path if query is None else b"%b?%b" % (path, query)
