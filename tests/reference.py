"""A naive origin server for GET and HEAD of one file, as RFC 9110 describes it.

It is what the real one is compared with, so it imports nothing of ours and is slow on purpose:
ranges are sets of positions, lists are read letter by letter. Text is latin-1. Where the RFC
leaves a choice, a comment that begins with "Policy" says what docs/design.md has chosen.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from string import ascii_letters, digits
from typing import Final, Literal

Fields = Sequence[tuple[str, str]]

COMPARED: Final = (
    *("content-type", "content-length", "content-encoding", "content-range"),
    *("etag", "last-modified", "vary", "accept-ranges"),
)
"""The fields that an Answer decides: one that it does not have must be missing."""

_SECOND: Final = 10**9  # ns
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TOKEN: Final = frozenset(ascii_letters + digits + "!#$%&'*+-.^_`|~")
_ETAGC: Final = frozenset(map(chr, (0x21, *range(0x23, 0x7F), *range(0x80, 0x100))))
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_LONG_DAYS: Final = (
    *("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
    *("Saturday", "Sunday"),
)
_DAYS: Final = tuple(day[:3] for day in _LONG_DAYS)


@dataclass(frozen=True)
class Form:
    """A representation: a file on the disk. `coding` is "identity" for the file as it is."""

    content: bytes
    mtime_ns: int
    coding: str = "identity"
    ctime_ns: int | None = None  # None: the same
    tags: Literal["mtime", "ctime", "digest", "none"] = "mtime"
    is_seen: bool = False  # for two seconds, as it is

    @property
    def is_constant(self) -> bool:
        """Policy: within a day of the dates that packagers give to all files of all releases."""
        written = [(1970, 1, 1, 0, 0), (1985, 10, 26, 8, 15), (1980, 1, 1, 0, 0)]
        date = _EPOCH + timedelta(seconds=self.mtime_ns // _SECOND)
        return any(abs(date - datetime(*each, tzinfo=UTC)) <= timedelta(days=1) for each in written)

    def etag(self, now: float) -> str:
        """RFC 9110 8.8.3: each form has its own. Policy: made of date, size and coding; with the
        ctime where that is wanted, and where the date is constant; or of a digest instead of dates,
        up to 16 MiB; "": there is none."""
        suffix = "" if self.coding == "identity" else f"-{self.coding}"
        times = [self.mtime_ns]
        if self.tags == "none":
            return ""
        if self.tags in ("ctime", "digest") or self.is_constant:
            times.append(self.mtime_ns if self.ctime_ns is None else self.ctime_ns)
        tag = f'"{".".join(f"{each:x}" for each in times)}-{len(self.content):x}{suffix}"'
        # Policy: it is weak for two seconds, in which the file may change unseen (8.8.1).
        age = Decimal(now) - Decimal(max(times)) / _SECOND
        if age <= 2 and not self.is_seen:
            return "W/" + tag
        if self.tags != "digest":
            return tag
        if len(self.content) > 16 * 1024 * 1024:
            return "W/" + tag
        digest = blake2b(self.content, digest_size=16).hexdigest()
        return f'"{digest}-{len(self.content):x}{suffix}"'

    def last_modified(self, now: float) -> int:
        """RFC 9110 8.8.2.1: never later than now."""
        return min(self.mtime_ns // _SECOND, math.floor(now))


@dataclass(frozen=True)
class Resource:
    """A file, and its sidecars in the order of the server's preference."""

    plain: Form
    media_type: str
    sidecars: tuple[Form, ...] = ()

    def forms(self) -> list[Form]:
        """What may be sent. Policy: a sidecar a second older than its original is stale."""
        oldest = self.plain.mtime_ns - _SECOND
        return [*(each for each in self.sidecars if each.mtime_ns > oldest), self.plain]


@dataclass(frozen=True)
class Answer:
    """`body` is None for the text of an error; `parts` are Content-Range and bytes of each."""

    status: int
    fields: dict[str, str]
    body: bytes | None = b""
    parts: tuple[tuple[str, bytes], ...] = ()


