"""What somebody does to a file while it is sent: each kind of change, in each way of sending it."""

import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from email.utils import formatdate
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import trio

from tests.real.support import KIB, LONG_AGO, MIB, content, put
from tests.rig import GUARD
from tests.serving.cases import PATIENT
from tests.serving.client import Answer, parse
from tests.simulated import NANO
from trio_amped import Server
from trio_amped.disk.opening import Volume
from trio_amped.semantics.validators import TagKind
from trio_amped.serving.body import BodySender
from trio_amped.serving.transport import SocketTransport

SIZE: Final = 3 * MIB  # far more than the kernel holds for a client that does not read
BODY: Final = content(SIZE)
OTHER: Final = BODY[::-1]

# ---------------------------------------------------------------- the changes


def until_it_shows(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Again and again, until the date of the file is another one: its clock is a coarse one."""

    def changed(path: Path) -> None:
        before = path.stat().st_mtime_ns
        while path.stat().st_mtime_ns == before:
            change(path)

    return changed


@until_it_shows
def overwrite(path: Path) -> None:
    """In place, and as large as before."""
    with path.open("r+b") as file:
        file.write(OTHER)


@until_it_shows
def overwrite_a_byte(path: Path) -> None:
    """The last one."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(OTHER[-1:])


def overwrite_secretly(path: Path) -> None:
    """In place, as large as before, and with the date that it had; until its ctime shows that."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        with path.open("r+b") as file:
            file.write(OTHER)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@until_it_shows
def write_anew(path: Path) -> None:
    """As `open(path, "wb")` does it: for a moment there is nothing."""
    path.write_bytes(OTHER)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def truncate(path: Path) -> None:
    os.truncate(path, MIB)


def truncate_secretly(path: Path) -> None:
    """With the date that it had."""
    before = path.stat()
    os.truncate(path, MIB)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def empty(path: Path) -> None:
    os.truncate(path, 0)


def put_another(path: Path) -> None:
    put(path.with_name("new"), b"new").rename(path)


def unlink(path: Path) -> None:
    path.unlink()


def forbid(path: Path) -> None:
    path.chmod(0)


def make_readable_for_all(path: Path) -> None:
    path.chmod(0o604)


def link(path: Path) -> None:
    path.with_name("link").hardlink_to(path)


def rename_its_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


@dataclass(frozen=True)
class Change:
    """`is_finished`: whether what was promised is sent to its end. None: it may be, or not."""

    make: Callable[[Path], None]
    if_settled: bool | None
    if_young: bool | None


CHANGES: Final = [
    Change(overwrite, False, False),
    Change(overwrite_a_byte, False, False),
    Change(overwrite_secretly, False, False),
    Change(write_anew, False, False),
    Change(truncate, False, False),
    Change(truncate_secretly, False, False),
    Change(empty, False, False),
    Change(append, False, True),  # a log, if it is young: what was promised is there
    Change(put_another, True, True),
    Change(unlink, True, True),
    Change(forbid, True, True),
    Change(make_readable_for_all, True, True),
    Change(link, True, True),
    Change(rename_its_folder, True, True),
]

# ---------------------------------------------------------------- the ways


class Copying(SocketTransport):
    """Bytes are read and sent, as for TLS."""

    can_send_files = False


WAYS: Final[Mapping[str, Mapping[str, Any]]] = {
    "lane": {},
    "tasks": {"fast_lane": False},
    "nowait": {"gate": "nowait"},
    "always": {"gate": "always"},
    "never": {"gate": "never"},
    "processes": {"gate": "always", "helpers": "process"},
    "remote": {},
    "copied": {"fast_lane": False},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "remote":  # as on FUSE: helpers read
        monkeypatch.setattr(Volume, "is_remote", True)
    if name == "copied":
        monkeypatch.setattr(BodySender, "_sends_file", lambda *_: False)
    return name


@asynccontextmanager
async def serving(root: Path, way: str, **settings: Any) -> AsyncIterator[tuple[str, int]]:
    config = replace(
        PATIENT, root=root, port=0, revalidate=0, max_helpers=2, **WAYS[way], **settings
    )
    server = Server(config)
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(server.serve)
            yield address
            nursery.cancel_scope.cancel()
        assert server.stats.files_open == server.stats.connections_open == 0


@asynccontextmanager
async def asking(
    address: tuple[str, int], target: str, *fields: str, method: str = "GET"
) -> AsyncIterator[trio.SocketStream]:
    """A client that has the head of the answer, and no place for the body."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KIB)
    await sock.connect(address)
    async with trio.SocketStream(sock) as stream:
        lines = (f"{method} {target} HTTP/1.1", "Host: h", "Connection: close", *fields, "", "")
        await stream.send_all("\r\n".join(lines).encode())
        yield stream


async def rest_of(stream: trio.SocketStream, received: bytes = b"") -> bytes:
    data = [received]
    try:
        async for each in stream:
            data.append(bytes(each))
    except trio.BrokenResourceError:
        pass
    return b"".join(data)


@pytest.mark.parametrize("is_settled", [True, False], ids=["settled", "young"])
async def test_a_file_that_changes_while_it_is_sent(
    way: str, is_settled: bool, tmp_path: Path
) -> None:
    async with serving(tmp_path, way) as address:
        for change in CHANGES:
            name = change.make.__name__
            # From the future, it is young however long this takes.
            date = LONG_AGO if is_settled else time.time() + 3600
            path = put(tmp_path / name / "file", BODY, date)
            async with asking(address, f"/{name}/file") as stream:
                received = bytes(await stream.receive_some())
                change.make(path)
                received = await rest_of(stream, received)
            (answer,) = parse(received, [])
            assert answer.status == 200
            assert answer.headers["etag"].startswith("W/") != is_settled
            expected = change.if_settled if is_settled else change.if_young
            assert answer.is_complete == expected, name
            if answer.is_complete:
                assert answer.body == BODY, name
            async with asking(address, f"/{name}/file") as stream:
                (answer,) = parse(await rest_of(stream), [])
            assert (answer.status, answer.body) == what_there_is(path), name


@pytest.fixture
def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock on the wall: no change is too young to show."""
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + 3600 * NANO)


DATES: Final = {
    "ostree": 0,
    "Nix": 1,
    "npm": 499_162_500,
    "SOURCE_DATE_EPOCH": 315_532_800,
    "a day before": 499_162_500 - 86_400,
    "a day after": 315_532_800 + 86_400,
}
SOME_WAYS: Final = pytest.mark.parametrize(
    "way", ["lane", "tasks", "always", "never", "processes", "remote"], indirect=True
)


@SOME_WAYS
@pytest.mark.parametrize("etag", get_args(TagKind))
async def test_a_new_release_with_the_same_date_and_size(
    way: str, etag: TagKind, an_hour_later: None, tmp_path: Path
) -> None:
    """By a rename over the old one: neither 304 nor a part of it, in any mode."""
    async with serving(tmp_path, way, etag=etag) as address:
        for name, date in DATES.items():
            path = put(tmp_path / "file", b"0123456789", date)
            old = await reply_of(address)
            assert (old.status, old.body) == (200, b"0123456789"), name
            tag = old.headers.get("etag", '"none"')
            assert not tag.startswith("W/")
            same = await reply_of(address, f"If-None-Match: {tag}")
            part = await reply_of(address, "Range: bytes=5-", f"If-Range: {tag}")
            assert (same.status, part.status) == ((200, 200) if etag == "none" else (304, 206))
            assert part.body == b"0123456789"[5 if etag != "none" else 0 :]
            put(tmp_path / "new", b"9876543210", date).rename(path)
            for fields in (
                [f"If-None-Match: {tag}"],
                [f"If-Modified-Since: {formatdate(date, usegmt=True)}"],
                ["Range: bytes=5-", f"If-Range: {tag}"],
                ["Range: bytes=5-", f"If-Range: {formatdate(date, usegmt=True)}"],
            ):
                new = await reply_of(address, *fields)
                assert (new.status, new.body) == (200, b"9876543210"), (name, fields)


@SOME_WAYS
async def test_a_digest_is_of_the_content_alone(
    way: str, an_hour_later: None, tmp_path: Path
) -> None:
    """Of a copy with other dates it is the same; of other bytes with the same dates it is not."""
    tags = []
    for number, date in enumerate((LONG_AGO, LONG_AGO + 1, 1)):
        put(tmp_path / f"{number}" / "file", BODY, date)
        put(tmp_path / f"{number}" / "file.gz", BODY[:10], date)
        async with serving(tmp_path / f"{number}", way, etag="digest") as address:
            whole = await reply_of(address)
            coded = await reply_of(address, "Accept-Encoding: gzip")
            assert (whole.body, coded.body) == (BODY, BODY[:10])
            tags.append((whole.headers["etag"], coded.headers["etag"]))
            again = await reply_of(address, f"If-None-Match: {tags[0][0]}")
            assert again.status == 304
            overwrite_secretly(tmp_path / f"{number}" / "file")
            new = await reply_of(address, f"If-None-Match: {tags[0][0]}")
            assert (new.status, new.body) == (200, OTHER)
            assert new.headers["etag"] not in (*tags[0], *tags[-1])
    digests = [blake2b(data, digest_size=16).hexdigest() for data in (BODY, BODY[:10])]
    assert set(tags) == {(f'"{digests[0]}-{SIZE:x}"', f'"{digests[1]}-a-gzip"')}


@pytest.mark.parametrize("way", ["lane", "tasks", "always", "remote"], indirect=True)
async def test_no_digest_of_a_large_file(way: str, an_hour_later: None, tmp_path: Path) -> None:
    """Of 50 GB, which would take longer than anybody waits."""
    with put(tmp_path / "file", b"", LONG_AGO).open("r+b") as file:
        file.truncate(50 * 10**9)
    async with serving(tmp_path, way, etag="digest") as address:
        answer = await reply_of(address, method="HEAD")
        tag = answer.headers["etag"]
        assert (answer.status, tag[:3]) == (200, 'W/"')
        assert (await reply_of(address, f"If-None-Match: {tag}")).status == 304
        part = await reply_of(address, "Range: bytes=0-9")
        assert (part.status, part.body) == (206, bytes(10))
        with (tmp_path / "file").open("r+b") as file:
            file.write(b"x")
        assert (await reply_of(address, f"If-None-Match: {tag}", method="HEAD")).status == 200


@pytest.mark.parametrize("way", ["lane", "tasks", "always", "remote"], indirect=True)
@pytest.mark.parametrize("date", [0, 1, 499_162_500, 315_532_800])
async def test_a_release_that_is_switched_by_a_link(way: str, date: int, tmp_path: Path) -> None:
    """Whoever has the old one gets all of the new one."""
    for name, body in (("old", b"0123456789"), ("new", b"9876543210")):
        put(tmp_path / name / "file", body, date)
    (tmp_path / "current").symlink_to("old")
    async with serving(tmp_path / "current", way) as address:
        old = await reply_of(address)
        assert (old.status, old.body) == (200, b"0123456789")
        assert "last-modified" not in old.headers
        switched = tmp_path / "switched"
        switched.symlink_to("new")
        switched.rename(tmp_path / "current")
        tag = old.headers["etag"]
        dated = "Fri, 01 Jan 2100 00:00:00 GMT"
        for fields in (
            f"If-None-Match: {tag}",
            f"If-Modified-Since: {dated}",
            f"Range: bytes=5-\r\nIf-Range: {tag}",
        ):
            new = await reply_of(address, fields)
            assert (new.status, new.body) == (200, b"9876543210")
            assert new.headers["etag"].removeprefix("W/") != tag.removeprefix("W/")


@pytest.mark.parametrize("way", ["lane", "tasks", "always", "remote"], indirect=True)
@pytest.mark.parametrize(("etag", "is_seen"), [("mtime", False), ("ctime", True), ("digest", True)])
async def test_a_rewritten_file_whose_date_was_put_back(
    way: str, etag: TagKind, is_seen: bool, tmp_path: Path
) -> None:
    """The mtime alone cannot show that: see docs/reliability.md."""
    path = put(tmp_path / "file", BODY, LONG_AGO)
    async with serving(tmp_path, way, etag=etag) as address:
        old = await reply_of(address)
        overwrite_secretly(path)
        new = await reply_of(address, f"If-None-Match: {old.headers['etag']}")
    assert (old.status, old.body) == (200, BODY)
    assert new.status == (200 if is_seen else 304)
    assert new.body == (OTHER if is_seen else b"")


async def reply_of(address: tuple[str, int], *fields: str, method: str = "GET") -> Answer:
    async with asking(address, "/file", *fields, method=method) as stream:
        (answer,) = parse(await rest_of(stream), [method.encode()])
    return answer


def what_there_is(path: Path) -> tuple[int, bytes]:
    """What the next one gets who asks."""
    if path.exists():
        return 200, path.read_bytes()
    return 404, b"404 Not Found\n"
