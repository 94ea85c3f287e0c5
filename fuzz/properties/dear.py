"""What one request costs the event loop: bounded by a few times the least one, whatever it says.

Steps are bytecode instructions of all that is neither trio's nor ours here: no clock is asked, so
they are the same on any machine. What C does within one call is not counted. It has bytes of one
head before it, and is linear in them (`effort` holds that), and there is no call without a step.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from types import FrameType
from typing import Any, Final

import hypothesis
import trio
from hypothesis import strategies as st

import fuzz
import tests
import trio_amped.testing
from fuzz.tally import note
from fuzz.target import Target
from fuzz.world.disk import Plan, WorldDisk
from fuzz.world.hosts import Host, hosting
from fuzz.world.runs import run
from trio_amped.config import Config
from trio_amped.semantics.recogniser import recogniser

MOST_TIMES: Final = 5.0
_CONFIG: Final = Config()
_PAUSE: Final = 0.1  # seconds between requests
_NOT_COUNTED: Final = (
    *(f"{each.__path__[0]}/" for each in (trio, hypothesis, tests, fuzz)),
    trio_amped.testing.__file__,
)


class Steps:
    """Counts instructions while `counted` is entered."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename.startswith(_NOT_COUNTED):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        self.count += event == "opcode"
        return self._step


def is_handed_over(way: str, head: bytes) -> bool:
    """Return whether the lane gives a head to a task."""
    size, line, lines = len(head), head.index(b"\n") + 1, head.count(b"\n")
    is_allowed = _CONFIG.head_limits.allow(size, line, lines)
    return way == "lane" and not (is_allowed and recogniser().match(head))


def check_dear(way: str, head: bytes) -> None:
    """No head within the limits takes more than five times the steps of the least such request.

    That is one which is taken the same way: by the lane, by a task that the lane hands it to, or by
    a task of h11's; and whose answer ends the connection if that of the head does.
    """
    times = times_the_least(way, head)
    hypothesis.target(times, label=f"times the least, {way}, {is_handed_over(way, head)}")
    assert times <= MOST_TIMES, f"{times:.1f} times the steps of the least"


def times_the_least(way: str, head: bytes) -> float:
    """The steps of a request, in those of the least one that is taken the same way."""
    steps, closes = cost(way, head)
    is_handed = is_handed_over(way, head)
    note("dear head", way, "handed over" if is_handed else "", "last" if closes else "")
    return steps / least_of(way, is_handed, closes)


@cache
def least_of(way: str, is_handed: bool, closes: bool) -> int:
    """The steps of the least request that is taken the same way."""
    more = (b"TE: x\r\n" if is_handed else b"") + (b"Connection: close\r\n" if closes else b"")
    head = b"GET /a.txt HTTP/1.1\r\nHost: h\r\n%b\r\n" % more
    steps, has_closed = cost(way, head)
    assert (is_handed_over(way, head), has_closed) == (is_handed, closes)
    return steps


def cost(way: str, head: bytes) -> tuple[int, bool]:
    """The steps of a request whose answer is known already, and whether it ends the connection.

    If it does, those of the connection count as well.
    """
    return run(_cost, way, head)


async def _cost(way: str, head: bytes) -> tuple[int, bool]:
    steps = Steps()
    async with hosting(way, WorldDisk(_FILES, Plan()), _CONFIG) as host:
        closes = await _ask(host, head, 2)
        if closes:
            with steps.counted():
                await _ask(host, head, 1)
        else:
            await _ask(host, head, 2, steps)
    return steps.count, closes


async def _ask(host: Host, head: bytes, times: int, steps: Steps | None = None) -> bool:
    """Ask on a new connection, so often; whether it was ended. `steps`: of the last answer."""
    async with host.connect() as stream:
        for number in range(1, times + 1):
            counting = steps.counted() if steps and number == times else nullcontext()
            with counting, trio.move_on_after(_PAUSE):
                await stream.send_all(head)
                while await stream.receive_some(1 << 16):
                    pass
                return True
    return False


# ------------------------------------------------------------------ heads

_FILES: Final = {
    b"a.txt": b"x" * 1000,
    b"large.bin": b"x" * 100_000,
    b"index.html": b"<p>",
    b"s.js": b"x" * 1000,
    b"s.js.br": b"x" * 99,
    b"s.js.gz": b"x" * 99,
}
_COUNTS: Final = st.sampled_from([1, 2, 9, 23, 24, 32, 33, 95, 128, 255, 1000, 1 << 14])


