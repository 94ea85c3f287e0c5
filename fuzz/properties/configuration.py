"""What whoever runs the server writes: patterns for files, settings, and command lines."""

import contextlib
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args, get_origin

import trio
from hypothesis import strategies as st
from trio.testing import MockClock

from fuzz.target import Target
from trio_amped import cli
from trio_amped.config import Config
from trio_amped.semantics.globs import Glob
from trio_amped.settings.given import SETTINGS
from trio_amped.settings.options import option_names
from trio_amped.testing import Response, SimDisk, serving

# ------------------------------------------------------------------ patterns

# As it is written, and the bytes that may stand there; "*" is any number of any.
_EVERY: Final = frozenset(range(256))
_PIECES: Final[dict[str, Sequence[frozenset[int]]]] = {
    "*": (),
    "?": (_EVERY,),
    "[ab]": (frozenset(b"ab"),),
    "[!ab]": (_EVERY - frozenset(b"ab"),),
    "[a-c.]": (frozenset(b"abc."),),
    "[!/]": (_EVERY - frozenset(b"/"),),
    "/": (frozenset(b"/"),),
    "\xe9": tuple(frozenset([byte]) for byte in "\xe9".encode()),
    "\udcff": (frozenset([0xFF]),),  # as os.fsdecode shows a byte that is no UTF-8
    **{letter: (frozenset(letter.encode()),) for letter in "abA.^\\]+$(|\n"},
}

_BYTES: Final = st.lists(
    st.sampled_from([b"a", b"b", b"c", b"A", b".", b"/", b"\xc3\xa9", b"\xff", b"^"])
    | st.binary(min_size=1, max_size=2),
    max_size=3,
).map(b"".join)


def check_globs(named: tuple[list[str], bytes]) -> None:
    """A pattern matches what a naive reader of fnmatch(3) says, a byte at a time."""
    pieces, path = named
    matches = Glob("".join(pieces)).matches(path)
    if any("/" in piece for piece in pieces):  # "[!/]" counts too: it is about whole paths
        first = pieces[:1] if pieces[0] == "/" else ["/", *pieces[:1]]
        assert matches == _matches([*first, *pieces[1:]], b"/" + path)
    else:
        assert matches == _matches(pieces, path.rpartition(b"/")[2])


@st.composite
def _named(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """A pattern, and mostly a path that it nearly names: of two that are drawn apart, neither has
    to do with the other."""
    pieces = draw(st.lists(st.sampled_from(sorted(_PIECES)), min_size=1, max_size=6))
    path = b""
    for piece in pieces:
        path += draw(_BYTES) if piece == "*" else b""
        path += bytes(draw(st.sampled_from(sorted(chosen))) for chosen in _PIECES[piece])
    if draw(st.booleans()):
        at = draw(st.integers(0, len(path)))
        path = path[:at] + draw(_BYTES) + path[at + draw(st.integers(0, 1)) :]
    return pieces, draw(st.sampled_from([path, path, path.swapcase(), b"c/" + path]))


def _matches(pieces: list[str], subject: bytes) -> bool:
    ends = {0}  # of what the pieces so far can match
    for piece in pieces:
        if piece == "*":
            ends = set(range(min(ends), len(subject) + 1)) if ends else ends
        for chosen in _PIECES[piece]:
            ends = {end + 1 for end in ends if end < len(subject) and subject[end] in chosen}
    return len(subject) in ends


# ------------------------------------------------------------------ settings

_KNOWN: Final = st.sampled_from(
    [
        *("0", "1", "-1", "65536", "1e9", "nan", "inf", "1_000", "\u0661", "none", "auto", "br"),
        *("*.txt: X-A: b", "*: Content-Length: 1", "*.txt", "[: a/b", "*.foo: a/b", ": x"),
        *("404=/404.html", "404=404.html", "200=/a", "/../a", "/index.html", "https://a.example"),
        *("/a/b", "a.example", "a.example:80", "[::1]", "hashed", "utf-8"),
        *("null", "*", "=", "debug", "thread", "mincore", "\n", "\x1b[0m", "\udcff", "@x"),
    ]
)


def check_settings(given: dict[str, Any]) -> None:
    """Settings are refused by a sentence that begins with their name, or a server works by them."""
    config = _configured(given)
    if config is None:
        return
    for name in given.keys() & set(_SEVERAL):  # said twice, it is refused in no other way
        if given[name]:
            _configured({**given, name: [*given[name], *given[name]]})
    assert dataclasses.replace(config) == config
    answer = trio.run(_ask, config, clock=MockClock(autojump_threshold=0))
    if config.hosts:
        assert answer.status == 421
    elif config.redirects:
        assert answer.status in (200, 301, 302, 303, 307, 308, 404)
    elif config.prefix.strip("/") or "index.html" not in config.index:
        assert answer.status == 404
    else:
        assert (answer.status, answer.body) == (200, b"<p>home")


def _configured(given: dict[str, Any]) -> Config | None:
    try:
        return Config(**given)
    except ValueError as error:
        name, verb, *_ = str(error).split()
        assert name in given
        assert verb == "must"
        return None


async def _ask(config: Config) -> Response:
    async with serving(config, SimDisk({"index.html": b"<p>home"})) as served:
        return await served.connect().get("/", {"Host": "none.of.ours"})
    raise AssertionError


_FIELDS: Final = {field.name: field for field in dataclasses.fields(Config)}
_TEXTS: Final = _KNOWN | st.text(max_size=6)
_NUMBERS: Final = (
    st.integers(-2, 20) | st.integers() | st.floats() | st.sampled_from([256, 65535, math.inf])
)
# (Mapped to itself, it is one choice among others, and not as many as it has.)
_ANYTHING: Final = st.one_of(
    st.none(), st.booleans(), _NUMBERS, _TEXTS, st.lists(_TEXTS, max_size=2)
).map(lambda value: value)


def _values(field: "dataclasses.Field[Any]") -> st.SearchStrategy[Any]:
    """Mostly of its type, or all that is ever seen is that it is not."""
    kind: Any = field.type
    if kind in (int, float):
        return _NUMBERS | _ANYTHING
    if kind is bool:
        return st.booleans() | _ANYTHING
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind)) | _ANYTHING
    if get_origin(kind) is Sequence:
        texts = st.tuples(_KNOWN).map(list) | st.lists(_TEXTS, max_size=2)
        return texts | texts.map(lambda found: found * 2) | _ANYTHING
    return _TEXTS | _ANYTHING


