"""Live: what nginx makes of the same streams. It needs nginx, and sockets of the system.

Where the two may differ is said in CLASSES, and nowhere else; see docs/fuzzing.md.
"""

import atexit
import contextlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Final
from urllib.parse import quote, urljoin

from hypothesis import strategies as st

from bench import servers
from fuzz.tally import note
from fuzz.target import Target
from fuzz.world.clients import CUTS, Script, split
from fuzz.world.reference import Limits, Refused, heads, is_last, read
from fuzz.world.requests import BROKEN, LAST, WIRES
from tests import rig
from tests.simulated import NOW
from trio_amped.semantics.target import parse_target

_FILES: Final = {
    "index.html": b"<h1>root</h1>",
    "a.txt": b"0123456789",
    "empty.txt": b"",
    "large.bin": bytes(index * index % 251 for index in range(50_000)),
    "new.txt": b"just written",
    "s.js": b"long " * 2000,
    "s.js.gz": b"short",
}
_NGINX: Final = [
    "gzip_static on;",
    "types { text/html html; text/plain txt; text/javascript js; }",
    "default_type application/octet-stream;",
]
_OURS: Final = [
    "--precompressed=gzip",
    *(f"--{wait}-timeout={rig.GUARD}" for wait in ("head", "keep-alive", "send", "disk")),
]
"""None of our deadlines passes on a busy machine; those of nginx are a minute."""
_LIMITS: Final = Limits(max_head=16 * 1024, max_target=8 * 1024, max_fields=100)

_OF_CONTENT: Final = (b"content-length", b"content-range", b"content-encoding")
_CONDITIONS: Final = (
    *(b"if-match", b"if-none-match", b"if-range"),
    *(b"if-modified-since", b"if-unmodified-since"),
)


@dataclass(frozen=True)
class Said:
    """One answer, as far as two servers can be compared by it."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.fields.get(b"connection") == b"close"

    @property
    def has_parts(self) -> bool:
        return self.fields.get(b"content-type", b"").startswith(b"multipart/byteranges")

    @property
    def content(self) -> tuple[object, ...]:
        """That of an error is anybody's, and so is the boundary between parts."""
        if self.status not in (200, 206) or self.has_parts:
            return ()
        return self.body, *map(self.fields.get, _OF_CONTENT)

    @property
    def about(self) -> tuple[object, ...]:
        """Where it leads, and what it is, without what one server says more of it."""
        kind = self.fields.get(b"content-type", b"").partition(b";")[0]
        location = re.sub(rb"https?://[^/]*", b"", self.fields.get(b"location", b""))
        return location, kind if self.status in (200, 206) else b""

    def to(self, target: bytes) -> "Said":
        """Return the same with a Location that is absolute, as a client that asked this has it."""
        location = self.fields.get(b"location")
        if location is None:
            return self
        asked = parse_target(target)
        here = b"http://h/" + quote(asked.path).encode() + b"/" * asked.is_directory
        path, mark, query = location.partition(b"?")  # urljoin drops a query that is empty
        return replace(self, fields=self.fields | {b"location": urljoin(here, path) + mark + query})

    def __str__(self) -> str:
        fields = b", ".join(b"%s: %s" % field for field in self.fields.items()).decode("latin-1")
        return f"{self.status} with {len(self.body)} bytes ({fields})"

    @property
    def essence(self) -> tuple[object, ...]:
        return self.status, self.closes, *self.content, *self.about