def answer(method: str, fields: Fields, resource: Resource, now: float) -> Answer:
    """The answer to a GET or HEAD; `now` in seconds since 1970."""
    forms = resource.forms()
    accepted = _combined(fields, "accept-encoding") if _may_be_coded(method, fields) else None
    coding = choose_coding(accepted, [each.coding for each in forms])
    form = next(each for each in forms if each.coding == coding)
    etag, modified = form.etag(now), form.last_modified(now)
    if form.is_constant:  # Policy: it has no date, so no condition on one counts (13.1.3, 13.1.4)
        dated = ("if-modified-since", "if-unmodified-since")
        fields = [field for field in fields if field[0].lower() not in dated]
    # RFC 9110 12.5.5. Policy: also for those who get the plain file, unless there is no other.
    chosen = ({"etag": etag} if etag else {}) | (
        {"vary": "Accept-Encoding"} if len(forms) > 1 else {}
    )

    refusal = _precondition(fields, etag, modified, now)  # 13.2.2, steps 1 to 4
    if refusal == 304:
        return Answer(304, chosen)  # 15.4.5: with an ETag, no other metadata
    if refusal == 412:
        return Answer(412, {}, None)

    whole = {
        **chosen,
        "content-type": resource.media_type,
        "content-length": str(len(form.content)),
        "last-modified": date_texts(modified)[0],
        "accept-ranges": "bytes",
    }
    if form.is_constant:
        del whole["last-modified"]
    if coding != "identity":
        whole["content-encoding"] = coding
    runs = _wanted_runs(method, fields, form, now)  # step 5
    if runs is None:
        return Answer(200, whole, form.content if method == "GET" else b"")
    size = len(form.content)
    if not runs:
        return Answer(416, {"content-range": f"bytes */{size}"}, None)  # 15.5.17
    if _lines(fields, "if-range"):
        whole.pop("last-modified", None)  # Policy: 15.3.7 would rather have it left out
    parts = tuple(
        (f"bytes {run[0]}-{run[-1]}/{size}", bytes(form.content[at] for at in run)) for run in runs
    )
    if len(parts) > 1:
        del whole["content-length"]  # it depends on the delimiter
        return Answer(206, {**whole, "content-type": "multipart/byteranges"}, None, parts)
    span, body = parts[0]
    return Answer(206, {**whole, "content-range": span, "content-length": str(len(body))}, body)


def _may_be_coded(method: str, fields: Fields) -> bool:
    """Policy: a part is one of the plain file, but where the client may have one of another form:
    it names that by its tag, or by a date, which is none of a form."""
    if method != "GET" or len(_lines(fields, "range")) != 1:
        return True
    if_range = _lines(fields, "if-range")
    if if_range and (len(if_range) > 1 or not if_range[0].startswith(('"', "W/"))):
        return True
    tags = [*if_range, _combined(fields, "if-match") or ""]
    # Policy: in a longer field nobody looks for one.
    return any(re.search(r'-[0-9a-f]+-[a-z]+"', tag) for tag in tags if len(tag) <= 1024)


def _precondition(fields: Fields, etag: str, modified: int, now: float) -> int | None:
    """RFC 9110 13.2.2, for the origin server of a file that is there."""
    opaque = etag.removeprefix("W/")
    if_match = _combined(fields, "if-match")
    if_none_match = _combined(fields, "if-none-match")
    if if_match is not None:  # step 1; 8.8.3.2: both strong and the same
        if if_match != "*" and (not etag or etag != opaque or etag not in _listed(if_match)):
            return 412
    else:  # step 2
        since = _date(fields, "if-unmodified-since", now)
        if since is not None and modified > since:
            return 412
    if if_none_match is not None:  # step 3; 8.8.3.2: the same, weak or not
        listed = _listed(if_none_match)
        if if_none_match == "*" or opaque in [tag.removeprefix("W/") for tag in listed]:
            return 304
    else:  # step 4
        since = _date(fields, "if-modified-since", now)
        if since is not None and modified <= since:
            return 304
    return None


