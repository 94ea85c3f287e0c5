"""One request, and what it must get: run whole, byte by byte, and with a request after it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.rig import GUARD
from tests.serving.client import Answer, parse
from tests.serving.peers import converse
from tests.simulated import DIRECTORY, FIFO, NOW
from trio_amped.config import Config
from trio_amped.testing import Entry, SimDisk, SimFile

LARGE: Final = bytes(index * index % 251 for index in range(200_000))
FILES: Final[dict[bytes, Entry]] = {
    b"index.html": b"<h1>root</h1>",
    b"a.txt": b"0123456789",
    b"a b\xff.bin": b"odd name",
    b"empty.txt": b"",
    b"large.bin": LARGE,
    b"folder": SimFile(mode=DIRECTORY),
    b"folder/index.html": b"<h1>folder</h1>",
    b"bare": SimFile(mode=DIRECTORY),
    b"strange/index.html": SimFile(mode=DIRECTORY),
    b"pipe": SimFile(mode=FIFO),
    b"new.txt": SimFile(b"just written", mtime_ns=NOW * 10**9),
    b".well-known/token": b"known",
    b".hidden": b"secret",
}
PATIENT: Final = Config(
    head_timeout=GUARD,
    keep_alive_timeout=GUARD,
    send_timeout=GUARD,
    disk_timeout=GUARD,
    drain_timeout=GUARD,
)
"""For tests on the real clock: none of the server's deadlines passes on a busy machine."""

LIMITED: Final = Config(max_head=512, max_target=64, max_fields=8)

FOLLOWING: Final = b"GET /a.txt HTTP/1.1\r\nHost: after\r\nRange: bytes=3-5\r\n\r\n"
ETAG: Final = '"%x-a"' % ((NOW - 86_400) * 10**9)  # of a.txt
DATE: Final = "Tue, 14 Nov 2023 22:13:20 GMT"
MODIFIED: Final = "Mon, 13 Nov 2023 22:13:20 GMT"
TEXT: Final = "text/plain; charset=utf-8"


def get(target: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request head as a browser would write it."""
    lines = [f"{method} {target} HTTP/{version}", "Host: example.com", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


@dataclass(frozen=True)
class Case:
    """`headers`: None for one that must be missing; `body`: None for the text of the status."""

    name: str
    request: bytes
    status: int
    body: bytes | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    closes: bool = False  # after 400 and 505 always
    entries: dict[bytes, Entry] = field(default_factory=dict)
    prepare: Callable[[SimDisk], object] = lambda disk: None
    config: Config = LIMITED

    def disk(self) -> SimDisk:
        disk = SimDisk({**FILES, **self.entries})
        self.prepare(disk)
        return disk

    @property
    def method(self) -> bytes:
        found = re.match(rb"[A-Z]+", self.request.lstrip(b"\r\n"))
        return found[0] if found else b"GET"

    @property
    def is_last(self) -> bool:
        """Whether nothing is read after it."""
        return self.closes or self.status in (400, 505)

    async def run(self) -> bytes:
        """Run it all three ways; returns what was sent when it was the only request."""
        config = self.config
        disk = self.disk()
        whole = await converse(disk, [self.request], config)
        assert disk.open_files == 0
        pieces = [self.request[i : i + 1] for i in range(len(self.request))]
        assert await converse(self.disk(), pieces, config) == whole

        answers = parse(whole, [self.method])
        assert len(answers) == 1
        self._check(answers[0])

        followed = await converse(self.disk(), [self.request + FOLLOWING], config)
        assert followed.startswith(whole)
        if self.is_last:
            assert followed == whole
        else:
            (following,) = parse(followed[len(whole) :], [b"GET"])
            assert (following.status, following.body) == (206, b"345")
        return whole

    def _check(self, answer: Answer) -> None:
        assert answer.is_complete
        assert answer.status == self.status
        assert answer.closes == self.is_last
        if self.body is not None:
            assert answer.body == self.body
        else:
            assert answer.body.startswith(b"%d " % self.status)
            assert answer.headers["content-type"] == TEXT
        expected = {"date": DATE, "server": None, **self.headers}
        assert {name: answer.headers.get(name) for name in expected} == expected
