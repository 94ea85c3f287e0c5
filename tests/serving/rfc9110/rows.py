"""A row of a table: what RFC 9110 requires of a server of files, and an exchange that shows it."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from email.message import Message
from typing import Final, TypeAlias

from tests.serving.cases import FILES, LIMITED, TEXT, Case
from tests.serving.client import Answer, parse
from tests.serving.peers import converse
from tests.simulated import DAY, DIRECTORY, NANO, NOW, failure
from trio_amped.config import Config
from trio_amped.testing import Entry, SimDisk, SimFile

Fields: TypeAlias = Mapping[str, str | None]
Part: TypeAlias = tuple[str, str, bytes]  # Content-Type, Content-Range, and what follows

TEN: Final = b"0123456789"  # a.txt
ROOT: Final = b"<h1>root</h1>"
PLAIN: Final = b"plain script"
BROTLI: Final = b"brotli bytes"
GZIP: Final = b"gzip's bytes"
OLD: Final = (NOW - DAY) * NANO  # the date of most files
CONSTANT: Final = 499_162_500 * NANO  # that of all files of npm
SITE: Final[dict[bytes, Entry]] = {
    # Forms of one size and one date: nothing but the coding can tell their entity tags apart.
    b"app.js": PLAIN,
    b"app.js.br": BROTLI,
    b"app.js.gz": GZIP,
    b"list": SimFile(mode=DIRECTORY),
    b"list/one.txt": b"1",
    b"future.txt": SimFile(b"of tomorrow", mtime_ns=(NOW + DAY) * NANO),
    b"nix.txt": SimFile(TEN, mtime_ns=NANO, ctime_ns=OLD),
    b"touched.txt": SimFile(TEN, mtime_ns=NANO, ctime_ns=NOW * NANO),
    b"npm.js": SimFile(PLAIN, mtime_ns=CONSTANT, ctime_ns=OLD),
    b"npm.js.br": SimFile(BROTLI, mtime_ns=CONSTANT, ctime_ns=OLD),
    b"secret.txt": failure(errno.EACCES),
    b"broken.txt": failure(errno.EIO),
    b"busy.txt": failure(errno.EMFILE),
}
SCRIPT: Final = "text/javascript; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json"

PLAIN_TAG: Final = f'"{OLD:x}-c"'
BROTLI_TAG: Final = f'"{OLD:x}-c-br"'
NEW_TAG: Final = f'W/"{NOW * NANO:x}-c"'  # of new.txt
EARLIER: Final = "Mon, 13 Nov 2023 22:13:19 GMT"  # MODIFIED, less a second
LATER: Final = "Mon, 13 Nov 2023 22:13:21 GMT"  # MODIFIED, and a second

LISTING: Final = replace(LIMITED, listing=True)
APP: Final = replace(LIMITED, fallback="/index.html")
CORS: Final = replace(LIMITED, cors=("https://a.example",))
SET: Final[dict[str, str]] = {
    "cache-control": "max-age=60",
    "expires": "Tue, 14 Nov 2023 22:14:20 GMT",
    "content-location": "/a",
}
WITH_FIELDS: Final = replace(LIMITED, headers=tuple(f"*: {key.title()}: {SET[key]}" for key in SET))


@dataclass(frozen=True)
class Row:
    """`headers`: None for one that must be missing; `body`: None for the text of the status.

    `parts`: those of a multipart body, which then stand for it.
    """

    section: str
    requirement: str
    request: bytes
    status: int
    body: bytes | None = None
    headers: Fields = field(default_factory=dict)
    closes: bool = False
    config: Config = LIMITED
    parts: tuple[Part, ...] = ()

    def __str__(self) -> str:
        return f"{self.section} {self.requirement}"

    async def run(self) -> None:
        """The exchange: whole, byte by byte, and with a request after it."""
        body = self.body
        if self.parts:
            answer = await ask(self.request, self.config)
            assert parts_of(answer) == self.parts
            body = answer.body
        case = Case(
            str(self), self.request, self.status, body, self.headers, self.closes, SITE,
            config=self.config,
        )  # fmt: skip
        await case.run()


async def ask(request: bytes, config: Config = LIMITED, disk: SimDisk | None = None) -> Answer:
    """The answer to a request, on a connection of its own."""
    disk = disk or site()
    (answer,) = parse(await converse(disk, [request], config), [request.partition(b" ")[0]])
    assert answer.is_complete
    return answer


def site(**entries: Entry) -> SimDisk:
    """A disk with all the files, and these: `a` is a.txt."""
    return SimDisk({**FILES, **SITE, **{f"{name}.txt".encode(): entries[name] for name in entries}})


def parts_of(answer: Answer) -> tuple[Part, ...]:
    """The parts of a multipart body, by a parser for mail: it knows nothing of ranges."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + answer.body)
    assert message.get_content_type() == "multipart/byteranges"
    # Clients are known to take the quotes for a part of the boundary (14.6).
    assert '"' not in answer.headers["content-type"]
    assert not message.defects
    # No file here has a line end in it: all are between the parts (8.3.3).
    assert b"\n" not in answer.body.replace(b"\r\n", b"")
    assert not message.epilogue
    return tuple(_part(each) for each in message.walk() if each is not message)


def _part(part: Message) -> Part:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return part["Content-Type"], part["Content-Range"], content


def text(span: str) -> Part:
    """A part of a.txt: "0-1"."""
    first, _, last = span.partition("-")
    return TEXT, f"bytes {span}/10", TEN[int(first) : int(last) + 1]