def _listed(value: str) -> list[str]:
    """Policy: a list that is malformed, or too long, has no member."""
    return (not is_too_long(value) and entity_tags(value)) or []


def is_too_long(value: str) -> bool:
    """Policy: so are a list of more than 32 commas, and one of more than 4096 characters."""
    return value.count(",") > 32 or len(value) > 4096


def _wanted_runs(method: str, fields: Fields, form: Form, now: float) -> list[list[int]] | None:
    """RFC 9110 13.2.2, step 5: None where the whole is sent."""
    lines = _lines(fields, "range")
    if method != "GET" or len(lines) != 1:  # 14.2; 5.3: no list, so once or not at all
        return None
    if_range = _lines(fields, "if-range")
    if if_range and not (len(if_range) == 1 and still_is(if_range[0], form, now)):
        return None
    return runs_of(lines[0], len(form.content))


def still_is(validator: str, form: Form, now: float) -> bool:
    """RFC 9110 13.1.5: strong comparison; the date is the exact one, and strong (8.8.2.2)."""
    if '"' in validator:
        return validator == form.etag(now) and not validator.startswith("W/")
    if form.is_constant:
        return False
    if form.coding != "identity":  # Policy: a date does not tell one form from another
        return False
    modified = form.last_modified(now)
    # Policy: a date is strong once its second began more than two seconds ago.
    return http_date(validator, now) == modified and now - modified > 2


# ------------------------------------------------------------------ the values of fields


def _lines(fields: Fields, name: str) -> list[str]:
    """RFC 9110 5.1, 5.5: names have no case, and no value begins or ends in whitespace."""
    return [value.strip(" \t") for known, value in fields if known.lower() == name]


def _combined(fields: Fields, name: str) -> str | None:
    """RFC 9110 5.3: the lines of a list are one list."""
    lines = _lines(fields, name)
    return ", ".join(lines) if lines else None  # "for consistency, use comma SP"


def _date(fields: Fields, name: str, now: float) -> int | None:
    """RFC 9110 13.1.3, 13.1.4: given once, and valid; or else ignored."""
    lines = _lines(fields, name)
    return http_date(lines[0], now) if len(lines) == 1 else None


def runs_of(value: str, size: int) -> list[list[int]] | None:
    """The positions of each part (RFC 9110 14.1, 14.2). None: ignored; none at all: 416."""
    unit, _, members = value.partition("=")
    specs = [spec for member in members.split(",") if (spec := member.strip(" \t"))]
    asked = [found for spec in specs if (found := _positions(spec, size)) is not None]
    if unit.lower() != "bytes" or not specs or len(asked) < len(specs):
        return None
    # Policy: what overlaps or touches is one part, in the place of what was asked for first.
    runs: list[list[int]] = []
    for at in sorted(set().union(*asked)):
        if runs and runs[-1][-1] == at - 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    runs.sort(key=lambda run: min(n for n, spec in enumerate(asked) if not spec.isdisjoint(run)))
    # 14.1.2: there is a suffix even of nothing. Policy: ignored, as no Content-Range can say so,
    # and so is what begins at the start of nothing.
    parted = [spec.partition("-") for spec in specs]
    if not size and any(int(first) == 0 if first else int(last) > 0 for first, _, last in parted):
        return None
    # Policy: more than 24 members, empty ones too, or 1024 characters, are ignored.
    return runs if members.count(",") < 24 and len(value) <= 1024 else None


def _positions(spec: str, size: int) -> set[int] | None:
    """What one spec asks for (RFC 9110 14.1.1, 14.1.2); None if it is malformed."""
    first, dash, last = spec.partition("-")
    if not dash or not first + last or set(first + last) - set(digits):
        return None
    if not first:
        return {at for at in range(size) if size - at <= int(last)}
    if last and int(last) < int(first):
        return None
    return {at for at in range(size) if int(first) <= at and (not last or at <= int(last))}


