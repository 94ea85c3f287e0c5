"""A scene: files, what is asked for, in which way it is served and by which disk; its judge."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, get_args

from hypothesis import strategies as st

from fuzz.world import reference
from fuzz.world.disk import PLANS, Plan, WorldDisk
from fuzz.world.hosts import LINKS
from fuzz.world.requests import BROKEN, DOWNLOADS, EDGES, LIMITS, WIRES
from fuzz.world.runs import SCHEDULES
from tests.reference import Form
from tests.serving.client import Answer, parse
from tests.serving.peers import WAYS
from tests.simulated import DAY, DIRECTORY, NANO, NOW
from trio_amped.config import Config
from trio_amped.semantics.listing import View
from trio_amped.semantics.validators import TagKind
from trio_amped.testing import SimDisk, SimFile

CONFIG: Final = Config(
    max_head=LIMITS.max_head,
    max_target=LIMITS.max_target,
    max_fields=LIMITS.max_fields,
    listing=True,
    error_pages=["404=/404.html"],
)
FOLDER: Final = -1  # the size of a directory

# Seconds: too young to be sure of; stale; and with the date of npm, which all versions have.
_AGES: Final = {b"new.txt": 0, b"a.txt.gz": 2 * DAY, b"folder/name": NOW - 499_162_500}
_KIB: Final = 1024


@lru_cache(maxsize=256)
def content(path: bytes, size: int) -> bytes:
    """No two files have the same bytes, nor any two offsets nearby."""
    start = sum(path) % 251
    pattern = bytes((start + index * index) % 251 for index in range(min(size, 251 * 7)))
    return (pattern * (size // max(len(pattern), 1) + 1))[:size]


def mtime_ns(path: bytes) -> int:
    return (NOW - _AGES.get(path, DAY)) * NANO


class Listed(Form):
    """What a directory shows: known by its content, as it has no date."""

    def etag(self, now: float) -> str:
        suffix = "" if self.coding == "identity" else f"-{self.coding}"
        return f'"{SimDisk.digest(self.content).hex()}-{len(self.content):x}{suffix}"'


@dataclass(frozen=True)
class Scene:
    """`files` have sizes; their bytes follow from their names."""

    files: Mapping[bytes, int]
    wire: bytes = b""
    way: str = "plain"
    link: str = "socket"
    plan: Plan = field(default_factory=Plan)
    window: int = 1 << 16
    schedule: int = 0
    turns: float = 0.0
    tags: TagKind = "mtime"

    @property
    def config(self) -> Config:
        return replace(CONFIG, etag=self.tags)

    def disk(self, plan: Plan | None = None) -> WorldDisk:
        """A new one: a run may change it."""
        entries = {
            path: SimFile(mode=DIRECTORY)
            if size == FOLDER
            else SimFile(content(path, size), mtime_ns=mtime_ns(path))
            for path, size in self.files.items()
        }
        return WorldDisk(entries, plan or self.plan, window=self.window, tags=self.tags)

    @property
    def forms(self) -> reference.Files:
        files: dict[bytes, Form | None] = {
            path: None
            if size == FOLDER
            else Form(content(path, size), mtime_ns(path), tags=self.tags)
            for path, size in self.files.items()
        }
        folders = [path for path, size in self.files.items() if size == FOLDER]
        disk = self.disk()
        for path in (b"", *folders):  # the root, too
            disk.rendered(path, View())
        return files | {path: Listed(text, 0) for path, (text,) in disk.listings.items()}

    def with_reach(self, least: int) -> "Scene":
        """The same with a disk that never has less than so many bytes at a time."""
        reaches = tuple(max(reach, least) for reach in self.plan.reaches)
        return replace(self, plan=replace(self.plan, reaches=reaches))

    def in_all_ways(self) -> Iterator["Scene"]:
        """Over memory too, where the bytes of files are read, not sent by the kernel."""
        for way, link in (("plain", self.link), *((way, "socket") for way in WAYS)):
            yield replace(self, way=way, link=link)

    def expected(self, missing: Collection[bytes] = ()) -> list[reference.Expected]:
        """What the reference says that does not find the files that are `missing`."""
        files = {path: form for path, form in self.forms.items() if path not in missing}
        return reference.answers(self.wire, files, LIMITS, NOW)


def check_answers(received: bytes, expected: list[reference.Expected]) -> None:
    """They are those of the reference: as many, in the same order, and nothing after them."""
    answers = read(received, expected)
    assert [each.status for each in answers] == [each.answer.status for each in expected]
    for answer, each in zip(answers, expected, strict=True):
        assert answer.is_complete
        assert answer.closes == each.closes
        check_answer(answer, each)


def read(received: bytes, expected: list[reference.Expected]) -> list[Answer]:
    """The answers, by h11's client to the end; and, HEAD aside, by llhttp."""
    return parse(received, [each.method.encode() for each in expected])


