"""Owns the lines of the access log: which variables a format has, and how they are written. Pure.

The names are nginx's (ngx_http_log_module), and so is the way in which text is escaped.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeAlias

from .target import host_name

LONGEST: Final = 4096
"""Bytes of a line with its end: so many go into a pipe in one piece (PIPE_BUF, pipe(7))."""


class Record(NamedTuple):
    """An answer that has ended, and its request.

    `peer`: the address of the client, "" where it has none. `tls`: as in "TLSv1.3", "" without.
    `head`: of the request as it was received, b"" where it could not be read. `body` and `sent`:
    bytes that the client was sent, without and with the head of the answer. `gate`: "lane" for an
    answer of the fast lane that had to wait for nothing, "resident" for one of a task, "helper" for
    any that has waited for the disk; `waited`: for so many seconds. `seconds`: from the end of the
    request's head to the end of the answer. `scheme` and `host`: what the client has asked for,
    where a trusted proxy has told; or else "" and b"".
    """

    peer: str
    tls: str
    head: bytes
    status: int
    body: int
    sent: int
    gate: str = "lane"
    waited: float = 0.0
    seconds: float = 0.0
    scheme: str = ""
    host: bytes = b""

    @property
    def scheme_used(self) -> str:
        """The scheme of the URL that the client has asked for."""
        return self.scheme or ("https" if self.tls else "http")

    @property
    def line(self) -> bytes:
        """The request line, without its end."""
        return self.head.partition(b"\r\n")[0]

    @property
    def words(self) -> tuple[bytes, bytes, bytes]:
        """The method, the target and the version; three times b"" where there are no three."""
        method, _, rest = self.line.partition(b" ")
        target, _, version = rest.rpartition(b" ")
        return (method, target, version) if version.startswith(b"HTTP/") else (b"", b"", b"")

    def field(self, name: str) -> bytes:
        """Return the value of a request field; of several lines the first; b"": there is none."""
        found = _FIELDS[name](self.head)
        return found[1].strip(b" \t") if found else b""


class Moment(NamedTuple):
    """A second, as it is written."""

    local: bytes  # 30/Nov/2026:18:41:20 +0000
    iso: bytes  # 2026-11-30T18:41:20+00:00


_MONTHS: Final = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)


def moment(year: int, month: int, day: int, time: tuple[int, int, int], offset: int) -> Moment:
    """Write a time of day; `offset`: of its zone, in seconds east of Greenwich.

    Not by strftime(3): its months are those of the locale.
    """
    sign = "-" if offset < 0 else "+"
    hours, minutes = divmod(abs(offset) // 60, 60)
    clock = "{:02}:{:02}:{:02}".format(*time)
    local = f"{day:02}/{_MONTHS[month - 1]}/{year}:{clock} {sign}{hours:02}{minutes:02}"
    iso = f"{year}-{month:02}-{day:02}T{clock}{sign}{hours:02}:{minutes:02}"
    return Moment(local.encode(), iso.encode())


def _reader(name: str) -> Callable[[Record], bytes]:
    return lambda record: record.field(name)


def _finder(name: str) -> Callable[[bytes], "re.Match[bytes] | None"]:
    # Linear: blanks at the end are taken off later.
    return re.compile(rb"\r\n(?i:%b):([^\r\n]*+)" % name.replace("_", "-").encode()).search


FIELDS: Final = ("host", "referer", "user_agent", "x_forwarded_for", "x_request_id")
"""The request fields that a format can read: `$http_` and the name."""
_FIELDS: Final = {name: _finder(name) for name in FIELDS}


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


_OURS: Final[dict[str, Callable[[Record], object]]] = {
    "status": lambda record: record.status,
    "body_bytes_sent": lambda record: record.body,
    "bytes_sent": lambda record: record.sent,
    "request_time": lambda record: "{}.{:03}".format(*divmod(_milliseconds(record.seconds), 1000)),
    "gate": lambda record: record.gate,
    "scheme": lambda record: record.scheme_used,
    "gate_ms": lambda record: _milliseconds(record.waited),
}
"""The variables that we write ourselves: nothing in them needs to be escaped."""
_TIMES: Final[dict[str, Callable[[Moment], bytes]]] = {
    "time_local": lambda moment: moment.local,
    "time_iso8601": lambda moment: moment.iso,
}
_TEXTS: Final[dict[str, Callable[[Record], bytes]]] = {
    "remote_addr": lambda record: record.peer.encode(),
    "remote_user": lambda record: b"",  # nobody logs in here
    "request": lambda record: record.line,
    "request_method": lambda record: record.words[0],
    "request_uri": lambda record: record.words[1],
    "server_protocol": lambda record: record.words[2],
    "ssl_protocol": lambda record: record.tls.encode(),
    "host": lambda record: host_name(record.host or record.field("host")),
    **{f"http_{name}": _reader(name) for name in FIELDS},
}
"""The variables that others have written, or that may be missing."""
VARIABLES: Final = (*_TEXTS, *_TIMES, *_OURS)

_COMMON: Final = '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent'
_KEYS: Final = (
    *("time_iso8601", "remote_addr", "request_method", "request_uri", "server_protocol"),
    *("status", "body_bytes_sent", "bytes_sent", "request_time"),
    *("http_host", "http_referer", "http_user_agent", "ssl_protocol", "gate", "gate_ms"),
)


def _json(names: Iterable[str]) -> str:
    """Return the format of an object with these keys."""
    numbers = {*_OURS} - {"gate", "scheme"}
    pairs = (f'"{each}":' + (f"${each}" if each in numbers else f'"${each}"') for each in names)
    return "{" + ",".join(pairs) + "}"


NAMED: Final = {
    "common": _COMMON,
    "combined": f'{_COMMON} "$http_referer" "$http_user_agent"',
    "json": _json(_KEYS),
}
"""The formats that have names."""

_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w*))")
_PLAIN: Final = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))
_SPECIAL: Final = re.compile(rb'["\\\x00-\x1f\x7f-\xff]')
_LARGEST: Final = 6  # bytes that a byte becomes at most: \u001f
_OURS_LARGEST: Final = 32  # bytes of a variable of ours, at most
_LEAST: Final = 32  # bytes of each text that a line must have room for

Escape: TypeAlias = Callable[[bytes], bytes]
_Maker: TypeAlias = Callable[[Record, Moment, int | None], bytes]


def as_text(value: bytes) -> bytes:
    """Escape as nginx does (`escape=default`); what is missing is "-"."""
    if not value.translate(None, _PLAIN):  # the fastest way to see that all is plain
        return value or b"-"
    return _SPECIAL.sub(lambda found: b"\\x%02X" % found[0][0], value)


def as_json(value: bytes) -> bytes:
    """Escape for a string of JSON (RFC 8259 7), in ASCII: bytes that are no UTF-8 as text does."""
    if not value.translate(None, _PLAIN):
        return value
    text = json.dumps(value.decode("utf-8", "backslashreplace"))
    return text[1:-1].replace("\x7f", "\\u007f").encode()


class LogFormat:
    """What is written of each answer.

    `text`: one of the `NAMED` formats, or a text with variables: `$status`, `${status}`. Raises
    ValueError, with the rest of a sentence that begins with the name of the setting.
    """

    def __init__(self, text: str) -> None:
        self._escape: Escape = as_json if text == "json" else as_text
        text = NAMED.get(text, text)
        if not text.isprintable():
            raise ValueError("must be one line of printable text")
        self._names: list[str] = []
        literals = [text[start:end].encode() for start, end in self._between(text)]
        if not self._names:
            raise ValueError(f"must have a variable, such as $request, or be a name{_near(text)}")
        self._template = b"%b".join(each.replace(b"%", b"%%") for each in literals) + b"\n"
        self._makers = [self._maker(name) for name in self._names]
        self._room = self._room_for_each_text(literals)

    def _between(self, text: str) -> Iterable[tuple[int, int]]:
        """Yield where the text between variables is, and note their names."""
        start = 0
        for found in _VARIABLE.finditer(text):
            name = found[1] or found[2]
            if name not in VARIABLES:
                raise ValueError(f"must not name ${name}, which is no variable{_nearest(name)}")
            self._names.append(name)
            yield start, found.start()
            start = found.end()
        yield start, len(text)

    def _room_for_each_text(self, literals: Iterable[bytes]) -> int:
        """Return how many bytes of each text fit into a line that would be too long."""
        texts = sum(name in _TEXTS for name in self._names)
        ours = sum(map(len, literals)) + _OURS_LARGEST * (len(self._names) - texts) + 1
        room = (LONGEST - ours) // (_LARGEST * max(1, texts))
        if room < _LEAST:
            raise ValueError(f"must make lines of at most {LONGEST} bytes")
        return room

    def line(self, record: Record, moment: Moment) -> bytes:
        """Return the line of an answer that has ended in this second.

        Where it would be too long, texts are cut, and end in "...".
        """
        line = self._line(record, moment, None)
        return line if len(line) <= LONGEST else self._line(record, moment, self._room)

    def _line(self, record: Record, moment: Moment, room: int | None) -> bytes:
        return self._template % tuple([make(record, moment, room) for make in self._makers])

    def _maker(self, name: str) -> _Maker:
        """Return a function that writes a variable, with no more than `room` bytes of a text."""
        if name in _TIMES:
            time = _TIMES[name]
            return lambda record, moment, room: time(moment)
        if name in _OURS:
            ours = _OURS[name]
            return lambda record, moment, room: str(ours(record)).encode()
        text, escape = _TEXTS[name], self._escape

        def make(record: Record, moment: Moment, room: int | None) -> bytes:
            value = text(record)
            if room is not None and len(value) > room:
                value = value[: room - 3] + b"..."
            return escape(value)

        return make


def _nearest(name: str) -> str:
    """Return the end of a sentence: which variable may have been meant."""
    found = difflib.get_close_matches(name, VARIABLES, 1, 0.5)
    return f"; the nearest is ${found[0]}" if found else f"; there are: {', '.join(VARIABLES)}"


def _near(text: str) -> str:
    found = difflib.get_close_matches(text, NAMED, 1)
    return f"; the nearest is {found[0]}" if found else f": {', '.join(NAMED)}"