def entity_tags(value: str) -> list[str] | None:
    """The members of a list of entity tags (RFC 9110 8.8.3, 5.6.1.2); None if malformed."""
    tags: list[str] = []
    may_begin = True  # at the start, and after each comma
    while value:
        if value[0] in " \t,":
            may_begin = may_begin or value[0] == ","
            value = value[1:]
            continue
        weak = "W/" if value.startswith("W/") else ""
        value = value.removeprefix(weak)
        text, closing, rest = value[1:].partition('"')
        if not may_begin or value[:1] != '"' or not closing or set(text) - _ETAGC:
            return None
        tags.append(f'{weak}"{text}"')
        value, may_begin = rest, False
    return tags


def choose_coding(value: str | None, available: Sequence[str]) -> str:
    """RFC 9110 12.5.3, for `available` in the order of the server's preference.

    Policy: a malformed member is ignored; of two weights the lower one counts; at equal weight
    the server's order decides, with the plain file last; it is also sent when nothing is wanted.
    """
    weights: dict[str, Decimal] = {}
    if value is not None and is_too_long(value):  # Policy: who sends so much gets it plain
        return "identity"
    for member in (value or "").split(","):
        name, *rest = (part.strip(" \t") for part in member.split(";"))
        weight = _weight(rest)
        if _is_token(name) and weight is not None:
            name = "gzip" if name.lower() == "x-gzip" else name.lower()  # 8.4.1.3
            weights[name] = min(weight, weights.get(name, weight))
    others = weights.get("*", Decimal(0))
    best, most = "identity", weights.get("identity", others)
    for coding in reversed([each for each in available if each != "identity"]):
        weight = weights.get(coding, others)
        if weight > 0 and weight >= most:
            best, most = coding, weight
    return best


def media_weight(accept: str | None, media_type: str) -> Decimal:
    """RFC 9110 12.5.1: of the ranges that match, the most specific one decides.

    `media_type` has no parameters, so a range that has some does not match; those after the
    weight are none of it. Policy: one charset, as the first of them, does not count; a malformed
    member is ignored; of two weights the higher counts.
    """
    found = {media_type: Decimal(-1), f"{media_type.partition('/')[0]}/*": Decimal(-1)}
    if accept is not None and is_too_long(accept):  # Policy: as if it was not there
        accept = None
    found["*/*"] = Decimal(0 if accept is not None else 1)
    for member in _split(accept or "", ","):
        name, *rest = (part.strip(" \t") for part in _split(member, ";"))
        weights = [each for each in rest if each[:2] in ("q=", "Q=")]
        before = rest[: rest.index(weights[0])] if weights else rest
        weight = _weight(weights) if all(map(_is_parameter, rest)) else None
        if before and before[0].lower().startswith("charset="):
            before = before[1:]
        if not any(before) and weight is not None and name.lower() in found:
            found[name.lower()] = max(weight, found[name.lower()])
    return next(weight for weight in found.values() if weight >= 0)


def _split(value: str, separator: str) -> list[str]:
    """The parts of a value, whose quoted strings may have the separator in them (5.6.4)."""
    parts, is_quoted, is_escaped = [""], False, False
    for letter in value:
        if letter == separator and not is_quoted:
            parts.append("")
            continue
        parts[-1] += letter
        if letter == '"' and not is_escaped:
            is_quoted = not is_quoted
        is_escaped = letter == "\\" and is_quoted and not is_escaped
    return parts


