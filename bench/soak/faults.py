"""The faults of a soak, and their draw by a seed. Awaits; the draw is pure."""

import contextlib
import os
import random
import resource
import signal
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from errno import EIO
from pathlib import Path
from typing import NamedTuple

import trio

from bench.soak import processes
from bench.soak.clients import PATIENCE, Load, Socket
from bench.soak.judge import Reach, Wrong
from bench.soak.site import HOT, NAMES, REWRITTEN
from tests.rig import FuseDisk, LimitedCache, Operation, ServerProcess

CONNECTIONS = 128  # --max-connections
CROWD, STUBBORN = 200, 30  # clients that say nothing, and those that do not read
ROOM, LITTLE = 512 << 20, 24 << 20  # bytes of page cache
EVERYBODY = Reach(("",))
NOT_HOT = Reach(("",), spares=(HOT,))


@dataclass
class World:
    """What faults act on; `prefixes`: of the names that are served from `disk`."""

    load: Load
    server: ServerProcess
    rng: random.Random
    disk: FuseDisk | None = None
    prefixes: tuple[str, ...] = ()
    cache: LimitedCache | None = None
    pids: Path | None = None  # a cgroup

    def socket(self) -> Socket:
        return self.load.socket(self.rng)

    def worker(self) -> int | None:
        """Return one of the processes that serve, if there is any at the moment."""
        serving = processes.workers(self.server)
        return self.rng.choice(serving) if serving else None

    def helpers(self) -> list[int]:
        serving = processes.workers(self.server)
        return [pid for each in serving for pid in processes.children(each)]

    @property
    def on_disk(self) -> Reach:
        return Reach(self.prefixes)


@contextlib.contextmanager
def _hanging(disk: FuseDisk | None, *operations: Operation) -> Iterator[None]:
    assert disk is not None
    disk.hang(*operations)
    try:
        yield
    finally:
        disk.release(*operations)


@contextlib.contextmanager
def _failing(disk: FuseDisk | None) -> Iterator[None]:
    assert disk is not None
    disk.fail("read", EIO)
    try:
        yield
    finally:
        disk.fail("read", 0)


async def hanging_reads(world: World, seconds: float) -> None:
    """A disk from which no byte comes."""
    with world.load.judge.fault("hanging reads", world.on_disk), _hanging(world.disk, "read"):
        await trio.sleep(seconds)


async def hanging_names(world: World, seconds: float) -> None:
    """A disk that opens nothing."""
    hanging = _hanging(world.disk, "getattr", "open")
    with world.load.judge.fault("hanging names", world.on_disk), hanging:
        await trio.sleep(seconds)


async def hanging_listings(world: World, seconds: float) -> None:
    """A disk whose folders cannot be read."""
    reach = Reach(tuple(prefix + NAMES for prefix in world.prefixes))
    with world.load.judge.fault("hanging listings", reach), _hanging(world.disk, "readdir"):
        await trio.sleep(seconds)


async def failing_reads(world: World, seconds: float) -> None:
    """A disk with bad sectors."""
    with world.load.judge.fault("failing reads", world.on_disk), _failing(world.disk):
        await trio.sleep(seconds)


async def slow_reads(world: World, seconds: float) -> None:
    """A disk that is slow, and hurts nobody."""
    assert world.disk is not None
    with world.load.judge.fault("slow reads", Reach()):
        world.disk.delay("read", world.rng.uniform(0.01, 0.1))
        try:
            await trio.sleep(seconds)
        finally:
            world.disk.delay("read", 0)


async def little_memory(world: World, seconds: float) -> None:
    """Pages vanish as soon as they have been read."""
    assert world.cache is not None
    with world.load.judge.fault("little memory", Reach()):
        world.cache.size = LITTLE
        try:
            await trio.sleep(seconds)
        finally:
            world.cache.size = ROOM


async def no_new_tasks(world: World, seconds: float) -> None:
    """No thread and no process can be started."""
    assert world.pids is not None
    with world.load.judge.fault("no new tasks", NOT_HOT):
        (world.pids / "pids.max").write_text((world.pids / "pids.current").read_text())
        try:
            await trio.sleep(seconds)
        finally:
            (world.pids / "pids.max").write_text("max")


async def few_descriptors(world: World, seconds: float) -> None:
    """A worker may open nothing more."""
    if (pid := world.worker()) is None:
        return
    with world.load.judge.fault("few descriptors", EVERYBODY):
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        least = max(16, len(processes.links_of(pid)) - world.rng.randrange(10))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (least, limits[1]))
        try:
            await trio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


