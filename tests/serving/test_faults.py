"""A disk that fails: an honest status before the head, and nothing after a broken body."""

import errno
import logging
from collections.abc import Iterator

import pytest
from trio.testing import MockClock

from tests.serving.cases import FILES, LARGE, PATIENT, Case, get
from tests.serving.client import parse
from tests.serving.peers import Link, by_lockstep, by_memory, by_unix_socket, connected, converse
from tests.simulated import failure
from trio_amped.config import Config
from trio_amped.disk.interface import FileChanged
from trio_amped.testing import Happening, SimDisk

AGAIN: dict[str, str | None] = {"retry-after": "1"}


OPENING = {
    404: (errno.EXDEV, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG, errno.ENXIO, errno.ENOTDIR),
    503: (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ETIMEDOUT, errno.ESTALE),
    500: (errno.EIO, errno.EUCLEAN),
}


@pytest.mark.parametrize(
    ("status", "number"), [(status, each) for status, group in OPENING.items() for each in group]
)
async def test_opening_fails(status: int, number: int, autojump_clock: MockClock) -> None:
    def prepare(disk: SimDisk) -> None:
        disk.at_open[0] = failure(number)

    headers: dict[str, str | None] = AGAIN if status == 503 else {"retry-after": None}
    await Case("open", get("/a.txt"), status, headers=headers, prepare=prepare).run()


@pytest.mark.parametrize("path", ["/a.txt", "/large.bin"])
@pytest.mark.parametrize(
    ("status", "happening"),
    [
        (500, failure(errno.EIO)),
        (500, failure(errno.ENOENT)),  # of reading, not of opening
        (500, OSError("without a number")),
        (503, failure(errno.EAGAIN)),
        (503, failure(errno.ETIMEDOUT)),
        (503, FileChanged()),
    ],
    ids=repr,
)
async def test_the_first_window_fails(
    path: str, status: int, happening: Happening, autojump_clock: MockClock
) -> None:
    def prepare(disk: SimDisk) -> None:
        disk.at_load[0] = happening

    headers: dict[str, str | None] = {"etag": None, "last-modified": None}
    await Case("load", get(path), status, headers=headers, prepare=prepare).run()


@pytest.mark.parametrize("more", [(), ("Range: bytes=1-150000",)], ids=["all", "a range"])
async def test_what_was_evicted_fails_as_honestly_as_the_first_time(
    more: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """However the answer was kept since: what is large is not in our memory."""
    disk, wire = SimDisk(FILES), get("/large.bin", *more)

    def pieces() -> Iterator[bytes]:
        yield from [wire] * 3
        disk.evict()
        disk.at_load.update({number: failure(errno.EIO) for number in range(99)})
        yield from [wire] * 2

    answers = parse(await converse(disk, pieces(), PATIENT), [])
    assert [each.status for each in answers] == [206 if more else 200] * 3 + [500] * 2


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537])
async def test_what_is_small_is_kept_in_memory(size: int, autojump_clock: MockClock) -> None:
    """Up to 64 KiB: then it does not matter what becomes of the disk."""
    disk = SimDisk({b"file": b"x" * size})

    def pieces() -> Iterator[bytes]:
        yield from [get("/file")] * 3
        disk.evict()
        disk.at_load.update({number: failure(errno.EIO) for number in range(99)})
        yield get("/file")

    *_, last = parse(await converse(disk, pieces(), PATIENT), [])
    assert last.status == (200 if size <= 65_536 else 500)


async def test_head_needs_no_window(autojump_clock: MockClock) -> None:
    def prepare(disk: SimDisk) -> None:
        disk.at_load[0] = failure(errno.EIO)

    headers: dict[str, str | None] = {"content-length": "200000"}
    request = get("/large.bin", method="HEAD")
    whole = await Case("HEAD", request, 200, b"", headers).run()
    assert whole.endswith(b"\r\n\r\n")


async def test_a_refused_link_is_told_to_the_log_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="trio_amped")
    for number in (errno.EXDEV, errno.ELOOP):
        await Case("link", get("/l"), 404, entries={b"l": failure(number)}).run()
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert all("symbolic link" in message for message in caplog.messages)


def truncated(disk: SimDisk) -> None:
    disk.at_load[2] = lambda: disk.truncate(b"large.bin", 140_000)


def unreadable(disk: SimDisk) -> None:
    disk.at_load[2] = failure(errno.EIO)


def replaced_in_place(disk: SimDisk) -> None:
    disk.at_load[2] = FileChanged()


@pytest.mark.parametrize("break_it", [truncated, unreadable, replaced_in_place])
@pytest.mark.parametrize("link", [by_memory, by_lockstep, by_unix_socket])
async def test_a_body_that_cannot_be_finished_is_cut_off(
    break_it: object, link: Link, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(break_it)
    disk = SimDisk(FILES, real_descriptors=link is by_unix_socket)
    break_it(disk)
    async with connected(disk, link=link) as peer:
        await peer.send(get("/large.bin") + get("/a.txt"))
        (answer,) = parse(await peer.receive_all(), [b"GET"])
    assert answer.status == 200
    assert not answer.is_complete
    assert answer.body == LARGE[: 2 * 64 * 1024]
    assert disk.opened == disk.closed == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_sendfile_past_the_end_is_a_changed_file(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The gate said yes, and then the file was cut off before it was sent."""
    disk = SimDisk(FILES, window=1 << 20, real_descriptors=True)
    async with connected(disk, link=by_unix_socket) as peer:
        disk.at_load[0] = lambda: disk.truncate_descriptors(b"large.bin", 100_000)
        await peer.send(get("/large.bin"))
        (answer,) = parse(await peer.receive_all(), [b"GET"])
    assert not answer.is_complete
    assert answer.body == LARGE[:100_000]
    assert "changed while it was sent" in caplog.text


async def test_a_replaced_file_is_sent_as_it_was_opened(autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES)
    disk.at_load[1] = lambda: disk.replace(b"large.bin", b"another")
    async with connected(disk, Config(revalidate=0.0)) as peer:
        await peer.send(get("/large.bin") + get("/large.bin", "Connection: close"))
        first, second = parse(await peer.receive_all(), [])
    assert (first.body, second.body) == (LARGE, b"another")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_bug_is_answered_for_and_logged(
    method: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk(FILES)
    disk.at_open[0] = ZeroDivisionError("planted")
    async with connected(disk) as peer:
        await peer.send(get("/a.txt", method=method) + get("/a.txt"))
        (answer,) = parse(await peer.receive_all(), [method.encode()])
    assert answer.status == 500
    assert "planted" not in str(answer)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "ZeroDivisionError: planted" in caplog.text


async def test_the_answer_for_a_bug_says_that_the_connection_closes(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(FILES)
    disk.at_open[0] = ZeroDivisionError("planted")
    async with connected(disk) as peer:
        await peer.send(get("/a.txt"))
        (answer,) = parse(await peer.receive_all(), [])
    assert answer.closes


async def test_a_bug_within_a_body_cuts_it_off(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk(FILES)
    disk.at_load[1] = ZeroDivisionError("planted")
    async with connected(disk) as peer:
        await peer.send(get("/large.bin"))
        (answer,) = parse(await peer.receive_all(), [])
    assert (answer.status, answer.is_complete) == (200, False)
    assert "ZeroDivisionError: planted" in caplog.text