def check_answer(answer: Answer, expected: reference.Expected) -> None:
    """Status, body, and the fields that say what the body is."""
    body = _expected_body(answer, expected)
    if body is None:
        assert answer.body.startswith(b"%d " % answer.status)
    else:
        assert answer.body == body


def _expected_body(answer: Answer, expected: reference.Expected) -> bytes | None:
    """All that should follow the head, which is as expected; None: some text."""
    wanted = expected.answer
    assert answer.status == wanted.status
    for name, value in wanted.fields.items():
        if not (name == "content-type" and len(wanted.parts) > 1):
            assert answer.headers.get(name) == value, name
    if expected.method == "HEAD":
        return b""
    return _multipart(answer, expected) if len(wanted.parts) > 1 else wanted.body


def _multipart(answer: Answer, expected: reference.Expected) -> bytes:
    """Parts as they are sent (RFC 9110 14.6, RFC 2046 5.1.1); the delimiter is the answer's."""
    kind, _, delimiter = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    head = f"\r\n--{delimiter}\r\nContent-Type: {reference.media_type(expected.path)}\r\n"
    parts = [
        f"{head}Content-Range: {span}\r\n\r\n".encode() + data
        for span, data in expected.answer.parts
    ]
    body = b"".join(parts) + f"\r\n--{delimiter}--\r\n".encode()
    assert answer.headers["content-length"] == str(len(body))
    return body


def is_answer(answer: Answer, expected: reference.Expected) -> bool:
    """Whether `check_answer` is content."""
    try:
        check_answer(answer, expected)
    except (AssertionError, KeyError):
        return False
    return True


def is_start(answer: Answer, expected: reference.Expected) -> bool:
    """Whether it has the whole head, and a strict prefix of the body."""
    try:
        body = _expected_body(answer, expected)
    except (AssertionError, KeyError):
        return False
    return body is not None and len(answer.body) < len(body) and body.startswith(answer.body)


def parts_of(answer: Answer) -> tuple[tuple[str, bytes], ...]:
    """The Content-Range and the bytes of each part (RFC 2046 5.1.1)."""
    kind, _, delimiter = answer.headers["content-type"].partition("; boundary=")
    if kind != "multipart/byteranges":
        return ((answer.headers["content-range"], answer.body),)
    first, *parts, last = answer.body.split(b"\r\n--" + delimiter.encode())
    assert (first, last) == (b"", b"--\r\n")
    found = []
    for part in parts:
        head, _, data = part.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if line)
        found.append((fields["Content-Range"], data))
    return tuple(found)


# ------------------------------------------------------------------ how scenes are made up

WINDOWS: Final = st.sampled_from([1000, 4096, 64 * _KIB])
_REQUESTS: Final = st.one_of(WIRES, WIRES, DOWNLOADS, DOWNLOADS, DOWNLOADS, BROKEN, EDGES)
TAGS: Final = st.sampled_from(["mtime", *get_args(TagKind)])
TURNS: Final = st.sampled_from([0.0, 0.0, 0.001])


def wires(most: int) -> st.SearchStrategy[bytes]:
    """What one client sends: a few requests."""
    return st.lists(_REQUESTS, min_size=1, max_size=most).map(b"".join)


@st.composite
def sites(draw: st.DrawFn, window: int, largest: int, has_page: bool) -> dict[bytes, int]:
    """Files, of the sizes at which the server does something else; sidecars may be there, names in
    a folder, and the page for a 404."""
    edges = [1, 32 * _KIB, 64 * _KIB, window, 3 * window, 7 * window]
    near = {0, 2, *(edge + off for edge in edges for off in (-1, 0, 1))}
    near = {size for size in near if 0 <= size <= largest}
    sizes = st.sampled_from(sorted(near))
    large = st.sampled_from(sorted(near, reverse=True)[: len(near) // 2])
    files = {b"index.html": 13, b"a.txt": 10, b"empty.txt": 0, b"new.txt": 12, b"folder": FOLDER}
    files |= {b"large.bin": draw(large), b"s.js": draw(sizes)}
    pages = [b"404.html"] * has_page
    for path in (b"s.js.br", b"s.js.gz", b"a.txt.gz", b"folder/name", *pages):
        if draw(st.booleans()):
            files[path] = draw(sizes)
    return files


@st.composite
def scenes(
    draw: st.DrawFn,
    most: int = 4,
    largest: int = 192 * _KIB,
    plans: st.SearchStrategy[Plan] = PLANS,
) -> Scene:
    """A few requests; see `in_all_ways`."""
    window, plan = draw(WINDOWS), draw(plans)
    # A page for errors is not waited for as long as for what was asked for: who gets it from a
    # disk that takes its time is a matter of luck.
    return Scene(
        files=draw(sites(window, largest, has_page=max(plan.latencies) == 0)),
        wire=draw(wires(most)),
        link=draw(LINKS),
        plan=plan,
        window=window,
        schedule=draw(SCHEDULES),
        turns=draw(TURNS),
        tags=draw(TAGS),
    )
