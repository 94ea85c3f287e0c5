"""Any request for any file gets what a naive server, written from RFC 9110, would send."""

import email
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from email.message import Message
from functools import cache
from itertools import combinations
from typing import Final, TypeAlias, get_args
from unittest import mock

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests import reference
from tests.reference import Form, Resource
from tests.serving.client import Answer, parse
from tests.serving.peers import converse
from tests.simulated import DAY, DIRECTORY, NANO, NOW
from trio_amped.config import Config
from trio_amped.semantics.validators import TagKind
from trio_amped.testing import Entry, SimDisk, SimFile

CODINGS: Final = {"br": b".br", "zstd": b".zst", "gzip": b".gz"}  # in the server's order
NAME: Final = b"f.txt"
# The fuzzer's reference, which make test runs as well, is asked in all ways.
LONG_WAYS: Final = {"plain", "recognised"}
RARELY: Final[st.SearchStrategy[bool]] = st.sampled_from([False] * 9 + [True])


@dataclass(frozen=True)
class Ask:
    """A request for the file; the values of the fields as they are on the wire."""

    method: str
    fields: tuple[tuple[str, str], ...]

    def wire(self, target: str = "/f.txt") -> bytes:
        lines = [f"{name}:{value}" for name, value in self.fields]
        head = [f"{self.method} {target} HTTP/1.1", "Host: a", *lines, "", ""]
        return "\r\n".join(head).encode("latin-1")

    def without_range(self, method: str) -> "Ask":
        kept = tuple(each for each in self.fields if each[0].lower() != "range")
        return Ask(method, kept)


@dataclass(frozen=True)
class Scene:
    """A disk with one file, its sidecars, and what a client asks for at one time."""

    resource: Resource
    now: float
    window: int
    asks: tuple[Ask, ...]

    def answers(
        self, asks: Sequence[Ask], target: str = "/f.txt", config: Config | None = None
    ) -> list[Answer]:
        files: dict[bytes, Entry] = {b"folder": SimFile(mode=DIRECTORY)}
        for form in (self.resource.plain, *self.resource.sidecars):
            path = NAME + CODINGS.get(form.coding, b"")
            files[path] = SimFile(form.content, mtime_ns=form.mtime_ns)
        disk = SimDisk(files, window=self.window)
        config = replace(config or Config(), etag=self.resource.plain.tags)
        wire = b"".join(ask.wire(target) for ask in asks)
        with mock.patch.object(time, "time", return_value=self.now):
            clock = MockClock(autojump_threshold=0)
            sent = trio.run(converse, disk, [wire], config, clock=clock)
        assert disk.open_files == 0
        answers = parse(sent, [ask.method.encode() for ask in asks])
        assert len(answers) == (1 if answers[0].status == 400 else len(asks))
        assert all(answer.is_complete for answer in answers)
        return answers


# ------------------------------------------------------------------ how files are made up

