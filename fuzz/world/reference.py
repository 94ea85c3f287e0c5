"""A naive origin server: a whole stream of requests in, all answers out. Pure, and imports nothing
of ours; written from RFC 9110 and 9112, it has no cache, no gate, and reads letter by letter.

tests/reference.py answers for one resource. Where the RFC leaves a choice, "Policy" says what
docs/design.md has chosen.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import Final

from tests import reference
from tests.reference import Answer, Fields, Form, Resource

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE: Final = re.compile(rf"({_TOKEN}) ([!-~]+) HTTP/([0-9]\.[0-9])")
_VISIBLE: Final = r"[^\0\t-\r ]"
_FIELD: Final = re.compile(rf"({_TOKEN}):[ \t]*((?:{_VISIBLE}(?:[ \t]|{_VISIBLE})*)?)")
_NAME: Final = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
_AUTHORITY: Final = re.compile(rf"(?:\[([0-9A-Fa-f:.]+)\]|{_NAME})(?::[0-9]*)?")
_KNOWN: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE")
_TYPES: Final = {"html": "text/html", "txt": "text/plain", "js": "text/javascript"}
_ARCHIVES: Final = {"br": "application/x-brotli", "gz": "application/gzip"}
_CODINGS: Final = {"br": b".br", "zstd": b".zst", "gzip": b".gz"}  # in the order of preference
LINE_SLACK: Final = 32  # Policy: a request line may be longer than its target by so much

Files = Mapping[bytes, Form | None]
"""None: a directory; with a slash at its end, what it shows where it has no index, and with .gz
behind that, the same in gzip."""
_TAGS: Final = ("if-match", "if-none-match")
_DATES: Final = ("if-modified-since", "if-unmodified-since")
_PAGE: Final = b"404.html"  # Policy: what is sent with that status, where it is there


@dataclass(frozen=True)
class Limits:
    max_head: int
    max_target: int
    max_fields: int


@dataclass(frozen=True)
class Expected:
    """`closes`: it is the last answer; `path`: of the file that it is about."""

    method: str
    answer: Answer
    closes: bool
    path: bytes = b""


class Refused(Exception):
    """A status, and whether the stream is not read on: never after 400 and 505 (RFC 9112 2.2)."""

    def __init__(self, status: int, closes: bool = False) -> None:
        super().__init__(status)
        self.status = status
        self.closes = closes or status in (400, 505)


def answers(stream: bytes, files: Files, limits: Limits, now: float) -> list[Expected]:
    """What a client gets that sends this and ends its side."""
    found: list[Expected] = []
    for head in heads(stream, limits):
        found.append(answer(head, files, now))
        if found[-1].closes:
            break
    return found


def heads(stream: bytes, limits: Limits) -> Iterator[bytes | int]:
    """One head after the other, and the status of what is none (RFC 9112 2.1, 2.2).

    Policy: the first byte decides at which something is certainly wrong.
    """
    head, line, lines = b"", b"", 0
    for byte in map(bytes, zip(stream, strict=True)):
        head, line = head + byte, line + byte
        ends_line, ends_head = line.endswith(b"\r\n"), line == b"\r\n" and lines > 0
        faults = []
        if byte == b"\0" or (byte == b"\n") != (line[-2:-1] == b"\r"):
            faults.append(400)
        if lines == 0 and len(line) >= limits.max_target + LINE_SLACK and byte != b"\n":
            faults.append(414)
        if lines == 0 and len(line) > limits.max_target + LINE_SLACK:
            faults.append(414)
        if len(head) > limits.max_head or (len(head) == limits.max_head and not ends_head):
            faults.append(431)
        if ends_line and line != b"\r\n" and lines == limits.max_fields + 1:
            faults.append(431)
        if faults:
            yield min(faults)
            return
        if ends_head:
            yield head.lstrip(b"\r\n")
            head, line, lines = b"", b"", 0
        elif ends_line:
            lines += line != b"\r\n"
            line = b""
    if line or lines:
        yield 400  # it ended within a head


def answer(head: bytes | int, files: Files, now: float) -> Expected:
    """The answer to one head, or to what is none."""
    method = "HEAD" if isinstance(head, bytes) and head.startswith(b"HEAD ") else "GET"
    closes = True
    try:
        if isinstance(head, int):
            raise Refused(head, closes=True)
        method, target, version, fields = read(head)
        closes = is_last(method, version, fields)
        _check(method, version, fields)
        if method == "OPTIONS":
            if target != "*":
                _path(target)
            return Expected(method, Answer(200, {}), closes)
        path = _path(target)
        if files.get(path, b"") is None:
            raise Refused(301)
        index = path + b"index.html" if path[-1:] in (b"", b"/") else path
        if index not in files and files.get(path) is not None:
            listing = replace(resource(path, files), media_type=media_type(b"x.html"))
            return Expected(method, _listing(method, fields, listing, now), closes, index)
        found = reference.answer(method, fields, resource(index, files), now)
        return Expected(method, found, closes, index)
    except Refused as refused:
        page = files.get(_PAGE) if refused.status == 404 else None
        found = Answer(404, _of(page), page.content) if page else Answer(refused.status, {}, None)
        return Expected(method, found, closes or refused.closes)


def _of(page: Form) -> dict[str, str]:
    """The fields that are about the text of an error."""
    return {"content-type": media_type(_PAGE), "content-length": str(len(page.content))}


def _listing(method: str, fields: Fields, listing: Resource, now: float) -> Answer:
    """It has no date, so no condition on one counts (RFC 9110 13.1.3, 13.1.4).

    Policy: HEAD without any precondition leaves out what only the content tells (9.3.2).
    """
    kept = [field for field in fields if field[0] not in _DATES]
    found = reference.answer(method, kept, listing, now)
    unknown = {"last-modified"}
    names = [name for name, _ in fields]
    has_date = any(names.count(name) == 1 for name in _DATES)  # twice is malformed: none
    if method == "HEAD" and not has_date and not any(name in names for name in _TAGS):
        unknown |= {"etag", "content-length"}
    shown = {name: value for name, value in found.fields.items() if name not in unknown}
    if "vary" in shown:
        shown["vary"] = "Accept, Accept-Encoding"
    return replace(found, fields=shown)


def read(head: bytes) -> tuple[str, str, str, Fields]:
    """RFC 9112 3, 5. Raises Refused. Policy: a line folding (5.2) is a space, other control
    characters are kept within a value, where RFC 9110 5.5 allows either; white space at its ends
    counts as such."""
    first, *lines = re.sub(r"\r\n[ \t]+", " ", head[:-4].decode("latin-1")).split("\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    found = [_FIELD.fullmatch(line) for line in lines]
    if request is None or None in found:
        raise Refused(400)
    fields = [(field[1].lower(), field[2].strip(" \t")) for field in found if field]
    _check_framing(request[3], fields)
    return request[1], request[2], request[3], fields


def _all(fields: Fields, name: str) -> list[str]:
    return [value for known, value in fields if known == name]


def _check_framing(version: str, fields: Fields) -> None:
    """RFC 9112 3.2, 6.1, 6.3: who does not know where it ends, or for whom it is, reads no more."""
    hosts = _all(fields, "host")
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise Refused(400)
    lengths = {
        each.strip() for value in _all(fields, "content-length") for each in value.split(",")
    }
    if len(lengths) > 1 or any(not re.fullmatch("[0-9]{1,20}", each) for each in lengths):
        raise Refused(400)
    if [each.lower() for each in _all(fields, "transfer-encoding")] not in ([], ["chunked"]):
        raise Refused(501, closes=True)


def is_last(method: str, version: str, fields: Fields) -> bool:
    """RFC 9112 9.3. Policy: content is never read, so nothing can follow; nor after 1.0."""
    tokens = {each.strip().lower() for v in _all(fields, "connection") for each in v.split(",")}
    has_content = any(int(each.split(",")[0]) for each in _all(fields, "content-length"))
    has_content |= bool(_all(fields, "transfer-encoding"))
    return "close" in tokens or version < "1.1" or has_content or method == "CONNECT"


def _check(method: str, version: str, fields: Fields) -> None:
    """What is refused whatever the target. Policy: in this order."""
    if version[0] != "1":
        raise Refused(505)
    if _all(fields, "content-length") and _all(fields, "transfer-encoding"):
        raise Refused(400)  # RFC 9112 6.1: smuggling
    hosts = _all(fields, "host")
    if (not hosts and version != "1.0") or any(not _is_authority(host) for host in hosts):
        raise Refused(400)  # RFC 9112 3.2
    if method not in _KNOWN[:3]:
        raise Refused(405 if method in _KNOWN else 501)  # RFC 9110 9.1
    expected = {each.strip().lower() for v in _all(fields, "expect") for each in v.split(",")}
    if version != "1.0" and expected - {"", "100-continue"}:
        raise Refused(417)  # RFC 9110 10.1.1


def _is_authority(text: str) -> bool:
    """RFC 3986 3.2. Policy: a host is needed, and IPvFuture is nobody's."""
    match = _AUTHORITY.fullmatch(text)
    if match and match[1]:
        try:
            IPv6Address(match[1])
        except ValueError:
            return False
    return match is not None


