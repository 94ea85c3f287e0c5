"""The simulated world does what its parts say, and can be replayed."""

import contextlib
import errno
import logging
import os
from dataclasses import replace
from unittest import mock

import pytest
import trio
import trio.lowlevel

from fuzz.properties import answers, cancellation, changes, faults, heads, waiting
from fuzz.tally import TALLY
from fuzz.world import reference
from fuzz.world.clients import Client, Script, split
from fuzz.world.disk import Change, Plan
from fuzz.world.hosts import hosting
from fuzz.world.points import Points
from fuzz.world.requests import LIMITS
from fuzz.world.runs import run, some_of
from fuzz.world.scenes import CONFIG, Scene, content, is_answer, is_start
from tests.serving.client import Answer
from tests.serving.peers import WAYS
from tests.simulated import NOW
from trio_amped.disk.interface import FileChanged
from trio_amped.disk.misses import Arrivals, Miss
from trio_amped.serving.connection import Connection

FILES = {b"index.html": 13, b"a.txt": 10, b"s.js": 70_000, b"s.js.br": 100, b"folder": -1}
GET = b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n"
LARGE = b"GET /s.js HTTP/1.1\r\nHost: h\r\n\r\n"
THREE = GET + LARGE + b"GET /nope HTTP/1.1\r\nHost: h\r\n\r\n"