@dataclass(frozen=True)
class Asked:
    """A head, for those who have to tell what is odd about it."""

    wire: bytes
    is_last: bool
    refused: int | None = None  # the status that a head gets which cannot be read

    @cached_property
    def lines(self) -> list[bytes]:
        return self.wire.partition(b"\r\n\r\n")[0].split(b"\r\n")

    @property
    def method(self) -> bytes:
        return self.lines[0].partition(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.lines[0].partition(b" ")[2].partition(b" ")[0]

    def count(self, name: bytes) -> int:
        return sum(line.lower().startswith(name + b":") for line in self.lines[1:])

    def says(self, pattern: bytes) -> bool:
        """Whether a line of the head looks like this."""
        return any(re.match(pattern, line, re.IGNORECASE) for line in self.lines)


@dataclass(frozen=True)
class Class:
    """A kind of difference: for these requests nginx says one of these statuses where we say
    one of `ours`, or one of us `closes` the connection and the other does not."""

    name: str
    why: str
    asked: Callable[[Asked], bool]
    statuses: tuple[int, ...] = ()
    ours: tuple[int, ...] = ()
    closes: bool = False
    ends: bool = False  # nginx says nothing after that


_ANY: Final = (200, 206, 301, 304, 400, 404, 412, 416)  # of a head that is understood
_RANGED: Final = (200, 206, 416)
_STATUSES: Final = (200, 206, 301, 304, 400, 403, 404, 405, 412, 416)
_RANGE: Final = (
    rb"range:[ \t]*bytes=(?!5-1)([0-9]+-[0-9]*|-[0-9]+)([ \t,]+([0-9]+-[0-9]*|-[0-9]+))*[ \t]*$"
)
_WITH_TARGET_FAULT: Final = re.compile(rb"(?!/|http://)|/\.\./|.*%(00|[^0-9a-f]|.[^0-9a-f])", re.I)

_MALFORMED: Final = Class(
    "malformed head",
    "it reads round much that nobody can be sure of; we say 400 and close (RFC 9112 2.2)",
    lambda asked: asked.refused is not None,
)
CLASSES: Final = (
    _MALFORMED,
    Class(
        "content",
        "it reads the content, and says 400 to some; nobody sends any to files, so we close",
        lambda asked: asked.says(rb"content-length: *0*[1-9]|transfer-encoding:"),
        statuses=(400,),
        ours=_ANY,
        closes=True,
    ),
    Class(
        "line folding",
        "it refuses what we read as a space; RFC 9112 5.2 allows both",
        lambda asked: asked.says(rb"[ \t]"),
        statuses=(400,),
        ours=_ANY,
        closes=True,
    ),
    Class(
        "bare LF",
        "it ends a line there, as RFC 9112 2.2 allows; we refuse what a proxy may see otherwise",
        lambda asked: re.search(rb"(?<!\r)\n", asked.wire) is not None,
        statuses=(200,),
        ours=(400,),
        closes=True,
    ),
    Class(
        "repeated Accept-Encoding",
        "it takes the first one; RFC 9110 5.3: they are one list",
        lambda asked: asked.count(b"accept-encoding") > 1,
        statuses=(200, 206, 304, 416),
        ours=(200, 206, 304, 416),
    ),
    Class(
        "Range of a precompressed file",
        "it sends all of it, coded; most who ask for a part decode nothing, so they get it plain",
        lambda asked: asked.target == b"/s.js" and asked.says(rb"accept-encoding: gzip"),
        statuses=(200,),
        ours=(206, 416),
    ),
    Class(
        "repeated conditions",
        "it refuses a second field of one kind; to us such a condition is none (RFC 9110 5.3)",
        lambda asked: any(asked.count(name) > 1 for name in _CONDITIONS),
        statuses=(400,),
        ours=_ANY,
        closes=True,
    ),
    Class(
        "repeated Range",
        "it takes the first one; to us two of them are none (RFC 9110 5.3)",
        lambda asked: asked.count(b"range") > 1,
        statuses=_RANGED,
        ours=(200,),
    ),
    Class(
        "Range with HEAD",
        "it answers with 206 or 416; RFC 9110 14.2: Range is for GET",
        lambda asked: asked.method == b"HEAD" and asked.count(b"range") == 1,
        statuses=_RANGED,
        ours=(200,),
    ),
    Class(
        "Range that is none",
        "it says 416 or 206 to some, such as 5-1; RFC 9110 14.1.1: an invalid Range is ignored",
        lambda asked: asked.says(rb"range:") and not asked.says(_RANGE),
        statuses=(206, 416),
        ours=(200,),
    ),
    Class(
        "fragment",
        "it drops the fragment of a target; RFC 9112 3.2: a target has none",
        lambda asked: b"#" in asked.target,
        statuses=_STATUSES,
        ours=(400,),
        closes=True,
    ),
    Class(
        "no index",
        "it says that a directory may not be listed, we that there is nothing",
        lambda asked: asked.target == b"/folder/",
        statuses=(403,),
        ours=(404,),
    ),
    Class(
        "malformed target",
        "it takes some of them; we say 400 and close (RFC 9112 3.2)",
        lambda asked: _WITH_TARGET_FAULT.match(asked.target) is not None,
        statuses=_STATUSES,
        ours=(400,),
        closes=True,
    ),
    Class(
        "methods",
        "it says 405 to each, and knows no OPTIONS for files; RFC 9110 9.1: 501 to an unknown one",
        lambda asked: asked.method not in (b"GET", b"HEAD"),
        statuses=(400, 405),
        ours=(200, 405, 501),
        closes=True,
    ),
    Class(
        "version",
        "it says 400 if more is wrong; we look at the version first (RFC 9110 15.6.6)",
        lambda asked: asked.lines[0].endswith(b" HTTP/2.0"),
        statuses=(400,),
        ours=(505,),
    ),
    Class(
        "expectation",
        "it passes over those that it does not know; RFC 9110 10.1.1 allows 417",
        lambda asked: asked.says(rb"expect:(?![ \t]*100-continue[ \t]*$)"),
        statuses=_STATUSES,
        ours=(417,),
    ),
    Class(
        "malformed Host",
        "it takes some of them; we say 400 and close (RFC 9112 3.2)",
        lambda asked: not asked.says(rb"host:[ \t]*[a-z0-9.]+[ \t]*$"),
        statuses=_STATUSES,
        ours=(400,),
        closes=True,
    ),
    Class(
        "failed precondition",
        "after a 412 it ends the connection without a word",
        lambda asked: asked.says(rb"if-(match|unmodified-since):"),
        statuses=(412,),
        ends=True,
    ),
)


# ------------------------------------------------------------------ both servers


_STARTED: Final = contextlib.ExitStack()


@cache
def _ports() -> tuple[int, int]:
    """Both servers, from their first use to the end of this process."""
    if not shutil.which("nginx"):
        raise FileNotFoundError("this target needs nginx: apt-get install nginx")
    root = _STARTED.enter_context(rig.public_directory())
    for name, content in _FILES.items():
        (root / name).write_bytes(content)
        os.utime(root / name, (NOW, NOW))
    (root / "folder").mkdir()
    ours = servers.trio_amped(root, _OURS, lambda command: command)
    theirs = servers.nginx(root, _NGINX, lambda command: command)
    return _STARTED.enter_context(ours), _STARTED.enter_context(theirs)


@atexit.register
def stop() -> None:
    """End both, if they were started."""
    _ports.cache_clear()
    _STARTED.close()


def _ask(port: int, script: Script) -> bytes:
    """All that a server says to a stream which ends with the last request."""
    received = bytearray()
    with socket.create_connection((servers.HOST, port), timeout=rig.GUARD) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # it may have heard enough
            for _, piece in script.pieces:
                sock.sendall(piece)
            if script.ending == "eof":
                sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(1 << 16):
                received += data
    return bytes(received)


def _answers(received: bytes, requests: Sequence[Asked], may_go_on: bool = False) -> list[Said]:
    """Read naively: RFC 9112 6.3; `may_go_on`: what comes after those is nobody's concern."""
    found: list[Said] = []
    rest = received
    while rest.startswith(b"HTTP/1.") and len(found) < len(requests):
        head, _, rest = rest.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        status = int(line.split(b" ")[1])
        if status < 200:
            continue
        named = (each.partition(b": ") for each in lines)
        fields = {name.lower(): value for name, _, value in named}
        length = int(fields.get(b"content-length", b"0"))
        if status == 304 or requests[len(found)].method == b"HEAD":
            length = 0
        found.append(Said(status, fields, rest[:length]))
        assert len(found[-1].body) == length, "an answer that is cut"
        rest = rest[length:]
    assert may_go_on or not rest, f"what is this? {rest[:80]!r}"
    return found


# ------------------------------------------------------------------ the property


def _requests(stream: bytes) -> list[Asked]:
    """As far as anybody can tell where they begin."""
    found: list[Asked] = []
    for head in heads(stream, _LIMITS):
        found.append(_asked(head))
        if found[-1].is_last:
            break
    return found


def _asked(head: bytes | int) -> Asked:
    if isinstance(head, int):
        return Asked(b"", True, head)
    try:
        method, _, version, fields = read(head)
    except Refused as refused:
        return Asked(head, True, refused.status)
    return Asked(head, is_last(method, version, fields))


def check_nginx(asks: list[bytes], cuts: tuple[int, ...], ending: str) -> None:
    """nginx says the same to the same stream, but for a documented list of differences."""
    wire = b"".join(asks) + LAST
    *requests, last = _requests(wire)
    requests += [last] * (last.refused is None)
    script = replace(split(wire, cuts), ending=ending)
    to_us, to_nginx = (_ask(port, script) for port in _ports())
    ours = _answers(to_us, [*requests, last])
    theirs = _answers(to_nginx, requests, may_go_on=True)
    for number, (asked, mine, other) in enumerate(zip(requests, ours, theirs, strict=False), 1):
        mine = mine.to(asked.target)
        if mine.essence != other.essence:
            _explain(asked, mine, other)
        if mine.closes:
            assert len(ours) == number, f"an answer after the last one: {wire[:900]!r}"
        if mine.closes or other.closes:
            return
        if number == len(theirs) < min(len(ours), len(requests)):
            _explain_silence(asked, other, wire)
            return
    if last.refused:
        assert (ours[-1].status, ours[-1].closes) == (last.refused, True), f"to {wire[:900]!r}"
        assert len(ours) == len(requests) + 1
        note("nginx difference", _MALFORMED.name)
    else:
        assert len(ours) == len(theirs), f"to {wire[:900]!r} we say less"


def _explain(asked: Asked, ours: Said, theirs: Said) -> None:
    """Raises AssertionError where no class says that this may be."""
    named = [each for each in CLASSES if each.asked(asked)]
    said = f"to {asked.wire[:300]!r}: we say {ours}, nginx says {theirs}"
    if (ours.status, ours.content, ours.about) != (theirs.status, theirs.content, theirs.about):
        may_say = [
            each for each in named if theirs.status in each.statuses and ours.status in each.ours
        ]
        _note_first(may_say, said)
    if ours.closes != theirs.closes:
        _note_first([each for each in named if each.closes], said)


def _explain_silence(asked: Asked, last: Said, wire: bytes) -> None:
    """The same for an end of nginx's answers that was not announced."""
    may_end = [
        each for each in CLASSES if each.ends and last.status in each.statuses and each.asked(asked)
    ]
    _note_first(may_end, f"to {wire[:900]!r}: nginx says nothing after {last}")


def _note_first(classes: list[Class], said: str) -> None:
    assert classes, said
    note("nginx difference", classes[0].name)


TARGETS: Final = (
    Target(
        "nginx",
        check_nginx,
        {
            "asks": st.lists(WIRES | WIRES | BROKEN, min_size=1, max_size=3),
            "cuts": CUTS,
            "ending": st.sampled_from(["stay", "eof"]),
        },
        is_live=True,
    ),
)