def _path(target: str) -> bytes:
    """What a target names (RFC 9112 3.2, RFC 3986 5.2.4); a directory has its slash.

    Policy: empty segments are none, hidden names are not there, "above the root" is malformed.
    """
    absolute = re.fullmatch(r"https?://([^/?]*)(.*)", target, re.IGNORECASE)
    if absolute and not _is_authority(absolute[1]):
        raise Refused(400)
    path = (absolute[2] if absolute else target).partition("?")[0] or ("/" if absolute else "")
    if "#" in target or path[:1] != "/" or re.search(r"%(?![0-9A-Fa-f]{2})", path):
        raise Refused(400)
    if path.count("/") > 255:  # Policy: each segment takes its time
        raise Refused(404)
    kept: list[str] = []
    for segment in path.split("/"):
        name = re.sub("%(..)", lambda escape: chr(int(escape[1], 16)), segment)
        if "\0" in path.replace("%00", "\0"):
            raise Refused(400)
        if name == "..":
            if not kept:
                raise Refused(400)
            kept.pop()
        elif name not in ("", "."):
            kept.append(name)
    if any("/" in name or (name[0] == "." and (at or name != ".well-known")) for at, name in
           enumerate(kept)):  # fmt: skip
        raise Refused(404)
    if kept and name in ("", ".", ".."):
        kept.append("")
    return "/".join(kept).encode("latin-1")


def resource(path: bytes, files: Files) -> Resource:
    """The file at a path with its sidecars. Raises Refused."""
    plain = files.get(path)
    if plain is None:
        raise Refused(404)
    sidecars = [(coding, files.get(path + suffix)) for coding, suffix in _CODINGS.items()]
    forms = tuple(replace(each, coding=coding) for coding, each in sidecars if each)
    return Resource(plain, media_type(path), forms)


def status_of(name: str, call: str) -> int:
    """What is honest when a call of the disk has failed with this errno.

    Policy: what may be there later is 503; what may not be seen looks as if it were not there.
    """
    if name in ("EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "ESTALE", "ETIMEDOUT"):
        return 503
    is_missing = name in ("ENOENT", "EACCES", "ELOOP", "EXDEV", "ENXIO", "ENOTDIR", "ENAMETOOLONG")
    return 404 if is_missing and call in ("open", "open_at_once", "list") else 500


def media_type(path: bytes) -> str:
    ending = path.decode("latin-1").rpartition(".")[2]
    if kind := _TYPES.get(ending):
        return f"{kind}; charset=utf-8"
    return _ARCHIVES.get(ending, "application/octet-stream")
