"""The disk room as a whole: real files and mappings, the pool, and helpers that take their time.

Nothing here depends on what this machine has in memory: that is drawn.
"""

import contextlib
import errno
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from unittest import mock

import trio
from hypothesis import strategies as st

from fuzz.tally import note
from fuzz.target import Target
from fuzz.world import reference
from fuzz.world.clients import Client, Script
from fuzz.world.disk import WorldDisk
from fuzz.world.hosts import Host, hosting
from fuzz.world.points import Points
from fuzz.world.requests import LIMITS
from fuzz.world.runs import SCHEDULES, run, some_of
from fuzz.world.scenes import CONFIG, check_answers, content, read
from tests.reference import Form
from tests.serving.peers import WAYS
from tests.simulated import DAY, NANO, NOW
from trio_amped.config import Config
from trio_amped.disk import carriers, helper, kernel, local, opening, paths
from trio_amped.disk.loading import touch
from trio_amped.disk.messages import FREE, Order
from trio_amped.disk.pages import Gate, PageGate
from trio_amped.stats import Stats

_COLD: Final = b"cold.bin"
_COLD_TOO: Final = [b"cold-%d.bin" % number for number in range(6)]  # of which nobody loads a page
_SIZES: Final = {
    b"index.html": 13,
    b"a.txt": 10,
    b"hot.bin": 70_000,
    _COLD: 200_000,
    **dict.fromkeys(_COLD_TOO, 10),
}
_FORMS: Final = {
    path: Form(content(path, size), (NOW - DAY) * NANO) for path, size in _SIZES.items()
}
_HANGS: Final = float("inf")  # seconds that a helper takes for an order


def _get(path: bytes, fields: bytes = b"") -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: h\r\n%s\r\n" % (path, fields)


def _expected(wire: bytes) -> list[reference.Expected]:
    return reference.answers(wire, _FORMS, LIMITS, NOW)


# ------------------------------------------------------------------ what is in memory