async def idle_crowd(world: World, seconds: float) -> None:
    """Clients that take all room and ask for nothing, or not for all of it, or just once.

    Connections that are kept give way, also a moment before their clients ask again; and for a
    while to those of the crowd that wait to be accepted, and are gone.
    """
    begins = [b"", b"GET /hot-0 HTTP/1.1\r\nHo", b"GET /hot-0 HTTP/1.1\r\nHost: soak\r\n\r\n"]

    async def stay(said: bytes, has_tls: bool) -> None:
        while True:
            client = world.socket() if has_tls else trio.socket.socket()
            with contextlib.suppress(OSError), contextlib.closing(client):
                await client.connect(("127.0.0.1", world.load.port))
                await client.send(said)
                while await client.recv(4096):
                    pass
            await trio.sleep(0.5)

    reach = Reach(kept=True, margin=4)
    with world.load.judge.fault("idle crowd", reach), trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(CROWD):
                # Of those that begin by TLS, some begin with the half of a handshake.
                has_tls = world.load.certificate is not None and number % 4 > 0
                nursery.start_soon(stay, begins[number % len(begins)], has_tls)


async def clients_that_do_not_read(world: World, seconds: float) -> None:
    """Clients that ask for a large file, and take nothing of it."""

    async def stay() -> None:
        with contextlib.suppress(OSError), contextlib.closing(world.socket()) as client:
            client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await client.connect(("127.0.0.1", world.load.port))
            await client.send(b"GET /file-002 HTTP/1.1\r\nHost: soak\r\n\r\n")
            await trio.sleep_forever()

    with world.load.judge.fault("clients that do not read", Reach()), trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(STUBBORN):
                nursery.start_soon(stay)


async def killed_helper(world: World, seconds: float) -> None:
    """A helper process is killed; its job is done by another one."""
    with world.load.judge.fault("killed helper", Reach()):
        if helpers := world.helpers():
            _signal(world.rng.choice(helpers), signal.SIGKILL)
        await trio.sleep(seconds)


async def killed_worker(world: World, seconds: float) -> None:
    """A worker is killed, and its connections with it; those that wait are its successor's."""
    if (pid := world.worker()) is None:
        return
    processes.stop(pid)  # it accepts no more from here on
    ports = processes.ports_of_clients(pid, world.load.port)
    with world.load.judge.fault("killed worker", Reach(ports=ports)):
        _signal(pid, signal.SIGKILL)
        await trio.sleep(seconds)


async def restart(world: World, seconds: float) -> None:
    """New workers take the place of the old ones, and nobody is hurt."""
    with world.load.judge.fault("restart", Reach()):
        world.server.process.send_signal(signal.SIGHUP)
        await trio.sleep(seconds)


async def pause(world: World, seconds: float) -> None:
    """A process that serves, or the supervisor, stands still; all are late, and nobody is hurt."""
    await _stopped(
        world, "pause", Reach(), [*processes.workers(world.server), world.server.pid], seconds
    )


async def paused_helper(world: World, seconds: float) -> None:
    """A helper process stands still, as if the disk hung."""
    await _stopped(world, "paused helper", NOT_HOT, world.helpers(), seconds)


async def _stopped(
    world: World, name: str, reach: Reach, pids: Sequence[int], seconds: float
) -> None:
    with world.load.judge.fault(name, reach):
        if pids:
            _signal(pid := world.rng.choice(pids), signal.SIGSTOP)
            try:
                await trio.sleep(seconds)
            finally:
                _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended since
        os.kill(pid, number)


async def unread_log(world: World, seconds: float) -> None:
    """Nobody reads what the server says, which is a lot: it says each read that fails."""
    failing = _failing(world.disk)
    with world.load.judge.fault("unread log", world.on_disk), failing, world.server.unread_log():
        await trio.sleep(seconds)


async def switched_root(world: World, seconds: float) -> None:
    """The root is another release now, which is served soon."""
    site, found = world.load.site, ""
    with world.load.judge.fault("switched root", Reach()):
        site.switch()
        with trio.move_on_after(PATIENCE):  # another fault may be in the way for a while
            while found != site.release:
                await trio.sleep(0.2)
                found = await _get(world, "release")
            return
    raise Wrong(f"the root leads to release {site.release}, and {found!r} is served")


async def _get(world: World, name: str) -> str:
    """Return the body of an answer, whatever it is, or nothing."""
    answer = b""
    head = f"GET /{name} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n"
    client = world.socket()
    with contextlib.suppress(OSError), contextlib.closing(client), trio.move_on_after(PATIENCE):
        await client.connect(("127.0.0.1", world.load.port))
        await client.send(head.encode())
        while data := await client.recv(4096):
            answer += data
    return answer.partition(b"\r\n\r\n")[2].decode()


