"""What clients make up is kept nowhere: it costs no memory, and evicts nothing that others ask for.

Scanners ask for names that are not there, and caches are filled by queries, tags and spellings.
"""

import gc
import itertools
import tracemalloc
from collections.abc import Callable

import pytest
from trio.testing import MockClock

from trio_amped.config import Config
from trio_amped.disk.misses import Arrivals
from trio_amped.disk.open_files import Lookup
from trio_amped.serving.replies import Replies, Reply
from trio_amped.serving.resources import Found, Resource
from trio_amped.serving.router import Router
from trio_amped.testing import SimDisk

HOT = [b"hot-%d.txt" % number for number in range(50)]
FILES = dict.fromkeys(HOT, b"hot") | {b"404.html": b"lost", b"app.html": b"app"}
CONFIGS = {
    "as it is": {},
    "error page": {"error_pages": ("404=/404.html",)},
    "fallback": {"fallback": "/app.html"},
    "cors": {"cors": ("*",)},
    "urls": {"clean_urls": True, "redirects": ("/old/* /new/:splat",)},
}


def head(target: bytes = b"/hot-0.txt", *fields: bytes) -> bytes:
    lines = (b"GET %s HTTP/1.1" % target, b"Host: localhost", *fields)
    return b"\r\n".join(lines) + b"\r\n\r\n"


# The Nth request of a kind: no two are the same.
MADE_UP: dict[str, Callable[[int], bytes]] = {
    "names": lambda n: head(b"/nothing-%d" % n),
    "folders": lambda n: head(b"/nothing-%d/nothing" % n),
    "below a file": lambda n: head(b"/hot-1.txt/%d" % n),
    "queries": lambda n: head(b"/hot-0.txt?%d" % n),
    "spellings of a name": lambda n: head(b"/%%2e/" * (n % 50) + b"nothing-%d" % n),
    "hosts": lambda n: head(b"http://host-%d/hot-0.txt" % n),
    "tags": lambda n: head(b"/hot-0.txt", b'If-None-Match: "%d"' % n),
    "dates": lambda n: head(b"/hot-0.txt", b"If-Modified-Since: %d" % n),
    "ranges": lambda n: head(b"/hot-0.txt", b"Range: bytes=0-%d" % n),
    "origins": lambda n: head(b"/hot-0.txt", b"Origin: https://%d.example" % n),
    "codings": lambda n: head(b"/hot-0.txt", b"Accept-Encoding: gzip;q=0.5, %d" % n),
    "kinds": lambda n: head(b"/nothing", b"Accept: text/html, a/%d" % n),
}


def ask(router: Router, replies: Replies, request: bytes) -> Reply | None:
    router.clock.update()
    match = router.recogniser.match(request)
    if match is None:
        return None
    with Arrivals() as came:
        return replies.at_hand(match) or replies.make(match, came)


def hot_answers(router: Router, replies: Replies) -> list[bytes]:
    answers = []
    for name in HOT:
        reply = ask(router, replies, head(b"/" + name))
        assert reply is not None
        assert reply.status == 200
        answers.append(bytes(reply.wire))
    return answers


@pytest.mark.parametrize("kind", MADE_UP)
@pytest.mark.parametrize("settings", CONFIGS)
async def test_what_is_made_up_is_not_kept(
    settings: str, kind: str, autojump_clock: MockClock
) -> None:
    """After so many that all that is bounded is full, more of them change nothing."""
    disk = SimDisk(FILES)
    config = Config(max_open_files=len(FILES), revalidate=1000, **CONFIGS[settings])  # type: ignore[arg-type]
    router = Router(config, [disk])
    replies = Replies(router)
    hot_answers(router, replies)
    opened = disk.opened
    numbers = itertools.count()
    for number in itertools.islice(numbers, 1200):  # more than any cache has places
        ask(router, replies, MADE_UP[kind](number))
    gc.collect()
    tracemalloc.start()
    try:
        for number in itertools.islice(numbers, 500):
            ask(router, replies, MADE_UP[kind](number))
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    replaced = 500 * 700  # bytes of what stands in the place of something else
    assert grown < (replaced if kind in ("codings", "dates", "kinds") else 20_000)
    assert [answer[-3:] for answer in hot_answers(router, replies)] == [b"hot"] * len(HOT)
    pages = 2  # of errors, which are kept as well
    assert disk.opened <= opened + pages, "what is hot is still open"
    router.close()
    assert disk.open_files == 0


@pytest.mark.parametrize("size", [3, 200_000])
async def test_what_is_let_go_of_is_freed_at_once(size: int, autojump_clock: MockClock) -> None:
    """Cycles wait for a full collection, which holds the loop: 228 ms for those of some seconds."""
    disk = SimDisk(dict.fromkeys(HOT, bytes(size)))
    router = Router(Config(), [disk])
    replies = Replies(router)
    kinds = (b"Range: bytes=1-2", b"Range: bytes=999999-", b'If-Match: "x"', b"If-None-Match: *")
    ours = Lookup, Resource, Found, Reply

    def alive() -> int:
        return sum(isinstance(each, ours) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = alive()  # of other tests
        for name, fields in itertools.product(HOT * 2, ((), *((kind,) for kind in kinds))):
            assert ask(router, replies, head(b"/" + name, *fields)) is not None
        assert alive() >= before + 6 * len(HOT)
        router.close()
        assert alive() == before
    finally:
        gc.enable()