class Kernel:
    """What it says of its caches: all is there but the cold files that no helper has touched."""

    def __init__(self, root: bytes) -> None:
        self._cold = os.stat(root + b"/" + _COLD).st_ino
        self._unknown = {_COLD, *_COLD_TOO}  # names
        self._loaded: set[int] = set()  # its pages

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """Instead of this machine's."""
        mapping = kernel.ShadowMapping
        instead: list[tuple[object, str, Callable[..., object]]] = [
            (opening, "open_cached", self._unless_cold(opening.open_waiting)),
            (opening, "identify_cached", self._unless_cold(opening.identify_waiting)),
            (opening, "open_root_cached", lambda path: opening.open_root_waiting(path).descriptor),
            (PageGate, "choose", lambda *_: Gate.MINCORE),
            (kernel, "ShadowMapping", lambda fd, size: _Told(mapping(fd, size), fd, self)),
        ]
        with contextlib.ExitStack() as patches:
            for place, name, stand_in in instead:
                patches.enter_context(mock.patch.object(place, name, stand_in))
            yield

    def _unless_cold(self, look: Callable[..., Any]) -> Callable[..., Any]:
        def cached(directory: int, path: bytes, _volume: object, *more: bool) -> object:
            if path in self._unknown:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return look(directory, path, *more)

        return cached

    def resident(self, inode: int, offset: int, length: int) -> int:
        if inode != self._cold:
            return length
        end = at = offset
        while at < offset + length and at // kernel.PAGE in self._loaded:
            at = end = at - at % kernel.PAGE + kernel.PAGE
        return max(0, min(end, offset + length) - offset)

    def learn(self, order: Order) -> None:
        """Which names a helper's work leaves in memory."""
        self._unknown.difference_update(order.paths)

    def load(self, descriptor: int, offset: int, length: int) -> None:
        """A helper's work, which leaves these pages in memory."""
        touch(descriptor, offset, length)
        if os.fstat(descriptor).st_ino == self._cold:
            self._loaded.update(range(offset // kernel.PAGE, -(-(offset + length) // kernel.PAGE)))


class _Told:
    """A mapping, real but for what is in memory of it."""

    def __init__(self, mapping: kernel.ShadowMapping, fd: int, memory: Kernel) -> None:
        self._mapping = mapping
        self._inode = os.fstat(fd).st_ino
        self._memory = memory

    def resident(self, offset: int, length: int) -> int:
        return self._memory.resident(self._inode, offset, length)

    def close(self) -> None:
        self._mapping.close()


# ------------------------------------------------------------------ helpers, and the disk


class Helpers:
    """A helper's work, in a task that takes its time. Gone through again and again: `seconds`."""

    def __init__(self, memory: Kernel, seconds: tuple[float, ...]) -> None:
        self._memory = memory
        self._seconds = seconds
        self._orders = 0

    async def carry(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        with channel:
            channel.send(FREE)
            while True:
                await trio.lowlevel.wait_readable(channel)
                message, received = helper.receive(channel)
                try:
                    if not message:
                        return
                    number, order = Order.unpack(message)
                    await self._wait()
                    done = helper._perform(order, received, self._memory.load)
                finally:
                    for each in received:
                        os.close(each)
                self._memory.learn(order)
                helper._answer(channel, number, done)

    async def _wait(self) -> None:
        seconds = self._seconds[self._orders % len(self._seconds)]
        self._orders += 1
        note("helper", "hangs" if seconds == _HANGS else "works")
        await trio.sleep(seconds)


class Watched(local.LocalDisk):
    """With what a host looks at in the end."""

    has_real_descriptors = has_tasks = True
    busy = opened = closed = 0  # a helper may well be busy for somebody who is gone

    @property
    def open_files(self) -> int:
        return self._stats.files_open


@dataclass(frozen=True)
class Machine:
    root: bytes
    way: str
    config: Config
    seconds: tuple[float, ...]
    wire: bytes = b""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[Host, Stats]]:
        """A server on the real disk; when it is gone there are no mappings, and no jobs."""
        stats = Stats()
        memory = Kernel(self.root)
        helpers = Helpers(memory, self.seconds)

        # What would be done in a thread: virtual time does not wait for one.

        async def open_root(path: bytes) -> opening.Opened:
            return paths._open_root(path)

        def at_once(close: Callable[[], None], done: Callable[[object], None], _name: str) -> None:
            close()
            done(None)

        with (
            memory.asked(),
            mock.patch.object(local, "LocalDisk", Watched),
            mock.patch.object(local, "open_root", open_root),
            mock.patch.object(trio.lowlevel, "start_thread_soon", at_once),
            mock.patch.object(carriers, "in_threads", return_value=helpers.carry),
        ):
            async with local.open_disk(self.config, stats) as disk:
                async with hosting(self.way, cast(WorldDisk, disk), self.config) as host:
                    yield host, stats
                assert self._mappings() == 0
                if _HANGS not in self.seconds:
                    await trio.sleep(sum(self.seconds) * 100)
                    assert stats.helpers_busy == 0

    def _mappings(self) -> int:
        return Path("/proc/self/maps").read_bytes().count(self.root + b"/")


@contextlib.contextmanager
def _files() -> Iterator[bytes]:
    """A root; its files were read just now, so that no access time is due."""
    with tempfile.TemporaryDirectory(prefix="machine-") as folder:
        for path, form in _FORMS.items():
            file = Path(folder, os.fsdecode(path))
            file.write_bytes(form.content)
            os.utime(file, ns=(file.stat().st_atime_ns, form.mtime_ns))
        yield os.fsencode(folder)


def _config(root: bytes, helpers: int) -> Config:
    return Config(
        root=os.fsdecode(root),
        precompressed=(),
        max_helpers=helpers,
        max_head=CONFIG.max_head,
        max_target=CONFIG.max_target,
        max_fields=CONFIG.max_fields,
    )


# ------------------------------------------------------------------ properties


def check_stuck(hot: list[bytes], cold: int, helpers: int, schedule: int) -> None:
    """With all helpers of a real pool hung, hot requests take no time, and others get a 503."""
    wire = b"".join(map(_get, hot))
    with _files() as root:
        for way in WAYS:
            machine = Machine(root, way, _config(root, helpers), (_HANGS,), wire)
            run(_stuck, machine, cold, schedule=schedule)


async def _stuck(machine: Machine, cold: int) -> None:
    wires = [_get(b"/" + path) for path in _COLD_TOO[:cold]]
    wires.append(wires[0])  # who asks for the same needs no helper
    async with machine.serving() as (host, stats), trio.open_nursery() as nursery:
        waiting = [Client(host.connect(), Script(((0.0, wire),))) for wire in wires]
        for client in waiting:
            nursery.start_soon(client.run)
        await trio.sleep(1)
        assert stats.helpers_busy == min(cold, machine.config.max_helpers)
        received = await host.ask(machine.wire)
        assert trio.current_time() == 1
        check_answers(received, _expected(machine.wire))
    for client, wire in zip(waiting, wires, strict=True):
        (answer,) = read(bytes(client.received), _expected(wire))
        assert answer.status == 503
        assert 1 < client.ended_at <= machine.config.disk_timeout


def check_machine(
    asked: list[tuple[bytes, bytes]], seconds: tuple[float, ...], helpers: int, schedule: int
) -> None:
    """Cancelled at any point, also within a miss, it leaves no mapping, descriptor, file or job."""
    wire = b"".join(_get(path, fields) for path, fields in asked)
    with _files() as root:
        for way in WAYS:
            machine = Machine(root, way, _config(root, helpers), seconds, wire)
            _check_all_points(machine, schedule)


def _check_all_points(machine: Machine, schedule: int) -> None:
    counting = Points()
    whole = run(_cancelled, machine, counting, schedule=schedule, instruments=[counting])
    check_answers(whole, _expected(machine.wire))
    for number in some_of(counting.count, schedule):
        points = Points(number)
        received = run(_cancelled, machine, points, schedule=schedule, instruments=[points])
        note("cancellation point")
        assert whole.startswith(received), f"cancelled at point {number}"


async def _cancelled(machine: Machine, points: Points) -> bytes:
    async with machine.serving() as (host, _):
        own = trio.CancelScope()
        points.begin(host, host.scope if machine.way == "lane" else own)
        client = Client(host.connect("socket", own), Script(((0.0, machine.wire),)))
        await client.run()
        points.end()
    return bytes(client.received)


_HOT: Final = st.sampled_from([b"/a.txt", b"/", b"/hot.bin", b"/nope", b"/%zz"])
_FIELDS: Final = st.sampled_from([b"", b"", b"Range: bytes=100-\r\n", b"Range: bytes=0-0\r\n"])

TARGETS: Final = (
    Target(
        "stuck",
        check_stuck,
        {
            "hot": st.lists(_HOT, min_size=1, max_size=4),
            "cold": st.integers(1, 6),
            "helpers": st.integers(1, 4),
            "schedule": SCHEDULES,
        },
    ),
    Target(
        "machine",
        check_machine,
        {
            "asked": st.lists(
                st.tuples(st.just(b"/" + _COLD) | _HOT, _FIELDS), min_size=1, max_size=3
            ),
            "seconds": st.lists(st.sampled_from([0.0, 0.01, 1.0]), min_size=1, max_size=3).map(
                tuple
            ),
            "helpers": st.integers(1, 3),
            "schedule": SCHEDULES,
        },
    ),
)
