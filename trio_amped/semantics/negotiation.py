"""Owns what a client prefers: content codings (RFC 9110 12.5.3), media types (12.5.1). Pure."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from .lists import is_too_long

_TOKEN: Final = rb"[A-Za-z0-9!#$%&'*+\-.^_`|~]++"
_WEIGHT: Final = rb"(?:[ \t]*+;[ \t]*+[qQ]=(?P<q>0(?:\.[0-9]{0,3}+)?+|1(?:\.0{0,3}+)?+))?+"
_CODING: Final = re.compile(rb"(?P<name>" + _TOKEN + rb")" + _WEIGHT)

_QUOTED: Final = rb'"(?:[^"\\]|\\.)*+"'
_VALUE: Final = rb"=(?:" + _TOKEN + rb"|" + _QUOTED + rb")"
_PARAMETER: Final = rb"[ \t]*+;[ \t]*+(?![qQ]=)" + _TOKEN + rb"(?:" + _VALUE + rb")?+"
_CHARSET: Final = rb"(?:[ \t]*+;[ \t]*+(?i:charset)" + _VALUE + rb")?+"
_NOTHING: Final = rb"(?:[ \t]*+;(?=[ \t]*+(?:;|\Z)))*+"  # a parameter may be empty (RFC 9110 5.6.6)
_MEDIA_RANGE: Final = re.compile(
    rb"(?P<type>" + _TOKEN + rb")/(?P<subtype>" + _TOKEN + rb")"
    + _NOTHING + _CHARSET + _NOTHING + rb"(?P<special>(?:" + _PARAMETER + _NOTHING + rb")*+)"
    + _WEIGHT + _NOTHING + rb"(?:" + _PARAMETER + _NOTHING + rb")*+"
)  # fmt: skip
# A quote that nobody closes reaches to the end: to look for its end but once keeps this linear.
_MEMBER: Final = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*+"?+)++')

_SYNONYMS: Final = {b"x-gzip": b"gzip"}  # RFC 9110 8.4.1.3


def preferred_codings(accept_encoding: bytes | None, offered: Sequence[bytes]) -> list[bytes]:
    """Which of the offered codings this client would rather have than none, best first.

    `offered` is in the order of the server's preference, which decides at equal weight. A
    member that is malformed is ignored, and so is a list that is too long (lists.py); of a
    coding that is named twice the lower weight counts, since what was refused once must not be
    sent.
    """
    if accept_encoding is None or is_too_long(accept_encoding):
        return []
    weights = _coding_weights(accept_encoding)
    anything = weights.get(b"*", 0.0)
    # Without a weight of its own, no coding is the last resort.
    identity = weights.get(b"identity", anything)
    found = [(weights.get(coding, anything), coding) for coding in offered]
    found.sort(key=lambda each: each[0], reverse=True)
    return [coding for weight, coding in found if weight > 0 and weight >= identity]


def _coding_weights(value: bytes) -> dict[bytes, float]:
    weights: dict[bytes, float] = {}
    for member in value.split(b","):
        match = _CODING.fullmatch(member.strip(b" \t"))
        if match:
            name = match["name"].lower()
            name = _SYNONYMS.get(name, name)
            weights[name] = min(_weight(match), weights.get(name, 1.0))
    return weights


def prefers(accept: bytes | None, media_type: bytes, other: bytes) -> bool:
    """Whether a client would rather have `media_type` than `other`: by weight and, where that is
    the same, because it names the one more exactly ("application/json, */*")."""
    return _preference(accept, media_type) > _preference(accept, other)


def media_weight(accept: bytes | None, media_type: bytes) -> float:
    """How much a client wants this type, 0 to 1: the most specific range decides.

    `media_type` has no parameters, so a range that names some is about another type; a charset
    does not count. Without the field everything is wanted.
    """
    return _preference(accept, media_type)[0]


def _preference(accept: bytes | None, media_type: bytes) -> tuple[float, int]:
    """The weight of a type, and how exactly it is named: 2, 1 (type/*), or 0."""
    if accept is None or is_too_long(accept):
        return 1.0, 0
    kind, _, _ = media_type.partition(b"/")
    names = (media_type, kind + b"/*", b"*/*")
    weights: dict[bytes, float] = {}
    for name, weight in _media_weights(accept):
        weights[name] = max(weight, weights.get(name, 0.0))
    found = ((weights[name], 2 - place) for place, name in enumerate(names) if name in weights)
    return next(found, (0.0, 0))


def names_html(accept: bytes | None) -> bool:
    """Whether a client asks for HTML in so many words, as a browser that navigates does.

    What a page loads (scripts, images, data) says "*/*" at most.
    """
    if accept is None or is_too_long(accept):
        return False
    html = (b"text/html", b"text/*", b"application/xhtml+xml")
    ranges = list(_media_weights(accept))
    if any(name == b"text/html" and weight == 0 for name, weight in ranges):
        return False
    return any(name in html and weight > 0 for name, weight in ranges)


def _media_weights(accept: bytes) -> Iterator[tuple[bytes, float]]:
    for member in _MEMBER.findall(accept):
        match = _MEDIA_RANGE.fullmatch(member.strip(b" \t"))
        if match and not match["special"]:
            yield b"%s/%s" % (match["type"].lower(), match["subtype"].lower()), _weight(match)


def _weight(match: re.Match[bytes]) -> float:
    """RFC 9110 12.4.2: without a weight it is 1."""
    return float(match["q"] or b"1")