async def renewed_certificate(world: World, seconds: float) -> None:
    """A new certificate and, after a while in which it has the key of another one, its key."""
    certificate = world.load.certificate
    assert certificate is not None
    with world.load.judge.fault("renewed certificate", Reach()):
        contents = certificate.issue()
        certificate.put(contents[0])
        await trio.sleep(seconds)
        certificate.put(*contents)


async def rewritten_files(world: World, seconds: float) -> None:
    """Files are cut off and written anew while they are served: their content may be mixed."""
    site, until = world.load.site, trio.current_time() + seconds
    reach = Reach((REWRITTEN,), spoils=True, margin=2)  # --revalidate, and the usual one
    with world.load.judge.fault("rewritten files", reach):
        while trio.current_time() < until:
            name = world.rng.choice(site.names(REWRITTEN))
            await trio.to_thread.run_sync(site.rewrite, name, world.rng)
            await trio.sleep(world.rng.uniform(0, 0.05))


class Kind(NamedTuple):
    """A kind of fault: how long one is there, what it needs, and what the server may say then."""

    run: Callable[[World, float], Awaitable[None]]
    seconds: tuple[float, float] = (0.3, 4.0)
    needs: str = ""  # "root": disks and cgroups; "workers"; "tls"
    says: str = r"(?!)"  # a regular expression


_DISK = r"(500|503) for |reading failed while it was sent|a disk helper has not started"
_TASKS = (
    r"(cannot|can't) start|a disk helper ended|cannot be started|closed later|(500|503) for |"
    r"is not renewed"
)
_SCARCE = rf"{_TASKS}|accepting a connection failed|cannot be watched|cannot watch|Too many open"

_PAIR = r"the certificate stays what it was|is not that of the certificate|is not renewed"

KINDS = {
    kind.run.__name__.replace("_", " "): kind
    for kind in (
        Kind(hanging_reads, (0.3, 7), "root", says=_DISK),
        Kind(hanging_names, (0.3, 7), "root", says=_DISK),
        Kind(hanging_listings, (0.3, 7), "root", says=_DISK),
        Kind(failing_reads, needs="root", says=_DISK),
        Kind(slow_reads, needs="root", says=_DISK),
        Kind(little_memory, needs="root"),
        Kind(no_new_tasks, (0.3, 1.5), "root", _TASKS),
        Kind(few_descriptors, (0.3, 1.5), says=_SCARCE),
        Kind(idle_crowd),
        Kind(clients_that_do_not_read),
        Kind(killed_helper, says="a disk helper ended"),
        Kind(killed_worker, needs="workers", says=r"worker \d: .*(9|KILL|killed)"),
        Kind(restart, needs="workers", says="more than 4 generations retire"),
        Kind(pause, (0.3, 8.0)),  # beyond all deadlines of the server, and within PATIENCE
        Kind(paused_helper, (0.3, 1.5), says=_DISK),
        Kind(unread_log, needs="root", says=rf"{_DISK}|lines of this log were lost"),
        Kind(switched_root, (0, 0)),
        Kind(renewed_certificate, needs="tls", says=_PAIR),
        Kind(rewritten_files, says="the file changed while it was sent"),
    )
}


class Planned(NamedTuple):
    """A fault that is to come: in seconds from the start, and for so many."""

    name: str
    at: float
    seconds: float


def draw(seed: int, seconds: float, names: Iterable[str]) -> list[Planned]:
    """Return the faults of a soak: in rounds, each with all kinds in an order of its own.

    One of a kind at a time, and all are over a second before the end.
    """
    rng, at, planned, over = (
        random.Random(f"{seed} faults"),
        0.5,
        list[Planned](),
        dict[str, float](),
    )
    kinds = list(names)
    while kinds:
        for name in rng.sample(kinds, len(kinds)):
            begin = max(at, over.get(name, 0) + 1)
            length = rng.uniform(*KINDS[name].seconds)
            if begin + length > seconds - 1:
                return planned
            planned.append(Planned(name, begin, length))
            over[name], at = begin + length, at + rng.uniform(0.2, 1.6)
    return planned


async def run(world: World, planned: Sequence[Planned]) -> None:
    """Have all these faults at their times."""
    begun = trio.current_time()

    async def one(each: Planned) -> None:
        await trio.sleep_until(begun + each.at)
        try:
            # A process that was chosen may have ended since.
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                await KINDS[each.name].run(world, each.seconds)
        except (Wrong, OSError) as error:
            world.load.judge.wrong(f"{each.name}: {error!r}")

    async with trio.open_nursery() as nursery:
        for each in planned:
            nursery.start_soon(one, each)