# Those that have several values have the most rules, and are drawn the most often.
_SEVERAL: Final = [name for name, field in _FIELDS.items() if get_origin(field.type) is Sequence]
_NAMES: Final = sorted([*_FIELDS, *_SEVERAL, *_SEVERAL])


@st.composite
def _settings(draw: st.DrawFn) -> dict[str, Any]:
    """A few: one that is refused hides what the others come to."""
    most = draw(st.sampled_from([1, 1, 4]))
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=most, unique=True))
    return {name: draw(_values(_FIELDS[name])) for name in names}


# ------------------------------------------------------------------ command lines

_OPTIONS: Final = {name for each in SETTINGS.values() for name in option_names(each)}


def check_arguments(arguments: list[str]) -> None:
    """A command line is understood, or refused by one line that says why; nothing else."""
    said = io.StringIO()
    status: object = None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            settings = cli.parse(arguments)
        except SystemExit as end:
            status = end.code
        else:
            assert settings.workers >= 1
            config, process, _ = settings
            assert dataclasses.replace(config) == config  # it has been checked
            assert dataclasses.replace(process) == process
    if status == 2:
        line = said.getvalue()
        assert line.startswith("trio-amped: error: ")
        assert line.endswith("; see trio-amped --help\n")
        assert line[:-1].isprintable(), line
    else:
        assert said.getvalue() == ""
        assert status is None or not {"--help", "-h", "--version"}.isdisjoint(arguments)


_NO_VALUES: Final = st.sampled_from(["", "-", "--", "-x", "--port"])
_WORDS: Final = _NO_VALUES | _KNOWN | _KNOWN | st.text(max_size=6)
_GIVEN: Final = st.sampled_from(sorted(_OPTIONS | {"--help", "--version", "--nothing"}))
_VALUES: Final = st.builds("{}={}".format, _GIVEN, _WORDS)

TARGETS: Final = (
    Target(
        "globs",
        check_globs,
        {"named": _named()},
    ),
    Target(
        "settings",
        check_settings,
        {"given": _settings()},
        found=({"given": {"hosts": ["0", "0"]}},),  # was told of a prefix that it did not give
    ),
    Target(
        "arguments",
        check_arguments,
        {
            # Few: one that is not understood hides what the others come to.
            "arguments": st.lists(_VALUES, min_size=1, max_size=2)
            | st.lists(_GIVEN | _WORDS | _VALUES, max_size=5)
        },
        found=(
            {"arguments": ["--charset=--"]},  # argparse made an empty list of it: a traceback
            {"arguments": ["a", "\x1b[2J"]},  # was printed as it is
        ),
    ),
)
