"""What is written down of requests is what went over the wire: counters, hook, log."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import quote

import trio
from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world import reference
from fuzz.world.clients import CUTS, Client, split
from fuzz.world.disk import OPENING, PLANS, READING, Plan, WorldDisk
from fuzz.world.hosts import EMBEDDED, LINKS, hosting, wait_for_sweeps
from fuzz.world.requests import BROKEN, DOWNLOADS, EDGES, LIMITS, PIPELINE, WIRES
from fuzz.world.runs import SCHEDULES, run
from fuzz.world.scenes import CONFIG, TURNS, Scene
from tests.serving.client import Answer, parse
from tests.serving.peers import WAYS
from tests.simulated import DAY, NANO, NOW
from trio_amped import Answered
from trio_amped.stats import Stats
from trio_amped.testing import Entry, SimFile

Cuts = tuple[int, ...]


class Ledger(logging.Handler):
    """All that the server says of its work."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self.told: list[Answered] = []
        self.stats = Stats()
        self.received: list[bytes] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @contextmanager
    def open(self) -> Iterator[None]:
        log = logging.getLogger("trio_amped")
        before = log.level
        log.addHandler(self)
        log.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            log.setLevel(before)
            log.removeHandler(self)


def check_ledger(
    names: list[bytes],
    wires: list[bytes],
    cuts: Cuts,
    link: str,
    plan: Plan,
    schedule: int,
    turns: float,
) -> None:
    """Each answer is counted, told to the hook and logged once, on a line that holds no other."""
    missing = [name + b"~" for name in names]
    wires = [b"".join(map(_asking_for, [*names, *missing])), _USUAL, *wires]
    ways = [("plain", link), (EMBEDDED, link), *((way, "socket") for way in WAYS)]
    for way, each in ways:
        ledger, disk = Ledger(), WorldDisk(_entries(names), plan)
        with ledger.open():
            run(_served, way, each, disk, wires, cuts, ledger, schedule=schedule, turns=turns)
        _check_records(ledger, disk)
        _check_sums(ledger, wires)


def _entries(names: list[bytes]) -> dict[bytes, Entry]:
    """Files of these names beside the usual ones, each with a sidecar that is too old."""
    entries: dict[bytes, Entry] = dict(Scene(_FILES).disk().entries)
    for name in names:
        entries[name] = SimFile(name)
        entries[name + b".gz"] = SimFile(b"old", mtime_ns=(NOW - 2 * DAY) * NANO)
    return entries


def _asking_for(name: bytes) -> bytes:
    return f"GET /{quote(name)} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


async def _served(
    way: str, link: str, disk: WorldDisk, wires: Sequence[bytes], cuts: Cuts, ledger: Ledger
) -> None:
    config = replace(CONFIG, etag=disk.tags, on_request=ledger.told.append)
    async with hosting(way, disk, config) as host:
        clients = []
        async with trio.open_nursery() as nursery:
            for wire in wires:
                clients.append(Client(host.connect(link), split(wire, cuts)))
                nursery.start_soon(clients[-1].run)
        await wait_for_sweeps(host)
    ledger.stats = host.server.stats
    ledger.received = [bytes(client.received) for client in clients]


def _check_records(ledger: Ledger, disk: WorldDisk) -> None:
    """A line each, which no terminal obeys; and no client can fill a log that is not for it."""
    for record in ledger.records:
        message = record.getMessage()
        assert message.isprintable(), message
        is_of_files = "is not used: " in message or bool(disk.reached - {"miss"})
        assert record.levelno < logging.INFO or is_of_files, message


def _check_sums(ledger: Ledger, wires: Sequence[bytes]) -> None:
    answers = [
        each
        for wire, received in zip(wires, ledger.received, strict=True)
        for each in _answers(wire, received)
    ]
    statuses = Counter(answer.status for _, answer in answers)
    total = sum(map(len, ledger.received))
    assert ledger.stats.responses == statuses == Counter(each.status for each in ledger.told)
    assert ledger.stats.bytes_sent == total == sum(each.sent for each in ledger.told)
    assert Counter(map(_access_line, answers)) == Counter(
        record.getMessage() if _is_plain(record.getMessage()) else _SOMETHING
        for record in ledger.records
        if record.name == "trio_amped.access"
    )
    refused = sum(map(statuses.__getitem__, _UNREAD))
    assert len(answers) - refused <= ledger.stats.requests <= len(answers)


def _answers(wire: bytes, received: bytes) -> Iterator[tuple[bytes, Answer]]:
    """The answers that a client got, each with the line of its request; b"" where it had none."""
    heads = list(reference.heads(wire, LIMITS))
    lines = [head.partition(b"\r\n")[0] if isinstance(head, bytes) else b"" for head in heads]
    methods = [b"HEAD" if line.startswith(b"HEAD ") else b"GET" for line in lines]
    return zip(lines, parse(received, methods), strict=False)


def _access_line(each: tuple[bytes, Answer]) -> str:
    line, answer = each
    has_body = answer.status != 304 and not line.startswith(b"HEAD ")
    length = int(answer.headers["content-length"]) if has_body else 0
    text = f"{line.decode('latin-1')} {answer.status} {length}"
    return text if _is_plain(text) else _SOMETHING


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and "\\" not in text


_SOMETHING: Final = "a line that is shown in another way than it was sent"
_UNREAD: Final = (400, 408, 414, 431, 501)  # which may be said before there is a request
_FILES: Final = {b"index.html": 13, b"a.txt": 10, b"large.bin": 100_000, b"s.js": 40, b"s.js.br": 9}
_LETTERS: Final = "ab\n\r\t\0\x1b\x7f\x9b\u202e\u2028é%20\\ "
_NAMES: Final = st.text(st.sampled_from(_LETTERS.replace("\0", "")), min_size=1, max_size=6).map(
    lambda name: b"n" + name.encode()
) | st.binary(min_size=1, max_size=4).map(lambda name: b"n" + name.translate(None, b"\0/"))
_USUAL: Final = b"".join(
    b"%s HTTP/1.1\r\nHost: h\r\n%s\r\n" % (line, fields)
    for line, fields in (
        (b"GET /large.bin", b""),
        (b"GET /a.txt", b""),
        (b"HEAD /large.bin", b""),
        (b"GET /large.bin", b"Range: bytes=0-80000\r\n"),
        (b"GET /a.txt", b"If-None-Match: *\r\n"),
        (b"GET /s.js", b"Accept-Encoding: br\r\n"),
        (b"GET /nope", b""),
        (b"PUT /a.txt", b""),
        (b"HEAD /nope", b"Connection: close\r\n"),
    )
)
"""One of each kind, in every run."""
_WIRES: Final = st.one_of(WIRES, DOWNLOADS, DOWNLOADS, BROKEN, BROKEN, EDGES, st.just(PIPELINE))
_FAULTS: Final = st.dictionaries(
    st.integers(0, 30), st.sampled_from(sorted({*OPENING, *READING})), max_size=2
)

TARGETS: Final = (
    Target(
        "ledger",
        check_ledger,
        {
            "names": st.lists(_NAMES, max_size=3, unique=True),
            "wires": st.lists(
                st.lists(_WIRES, min_size=1, max_size=3).map(b"".join), min_size=1, max_size=3
            ),
            "cuts": CUTS,
            "link": LINKS,
            "plan": PLANS.map(lambda plan: replace(plan, latencies=(0.0,)))
            | st.builds(lambda faults: Plan(faults=faults), _FAULTS),
            "schedule": SCHEDULES,
            "turns": TURNS,
        },
    ),
)