_SIZES: Final = st.sampled_from([10, 10, 40, 40, 150, 0, 1, 3])
# The clock and the dates are apart by quarters of a second, or by more than a float can blur.
_CLOCKS: Final = st.sampled_from([NOW, NOW, NOW + 0.25, NOW + 0.75])
_AGES: Final = st.sampled_from(
    [
        *(DAY * NANO, 2 * NANO, 2 * NANO, 2 * NANO + 10**6, 2 * NANO - 10**6, 11 * NANO // 4),
        *(
            NOW * NANO - 499_162_500 * NANO,  # that of npm, in all versions
            3 * NANO,
            NANO,
            NANO // 4,
            0,
            -NANO // 2,
            -DAY * NANO,
            NOW * NANO,
            NOW * NANO + 3 * NANO // 2,
        ),
    ]
)
_TAGS: Final = st.sampled_from(["mtime", *get_args(TagKind)])
_YOUNGER: Final = st.sampled_from(
    [0, 0, NANO, DAY * NANO, -NANO // 2, 1 - NANO, -NANO, -DAY * NANO]
)
_SIDECARS: Final = st.sampled_from(
    [(), ("gzip",), ("zstd",), ("br", "gzip"), *[("br", "zstd", "gzip")] * 4]
)


@st.composite
def _contents(draw: st.DrawFn) -> bytes:
    """Mostly without two equal bytes, so that no slice is like another; or hard on a multipart."""
    size, first = draw(_SIZES), draw(st.integers(0, 255))
    if draw(RARELY):
        return (b"\r\n--\r\n\r\n" * size)[:size]
    return bytes((first + 7 * at) % 256 for at in range(size))


@st.composite
def _resources(draw: st.DrawFn, now: float) -> Resource:
    tags = draw(_TAGS)
    plain = Form(draw(_contents()), int(now * NANO) - draw(_AGES), tags=tags)
    sidecars = tuple(
        Form(draw(_contents()), plain.mtime_ns + draw(_YOUNGER), coding, tags=tags)
        for coding in draw(_SIDECARS)
    )
    return Resource(plain, "text/plain; charset=utf-8", sidecars)


# ------------------------------------------------------------------ how fields are made up
# Each value is one draw from all that is interesting: draws are what takes the time here.

_COMMAS: Final = st.sampled_from([",", ", ", "\t,", " , ", ",,", ", ,"])
_WEIGHTS: Final = (
    *("", "", ";q=0", ";q=0.5", ";q=1", "; Q=0.9", " ;\tq=0.001", ";q=0.000", ";q=1.000", ";q=0."),
    *(";q=2", ";q=1.001", ";q=0.1234", ";q", ";", ";q= 1", ";x=1", ";q=1;q=1"),
)
_CODING_NAMES: Final = (*CODINGS, "gzip", "identity", "*", "x-gzip", "BR", "Gzip", "deflate", "")


def _list_of(members: Sequence[str], least: int = 0) -> st.SearchStrategy[str]:
    """A list, whose commas are anything that is allowed there."""
    some = st.lists(st.sampled_from(members), min_size=least, max_size=6)
    return st.builds(lambda comma, found: comma.join(found), _COMMAS, some)


_CODING_LISTS: Final = st.one_of(
    st.sampled_from([*CODINGS, "br, zstd, gzip", "gzip;q=0.5, br;q=0.4", "*", "zstd, *;q=0", ""]),
    _list_of([name + weight for name in _CODING_NAMES for weight in _WEIGHTS]),
)


@cache
def _ranges_of(size: int) -> st.SearchStrategy[str]:
    """Values of Range: positions at the edges and in the middle of a file of this size."""
    positions = {0, 1, 2, size // 2, size // 2 + 1, size - 2, size - 1, size, size + 1, 10**20}
    edges = sorted(at for at in positions if at >= 0)
    spans = [f"{first}-{last}" for first in edges for last in edges if first <= last]
    suffixes, rests = [f"-{at}" for at in edges], [f"{at}-" for at in edges]
    specs = [*spans, *suffixes, *suffixes, *rests, *rests, "2-1", "-", "1"]
    apart = [",".join(f"{2 * at}-{2 * at}" for at in range(count)) for count in (23, 24, 25)]
    many = [*apart, *("0-0" + "," * count for count in (256, 257))]
    units = st.sampled_from(["bytes="] * 12 + ["Bytes=", "BYTES=", "bytes =", "lines=", ""])
    short = [f"{at}-{at + more}" for at in range(9) for more in (0, 0, 1)]  # many are adjacent
    few = st.sampled_from(specs) | _list_of(short, 3) | _list_of(specs)
    return st.builds(str.__add__, units, few | few | few | st.sampled_from(many))


def _tags(form: Form, others: Sequence[Form], now: float) -> list[str]:
    """That of the form, the same with the other strength, those of others, and strangers."""
    tag = form.etag(now).removeprefix("W/")
    theirs = [other.etag(now) for other in others]
    return [*[tag, f"W/{tag}"] * 4, *theirs, '"x"', '""', '"a,b"', 'W/"\xff"']


def _dates(form: Form, others: Sequence[Form], now: float) -> list[str]:
    """When the form was modified, or others were, and now, and around that, in all three ways."""
    modified = form.last_modified(now)
    around = [modified, modified, modified - 1, modified + 1, modified - DAY, modified + DAY]
    theirs = [other.last_modified(now) for other in others]
    return [text for at in (*around, int(now), *theirs) for text in reference.date_texts(at)]


_Grammar: TypeAlias = dict[str, st.SearchStrategy[str]]


def _grammar(form: Form, others: Sequence[Form], now: float) -> _Grammar:
    """Fields for a client that has this one of the forms in mind."""
    tags, dates = _tags(form, others, now), st.sampled_from(_dates(form, others, now))
    exact = reference.date_texts(form.last_modified(now))
    tag_lists = st.just("*") | _list_of(tags) | _list_of(tags)
    return {
        "Accept-Encoding": st.just(form.coding) | _CODING_LISTS,
        "Range": _ranges_of(len(form.content)),
        "If-Range": st.sampled_from(tags) | dates | st.sampled_from(exact),
        "If-Match": tag_lists,
        "If-None-Match": tag_lists,
        "If-Modified-Since": dates,
        "If-Unmodified-Since": dates,
        "Accept": st.sampled_from(["text/html", "application/json", "*/*"]),
        "Origin": st.just("https://a.example"),
    }


# Two conditions at most, as most of them end the matter, and often none; now and then one twice.
_DATED: Final = ("If-Modified-Since", "If-Unmodified-Since")
_CONDITIONS: Final = ("If-Range", "If-Match", "If-None-Match", *_DATED)
_FEW_CONDITIONS: Final = (
    *[()] * 8,
    *combinations((*_CONDITIONS, "Accept", "Origin"), 1),
    *combinations(_CONDITIONS, 2),
    *[(name, name) for name in _CONDITIONS],
    # Those that hide one another (RFC 9110 13.2.2).
    *[("If-Match", "If-Unmodified-Since"), ("If-None-Match", "If-Modified-Since")] * 2,
)
_RANGED: Final = (["Range"], ["Range", "If-Range"])
_NAMES: Final = st.sampled_from(
    [
        [*before, *conditions]
        for before in (
            [],
            ["Accept-Encoding"],
            *_RANGED,
            *(["Accept-Encoding", *r] for r in _RANGED),
        )
        for conditions in _FEW_CONDITIONS
    ]
)
_SPELLINGS: Final = st.sampled_from([str.title, str.title, str.lower, str.upper])
_AROUND: Final = st.sampled_from([" {}"] * 6 + ["{}", "\t {} ", " {}\t"])
_LETTERS: Final = st.sampled_from(
    ["", " ", "\t", ",", ";", "=", '"', "-", "*", "0", "1", "x", "W/", "\xff"]
)


@st.composite
def _asks(draw: st.DrawFn, grammar: _Grammar) -> Ask:
    names = draw(_NAMES)
    if draw(RARELY) and names:
        names = [*names, draw(st.sampled_from(names))]  # a second line of one
    spelling = draw(_SPELLINGS)
    fields = [(spelling(name), draw(_AROUND).format(draw(grammar[name]))) for name in names]
    if draw(RARELY) and fields:
        name, value = fields.pop()
        fields.append((name, draw(_misspelled(value))))
    return Ask(draw(st.sampled_from(["GET"] * 4 + ["HEAD"])), tuple(fields))


@st.composite
def _misspelled(draw: st.DrawFn, value: str) -> str:
    """One letter more, less or other than it should be; or all of them in the other case."""
    if draw(st.booleans()):
        return value.encode("latin-1").swapcase().decode("latin-1")  # that of ASCII alone
    at = draw(st.integers(0, len(value)))
    return value[:at] + draw(_LETTERS) + value[at + draw(st.integers(0, 1)) :]


@st.composite
def _scenes(draw: st.DrawFn) -> Scene:
    now = draw(_CLOCKS)
    resource = draw(_resources(now))
    every = (resource.plain, *resource.sidecars)
    grammars = [_grammar(form, [each for each in every if each != form], now) for form in every]
    asks = draw(st.lists(st.sampled_from(grammars).flatmap(_asks), min_size=1, max_size=8))
    return Scene(resource, now, draw(st.sampled_from([1 << 16, 7])), tuple(asks))


# ------------------------------------------------------------------ the properties


@given(st.lists(_scenes(), min_size=1, max_size=5))
def test_every_answer_is_that_of_the_reference(scenes: list[Scene]) -> None:
    for scene in scenes:
        for ask, answer in zip(scene.asks, scene.answers(scene.asks), strict=True):
            expected = reference.answer(ask.method, ask.fields, scene.resource, scene.now)
            _check(answer, expected, scene.resource.media_type)


def _check(answer: Answer, expected: reference.Answer, media_type: str) -> None:
    assert answer.status == expected.status
    found = {name: answer.headers[name] for name in reference.COMPARED if name in answer.headers}
    if expected.parts:
        found["content-type"], parts = _taken_apart(answer, media_type)
        assert parts == expected.parts
        assert len(parts) > 1
        assert sum(len(part) for _, part in parts) <= int(parts[0][0].rpartition("/")[2])
    if expected.status >= 400:
        del found["content-type"]
    if expected.body is None:
        del found["content-length"]
    else:
        assert answer.body == expected.body
    assert found == expected.fields


def _taken_apart(answer: Answer, media_type: str) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """The type of a multipart answer, and the Content-Range and bytes of each part (RFC 2046)."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body)
    assert (message.defects, message.preamble or "", message.epilogue or "") == ([], "", "")
    parts = []
    for part in message.get_payload():
        assert isinstance(part, Message)
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        assert part["content-type"] == media_type
        parts.append((part["content-range"], content))
    return message.get_content_type(), tuple(parts)


LISTS_OF_TAGS: Final = frozenset({"if-match", "if-none-match"})
DATES: Final = frozenset({"if-modified-since", "if-unmodified-since"})
TARGETS: Final = "/f.txt /f.txt / /nope /folder /folder/ /f.txt/ /../ /%zz"
CONFIGS: Final = [
    Config(),
    Config(listing=True, cors=("https://a.example",), headers=("*: Vary: Cookie",)),
    Config(fallback="/f.txt", cors=("*",), immutable=("*",)),
    Config(error_pages=("404=/f.txt", "400=/f.txt", "412=/f.txt", "416=/f.txt")),
]


def _head_of(ask: Ask, get: Answer) -> Answer:
    """Policy: a listing is made for HEAD only where a precondition asks for its tag."""
    is_listing = get.status == 200 and get.headers.get("cache-control") == "no-cache"
    left_out = {"etag", "content-length"}
    names = [name.lower() for name, _ in ask.fields]
    if not is_listing or any(name in LISTS_OF_TAGS for name in names):
        left_out = set()
    if any(names.count(name) == 1 for name in DATES):  # a date that is sent twice is none
        left_out = set()
    headers = {name: value for name, value in get.headers.items() if name not in left_out}
    return Answer(get.status, headers, b"", True)


@given(_scenes(), st.sampled_from(TARGETS.split()), st.sampled_from(CONFIGS))
def test_head_is_get_without_the_body(scene: Scene, target: str, config: Config) -> None:
    """RFC 9110 9.3.2; Range is defined for GET alone (14.2), so it changes nothing in a HEAD."""
    gets = scene.answers([ask.without_range("GET") for ask in scene.asks], target, config)
    heads = scene.answers([ask.without_range("HEAD") for ask in scene.asks], target, config)
    assert heads == [_head_of(*each) for each in zip(scene.asks, gets, strict=False)]
    ranged = scene.answers([Ask("HEAD", ask.fields) for ask in scene.asks], target, config)
    assert ranged == heads