def _weight(parameters: Sequence[str]) -> Decimal | None:
    """RFC 9110 12.4.2: one q of three digits at most, up to 1; without it 1; None if malformed."""
    if not parameters:
        return Decimal(1)
    whole, _, fraction = parameters[0][2:].partition(".")
    if len(parameters) > 1 or parameters[0][:2] not in ("q=", "Q=") or len(fraction) > 3:
        return None
    if whole not in ("0", "1") or set(fraction) - set(digits):
        return None
    weight = Decimal(f"{whole}.{fraction}")
    return weight if weight <= 1 else None


def _is_parameter(text: str) -> bool:
    """RFC 9110 5.6.6: it may be missing between two semicolons; its value may be quoted."""
    name, _, value = text.partition("=")
    return not text or (_is_token(name) and (_is_token(value) or _is_quoted(value)))


def _is_quoted(text: str) -> bool:
    """RFC 9110 5.6.4: without the pairs of a backslash and another letter, no quote is inside."""
    inside = text[1:-1].replace("\\\\", "").replace('\\"', "")
    ends_rightly = len(text) > 1 and text[0] == text[-1] == '"' and not inside.endswith("\\")
    return ends_rightly and '"' not in inside


def _is_token(text: str) -> bool:
    """RFC 9110 5.6.2."""
    return bool(text) and set(text) <= _TOKEN


# ------------------------------------------------------------------ dates (RFC 9110 5.6.7)


def date_texts(seconds: int) -> tuple[str, str, str]:
    """The three ways to write it: the one to send, and the two to understand."""
    when = _EPOCH + timedelta(seconds=seconds)
    weekday, month = when.weekday(), _MONTHS[when.month - 1]
    time = f"{when:%H:%M:%S}"
    return (
        f"{_DAYS[weekday]}, {when.day:02} {month} {when.year:04} {time} GMT",
        f"{_LONG_DAYS[weekday]}, {when.day:02}-{month}-{when.year % 100:02} {time} GMT",
        f"{_DAYS[weekday]} {month} {when.day:2} {time} {when.year:04}",
    )


def http_date(value: str, now: float) -> int | None:
    """Any of the three forms, in seconds since 1970.

    Policy: the name of the day must be one, and need not be the right one.
    """
    try:
        match value.split(" "):
            case [name, day, month, year, time, "GMT"] if name in [f"{each}," for each in _DAYS]:
                return _seconds(_number(year, 4), month, _number(day, 2), time)
            case [name, date, time, "GMT"] if name in [f"{each}," for each in _LONG_DAYS]:
                day, month, year = date.split("-")
                return _latest(_number(year, 2), month, _number(day, 2), time, now)
            case [name, month, "", day, time, year] if name in _DAYS:
                return _seconds(_number(year, 4), month, _number(day, 1), time)
            case [name, month, day, time, year] if name in _DAYS:
                return _seconds(_number(year, 4), month, _number(day, 2), time)
    except ValueError:  # of a number, a month, or a day that is not in the calendar
        pass
    return None


def _latest(ending: int, month: str, day: int, time: str, now: float) -> int:
    """The year of two digits: the latest that is not more than 50 years in the future."""
    present = _EPOCH + timedelta(seconds=math.floor(now))
    limit = f"{present.year + 50:04}-{present:%m-%d %H:%M:%S}"
    for year in range(present.year + 50, present.year - 51, -1):
        text = f"{year:04}-{_MONTHS.index(month) + 1:02}-{day:02} {time}"
        if year % 100 == ending and text <= limit:
            return _seconds(year, month, day, time)
    raise AssertionError("a hundred years have every ending")


def _seconds(year: int, month: str, day: int, time: str) -> int:
    hour, minute, second = (_number(text, 2) for text in time.split(":"))
    is_leap = (hour, minute, second) == (23, 59, 60)  # Policy: at the end of any day
    when = datetime(year, _MONTHS.index(month) + 1, day, hour, minute, second - is_leap, tzinfo=UTC)
    return (when - _EPOCH) // timedelta(seconds=1) + is_leap


def _number(text: str, width: int) -> int:
    if len(text) != width or set(text) - set(digits):
        raise ValueError(text)
    return int(text)