class Steps(trio.abc.Instrument):
    """The names of the tasks, in the order of their steps."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.names.append(task.name)


# ------------------------------------------------------------------ runs


async def _crowd(scene: Scene) -> bytes:
    async with hosting(scene.way, scene.disk(), CONFIG) as host, trio.open_nursery() as nursery:
        clients = [Client(host.connect(), split(scene.wire, (5, 40))) for _ in range(4)]
        for client in clients:
            nursery.start_soon(client.run)
    return b"".join(client.received for client in clients)


def _steps(way: str, schedule: int) -> list[str]:
    steps = Steps()
    plan = Plan(resident=(True, False), latencies=(0.5,))
    run(_crowd, Scene(FILES, THREE, way, plan=plan), schedule=schedule, instruments=[steps])
    return steps.names


@pytest.mark.parametrize("way", WAYS)
def test_a_schedule_can_be_replayed(way: str) -> None:
    assert _steps(way, 7) == _steps(way, 7)
    assert len({tuple(_steps(way, number)) for number in range(8)}) > 1


def test_a_day_passes_at_once() -> None:
    async def wait() -> float:
        await trio.sleep(86_400)
        return trio.current_time()

    assert run(wait) == 86_400


def test_a_bug_in_the_log_is_a_failure() -> None:
    async def log_a_bug() -> None:
        try:
            raise ValueError("planted")
        except ValueError:
            logging.getLogger("trio_amped.serving").exception("a bug")

    with pytest.raises(AssertionError, match="planted"):
        run(log_a_bug)


@pytest.mark.parametrize("count", [0, 1, 40, 41, 80, 81, 350, 1000])
def test_of_many_calls_some_are_tried(count: int) -> None:
    """All of a few; and each of many, by one schedule or another."""
    tried = [list(some_of(count, schedule)) for schedule in range(count + 1)]
    assert all(len(each) == len(set(each)) <= 120 for each in tried)
    assert {number for each in tried for number in each} == set(range(count))
    assert count > 80 or tried[0] == list(range(count))


def test_a_descriptor_that_is_left_is_a_failure() -> None:
    left = []

    async def leave_one() -> None:
        left.append(os.memfd_create("left"))

    with pytest.raises(AssertionError, match="left"):
        run(leave_one)
    os.close(left[0])


# ------------------------------------------------------------------ the disk


def test_a_fault_happens_at_its_call() -> None:
    async def read_twice() -> list[str]:
        disk = Scene(FILES, plan=Plan(faults={1: "EIO"})).disk()
        file = await disk.open(b"a.txt")
        with pytest.raises(OSError, match="error") as caught:
            await disk.read(file, 0, 10)
        assert caught.value.errno == errno.EIO
        assert await disk.read(file, 0, 10) == content(b"a.txt", 10)
        disk.close(file)
        assert disk.reached == {"fault"}
        return disk.calls

    assert run(read_twice) == ["open", "read", "read"]
    assert TALLY["fault", "read", "EIO"]


@pytest.mark.parametrize("after", [False, True])
def test_a_change_happens_at_its_call(after: bool) -> None:
    async def read() -> None:
        change = Change(at=1, path=b"a.txt", kind="truncate", size=3, after=after)
        disk = Scene(FILES, plan=Plan(changes=(change,))).disk()
        file = await disk.open(b"a.txt")
        if after:
            assert len(await disk.read(file, 0, 10)) == 10
        with pytest.raises(FileChanged):
            await disk.read(file, 0, 10)
        disk.close(file)
        versions = [form.content for form in disk.versions[b"a.txt"] if form]
        assert versions == [content(b"a.txt", 10), content(b"a.txt", 3)]

    run(read)


def test_a_disk_that_hangs_gives_up_in_the_end() -> None:
    async def wait() -> None:
        disk = Scene(FILES, plan=Plan(resident=(False,), latencies=(1e9,))).disk()
        with pytest.raises(TimeoutError):
            await disk.open(b"a.txt")
        assert trio.current_time() == 30
        assert disk.busy == 0

    run(wait)


def test_files_differ() -> None:
    assert content(b"a.txt", 5000) != content(b"b.txt", 5000)
    assert len({content(b"a.txt", 70_000)[at : at + 20] for at in range(251)}) == 251


# ------------------------------------------------------------------ what is taken for an answer


def test_only_the_bytes_that_are_due_are_a_start() -> None:
    """Of several parts too, whatever the delimiter is."""
    wire = b"GET /a.txt HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1,4-5\r\n\r\n"
    (expected,) = Scene(FILES, wire).expected()
    data = content(b"a.txt", 10)
    head = (
        b"\r\n--x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes %b/10\r\n\r\n"
    )
    first, second = head % b"0-1" + data[:2], head % b"4-5" + data[4:6]
    whole = first + second + b"\r\n--x--\r\n"
    fields = expected.answer.fields | {"content-type": "multipart/byteranges; boundary=x"}
    due = Answer(206, fields | {"content-length": str(len(whole))}, whole, True)
    assert is_answer(due, expected)
    assert is_start(replace(due, body=first), expected)
    for body in (b"JUNK", second, first + first, whole, whole.replace(b"plain", b"html")):
        assert not is_start(replace(due, body=body), expected)


def _written(status: int, fields: dict[str, str], body: bytes) -> bytes:
    lines = [f"{name.title()}: {value}\r\n" for name, value in fields.items()]
    head = f"HTTP/1.1 {status} A\r\nDate: now\r\n{''.join(lines)}\r\n"
    return head.replace("Etag", "ETag").encode() + body


def test_an_answer_is_of_one_version_of_a_file() -> None:
    """Its validators and its bytes are, and that version would have given its status."""
    scene = Scene({b"s.js": 200}, LARGE)
    disk = scene.disk()
    disk.change(Change(0, b"s.js", "replace", 100))
    old, new = (each.answer for each in changes._possible(LARGE, b"s.js", scene, disk))
    assert old.body
    assert new.body
    assert new.fields["etag"] != old.fields["etag"]

    def check(status: int, fields: dict[str, str], body: bytes) -> None:
        changes.check_plausible(_written(status, fields, body), scene, disk, is_cut=False)

    for version, body in ((old, old.body), (new, new.body), (new, new.body[:50])):
        check(200, version.fields, body)
    text = {"content-length": "4"}
    forged: list[tuple[int, dict[str, str], bytes]] = [
        (200, new.fields | {"etag": old.fields["etag"]}, new.body),
        (200, new.fields | {"last-modified": "Sun, 06 Nov 1994 08:49:37 GMT"}, new.body),
        (200, new.fields, old.body[:50]),
        (206, new.fields | {"content-range": "bytes 0-99/100"}, b"JUNK"),
        (304, {"etag": new.fields["etag"]}, b""),
        *((status, text, b"%d " % status) for status in (404, 412, 416, 500)),
    ]
    for status, fields, body in forged:
        with pytest.raises(AssertionError):
            check(status, fields, body)


# ------------------------------------------------------------------ cancellation points


@pytest.mark.parametrize("way", WAYS)
def test_every_point_is_found(way: str) -> None:
    """Those of a toy: three requests."""
    counting = Points()
    scene = Scene(FILES, THREE, way, plan=Plan(resident=(False,), latencies=(1.0,)))
    run(cancellation._cancelled, scene, counting, instruments=[counting])
    assert counting.count >= 15
    before = TALLY["cancellation point",]
    cancellation._check_cancellations(scene)
    assert TALLY["cancellation point",] == before + counting.count


def test_a_leak_at_one_point_is_found() -> None:
    fill = Miss.fill

    async def forgetful(self: Miss, came: Arrivals) -> None:
        await fill(self, Arrivals())  # nobody closes them
        await fill(self, came)

    scene = Scene(FILES, LARGE, plan=Plan(resident=(False,)))
    with mock.patch.object(Miss, "fill", forgetful), pytest.raises(AssertionError):
        cancellation.check_cancellations(scene)


# ------------------------------------------------------------------ properties see what they should


def test_an_answer_after_a_broken_one_is_found() -> None:
    async def respond(self: Connection, response: object, body: object) -> None:
        with contextlib.suppress(FileChanged, OSError):  # and the connection goes on
            head = self._head(response, response.body)  # type: ignore[attr-defined, arg-type]
            await body.send(head)  # type: ignore[attr-defined]

    scene = Scene(FILES, LARGE + GET, window=4096)
    with mock.patch.object(Connection, "respond", respond), pytest.raises(AssertionError):
        faults.check_faults(scene, 0, False)


def test_a_lost_answer_is_found() -> None:
    drop = mock.patch.object(Connection, "_first_bytes", mock.AsyncMock(return_value=False))
    with drop, pytest.raises(AssertionError):
        answers.check_reference(Scene(FILES, GET), b"", (), (0.0,), (1 << 16, 0.0), "eof")


def test_a_client_that_is_kept_for_ever_is_found() -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    lazy = replace(waiting._CONFIG, head_timeout=1e6)
    with mock.patch.object(waiting, "_CONFIG", lazy):
        waiting.check_drips(head, 0.9, "plain", 0)  # in time by this measure
    with (
        mock.patch(
            "fuzz.properties.waiting.hosting", lambda way, disk, _: hosting(way, disk, lazy)
        ),
        pytest.raises(AssertionError),
    ):
        waiting.check_drips(head, 0.9, "plain", 0)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /a HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip \r\nX:\r\n\r\n",
        b'HEAD /?q HTTP/1.1\r\nIf-None-Match: W/"x"\r\nhost:h:80\r\nConnection: close\r\n\r\n',
    ],
)
def test_common_heads_are_compared(head: bytes) -> None:
    before = TALLY["common head",]
    heads.check_common(head)
    assert TALLY["common head",] == before + 1


# ------------------------------------------------------------------ the reference


@pytest.mark.parametrize(
    ("stream", "statuses"),
    [
        (GET + b"\r\n" + GET, [200, 200]),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + GET, [200]),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n" + GET, [200]),
        (b"GET / HTTP/1.0\r\n\r\n" + GET, [200]),
        (b"GET /folder HTTP/1.1\r\nHost: h\r\n\r\n" + GET, [301, 200]),
        (b"GET /%2e%2e/ HTTP/1.1\r\nHost: h\r\n\r\n" + GET, [400]),
        (b"GET /.git HTTP/1.1\r\nHost: h\r\n\r\n", [404]),
        (b"GET / HTTP/1.1\nHost: h\n\n" + GET, [400]),
        (b"GET / HTTP/1.1\r\n\r\n" + GET, [400]),
        (b"GET /" + b"a" * 300, [414]),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 3000, [431]),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 30, [431]),
        (b"\r\n\r\n", []),
        (b"\r\n\r\nG", [400]),
    ],
)
def test_the_reference_knows_the_rfc(stream: bytes, statuses: list[int]) -> None:
    found = reference.answers(stream, Scene(FILES).forms, LIMITS, NOW)
    assert [each.answer.status for each in found] == statuses


def test_clients_do_as_they_are_told() -> None:
    async def ask(ending: str) -> tuple[bytes, bool, float]:
        async with hosting("plain", Scene(FILES).disk(), CONFIG) as host:
            client = Client(host.connect("memory"), Script(((2.0, GET),), ending))
            await client.run()
            return bytes(client.received), client.saw_end, client.ended_at

    whole, saw_end, ended_at = run(ask, "eof")
    assert (whole[-10:], saw_end, ended_at) == (content(b"a.txt", 10), True, 2.0)
    assert run(ask, "stay") == (whole, True, 77.0)
    data, saw_end, ended_at = run(ask, "reset")
    assert (whole.startswith(data), saw_end, ended_at) == (True, False, 2.0)
