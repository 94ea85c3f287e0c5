"""What an independent client makes of answers: h11's client side, and llhttp's opinion. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import h11
import httptools

# Title-Case, as every client has seen it; "ETag" is as RFC 9110 writes it.
_FIELD_LINE = re.compile(rb"(?:ETag|[A-Z][a-z]*(?:-[A-Z][a-z]*)*): [!-~](?:[ -~]*[!-~])?")


@dataclass(frozen=True)
class Answer:
    """One response; the names in `headers` are lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_complete: bool

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


def parse(data: bytes, methods: Sequence[bytes]) -> list[Answer]:
    """The answers to requests with these methods; further ones are taken for answers to GET.

    Fails when a byte is left over, or when the two parsers do not agree.
    """
    answers: list[Answer] = []
    rest = data
    while rest:
        method = methods[len(answers)] if len(answers) < len(methods) else b"GET"
        answer, rest = _next_answer(rest, method)
        answers.append(answer)
    if b"HEAD" not in methods:
        _check_second_opinion(data, answers)
    return answers


@dataclass(frozen=True)
class Reply:
    """An application's answer, which h11 alone is asked about: it may be chunked."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_complete: bool


def replies(data: bytes, methods: Sequence[str]) -> list[Reply]:
    """The answers to requests with these methods; nothing is left over."""
    found = []
    for method in methods:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        while isinstance(head := client.next_event(), h11.InformationalResponse):
            assert head.status_code == 100
        assert isinstance(head, h11.Response), head
        body = bytearray()
        event: object = None
        try:
            while isinstance(event := client.next_event(), h11.Data):
                body += event.data
            if event is h11.NEED_DATA:
                client.receive_data(b"")
                event = client.next_event()
        except h11.RemoteProtocolError:
            event = None
        is_complete = isinstance(event, h11.EndOfMessage)
        headers = {name.decode(): value.decode() for name, value in head.headers}
        found.append(Reply(head.status_code, headers, bytes(body), is_complete))
        data = client.trailing_data[0] if is_complete else b""
    assert data == b""
    return found


def _next_answer(data: bytes, method: bytes) -> tuple[Answer, bytes]:
    _check_head(data.partition(b"\r\n\r\n")[0])
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    head = client.next_event()
    assert isinstance(head, h11.Response), head
    names = [name.decode() for name, _ in head.headers]
    assert len(names) == len(set(names)), names
    body = bytearray()
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    is_complete = isinstance(event, h11.EndOfMessage)
    headers = {name.decode(): value.decode() for name, value in head.headers}
    answer = Answer(head.status_code, headers, bytes(body), is_complete)
    _check_answer(answer, method)
    return answer, client.trailing_data[0] if is_complete else b""


def _check_head(head: bytes) -> None:
    """The bytes on the wire, which parsers would forgive."""
    status_line, *fields = head.split(b"\r\n")
    assert re.fullmatch(rb"HTTP/1\.1 [1-5][0-9]{2} [ -~]+", status_line), status_line
    for line in fields:
        assert _FIELD_LINE.fullmatch(line), line


def _check_answer(answer: Answer, method: bytes) -> None:
    """What every answer of this server must have (RFC 9110 6.6.1, 8.6).

    HEAD of what is generated has neither length nor tag (9.3.2).
    """
    assert "date" in answer.headers
    assert "transfer-encoding" not in answer.headers
    if "content-length" in answer.headers:
        assert answer.status != 304
    elif answer.status != 304:
        assert (method, answer.status) == (b"HEAD", 200)
        assert "etag" not in answer.headers
    assert answer.headers.get("connection") in (None, "close")


@dataclass
class _SecondOpinion:
    """Collects what llhttp sees."""

    found: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: int = 0
    parser: httptools.HttpResponseParser | None = None

    def on_message_begin(self) -> None:
        self.headers, self.body = {}, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        self.found.append((self.parser.get_status_code(), self.headers, b""))

    def on_body(self, body: bytes) -> None:
        status, headers, before = self.found.pop()
        self.found.append((status, headers, before + body))

    def on_message_complete(self) -> None:
        self.complete += 1


def _check_second_opinion(data: bytes, answers: list[Answer]) -> None:
    opinion = _SecondOpinion()
    opinion.parser = httptools.HttpResponseParser(opinion)
    opinion.parser.feed_data(data)
    assert opinion.found == [(each.status, each.headers, each.body) for each in answers]
    assert opinion.complete == sum(each.is_complete for each in answers)