def repeated(
    starts: list[bytes], units: list[bytes], ends: list[bytes]
) -> st.SearchStrategy[tuple[bytes, bytes, bytes]]:
    """A text that begins, goes on with the same so many times, and ends."""
    middle = st.builds(
        bytes.__mul__,
        st.lists(st.sampled_from(units), min_size=1, max_size=3).map(b"".join),
        _COUNTS,
    )
    return st.tuples(st.sampled_from(starts), middle, st.sampled_from(ends))


_TARGETS: Final = repeated(
    [b"/", b"/a.txt", b"/a.txt?", b"http://h/", b"http://h", b"//", b"/large.bin?", b"/s.js?"],
    [b"a", b"a/", b"/", b"./", b"../", b"a/../", b"%61", b"%2f", b"%2e", b"%2E", b"%2e%2e/", b"=&"],
    [b"", b"a.txt", b"/", b"..", b"%", b"%00", b"#"],
)
_RANGE_LISTS: Final = st.builds(
    lambda form, start, step, count: (
        b"Range: bytes=",
        b",".join(form % {b"a": start + step * n, b"b": start + step * n} for n in range(count)),
        b"",
    ),
    st.sampled_from([b"%(a)d-%(b)d", b"%(a)d-", b"-%(a)d", b"%(a)030d-%(b)d", b" %(a)d-%(b)d ,"]),
    st.integers(0, 99),
    st.sampled_from([2, 3, 1, 0, 4000, -2, 10**6]),
    st.sampled_from([24, 64, 1000, 2]),
)
_FIELDS: Final = st.one_of(
    _RANGE_LISTS,
    repeated([b"Range: bytes="], [b"0-,", b"1-1,", b"-1", b" ", b",", b"9"], [b"", b"0-0", b"-"]),
    repeated(
        [b"Accept-Encoding: ", b"Accept-Encoding: br"],
        [b"a,", b"br;q=0.5,", b" ", b"\t", b"gzip", b";q=0", b",", b"*"],
        [b"", b"x"],
    ),
    repeated(
        [b"Accept: ", b'Accept: a/b;c="'],
        [b"a/b,", b"text/html;q=0.5,", b";a=b", b'"', b"\\", b" ", b",", b"*/*"],
        [b"", b"x"],
    ),
    repeated(
        [b"If-None-Match: ", b"If-Match: ", b'If-None-Match: "', b'If-Range: "', b"If-Match: *"],
        [b'"x"', b",", b'W/"x", ', b"-a", b"x", b" ", b'-a-b"'],
        [b"", b'"', b"x"],
    ),
    repeated(
        [b"If-Modified-Since: ", b"If-Unmodified-Since: ", b"If-Range: "],
        [b"Sun, ", b"06 Nov 1994 08:49:37", b" ", b"1", b"GMT"],
        [b"", b"x"],
    ),
    repeated(
        *([b"X: ", b"Cookie: ", b"Origin: ", b"Expect: ", b"Host: ", b"Connection: ", b"TE: "],),
        [b"a", b"a=b; ", b"100-continue,", b"close,", b" ", b"%61", b"\r\nX: y", b"\r\n b", b"."],
        [b"", b"x"],
    ),
)  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head within the limits, or little beyond them in the number of fields."""
    method = draw(st.sampled_from([b"GET", b"GET", b"GET", b"HEAD", b"OPTIONS", b"BREW", b"POST"]))
    usual = st.sampled_from([b"/large.bin", b"/a.txt", b"/s.js"]).map(lambda path: (path, b"", b""))
    target = _cut(draw(usual | _TARGETS), _CONFIG.max_target)
    head = draw(st.sampled_from([b"", b"", b"\r\n" * 2000])) + b"%b %b HTTP/1.1\r\n" % (
        *(method, target),
    )
    lines = [(b"Host: h", b"", b""), *draw(st.lists(_FIELDS, max_size=3))]
    for line in lines:
        head += _cut(line, _CONFIG.max_head - len(head) - 4).rstrip(b" \t\r\n") + b"\r\n"
    return head + b"\r\n"


def _cut(text: tuple[bytes, bytes, bytes], room: int) -> bytes:
    """As much of the middle as there is room for."""
    start, middle, end = text
    return (start + middle[: max(0, room - len(start) - len(end))] + end)[: max(0, room)]


TARGETS: Final = (
    Target(
        "dear",
        check_dear,
        {"way": st.sampled_from(["lane", "plain"]), "head": heads()},
    ),
)
