"""The command line of a soak, and its course from the files to the table."""

import argparse
import contextlib
import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import trio

from bench.soak import clients, faults, processes
from bench.soak.clients import Load
from bench.soak.faults import World
from bench.soak.judge import Judge, bad_lines
from bench.soak.processes import Process
from bench.soak.site import Site
from bench.soak.tls import Certificate
from tests.rig import (
    REPOSITORY,
    FuseDisk,
    fuse_disk,
    limited_cache,
    loop_ext4,
    missing,
    public_directory,
    running_server,
)
from tests.rig.cgroups import cgroup, inside
from tests.rig.mount_points import unmount
from tests.rig.tools import run_tool

MIB = 1 << 20
AFTERWARDS = 30.0  # seconds until everything is given back
MORE_TASKS = 2 * processes.MOST  # those that look after a helper
LOGS = REPOSITORY / "build"
OPTIONS: tuple[str, ...] = ("--listing", "--disk-timeout", "5", "--head-timeout", "3")
OPTIONS += ("--keep-alive-timeout", "5", "--send-timeout", "5", "--open-file-timeout", "2")
OPTIONS += ("--max-helpers", str(processes.HELPERS), "--max-connections", str(faults.CONNECTIONS))
SERVERS: dict[str, tuple[str, ...]] = {
    "threads": ("--helpers", "thread"),
    "processes": ("--helpers", "process"),
    "workers": ("--workers", "2"),
    "tls": ("--workers", "2"),  # and all clients have TLS
}
NEEDS = ("root", "fuse", "loop", "memory", "pids")


@contextlib.contextmanager
def bound(folder: Path, place: Path) -> Iterator[None]:
    """A folder is at another place as well."""
    place.mkdir()
    run_tool("mount", "--bind", folder, place)
    try:
        yield
    finally:
        unmount(place)


@contextlib.contextmanager
def disks(site: Site, rng: random.Random) -> Iterator[tuple[FuseDisk, tuple[str, ...]]]:
    """A FUSE disk that can be told to hang, and an ext4 in a file of it, in both releases."""
    first, second = site.releases
    with contextlib.ExitStack() as stack:
        (backing := site.base / "backing").mkdir()
        disk = stack.enter_context(fuse_disk(first, backing))
        loop = stack.enter_context(
            loop_ext4(first, 48 * MIB, image=disk.path / "image", options="noatime")
        )
        prefixes = f"{disk.path.name}/", f"{loop.name}/"
        for folder, prefix in zip((backing, loop), prefixes, strict=True):
            site.fill([folder], prefix, rng, files=20)
        os.sync()
        for folder in (disk.path, loop):
            stack.enter_context(bound(folder, second / folder.name))
        yield disk, prefixes


class Look(NamedTuple):
    """What all processes of the server hold that serve: those of a supervisor, and itself."""

    main: Process
    workers: list[Process]

    @classmethod
    def at(cls, world: World) -> "Look":
        """Raises OSError if the server is gone."""
        main, base = world.server.pid, world.load.site.base
        found = []
        for pid in processes.workers(world.server):
            with contextlib.suppress(OSError):  # it has just ended
                found += [Process.of(pid, base)] if pid != main else []
        return cls(Process.of(main, base), found)

    def excess(self, start: "Look", warm: "Look", looks: int) -> list[str]:
        """Return what there is more of than may remain."""
        found = self.main.excess(
            start.main, warm.main, 0 if start.workers else processes.MOST, looks
        )
        if len(self.workers) != len(start.workers):
            found.append(f"workers: {len(self.workers)}")
        largest = max(warm.workers + start.workers, key=lambda each: each.rss, default=start.main)
        for worker in self.workers:
            found += worker.excess(start.workers[0], largest, processes.MOST)
        return found

    def __str__(self) -> str:
        return "; worker: ".join(map(str, [self.main, *self.workers]))


async def run(world: World, seconds: float, seed: int, kinds: list[str]) -> Look:
    """Have all clients and faults, for so long; the server when it was warm."""
    load, warm, begun = world.load, Look.at(world), trio.current_time()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            of_all = clients.KINDS + clients.on_disks(world.prefixes)
            of_all += clients.BY_TLS if load.certificate else []
            for number, kind in enumerate(of_all):
                for each in range(kind.number):
                    rng = random.Random(f"{seed} {number} {each}")
                    nursery.start_soon(clients.repeat, kind, load, rng)
            nursery.start_soon(faults.run, world, faults.draw(seed, seconds, kinds))
            while len(load.judge.problems) < 20 and world.server.process.poll() is None:
                await trio.sleep(min(seconds / 4, 10))
                try:
                    now, passed = Look.at(world), trio.current_time() - begun
                except OSError:  # the server is gone, which is told later
                    break
                print(f"{passed:.0f} s: {load.requests} requests, {now}", flush=True)
                if passed < 60:
                    warm = now
            nursery.cancel_scope.cancel()
    return warm


def tasks(world: World) -> list[int]:
    """Return the numbers of trio tasks of all who have some."""
    pids = {world.server.pid: None} | dict.fromkeys(processes.workers(world.server))
    return [processes.tasks(world.server, pid) for pid in pids]


def start(world: World) -> Look:
    """Return what the server holds before it has a client; while it starts helpers it has more."""
    with socket.create_connection(("127.0.0.1", world.server.port)) as nobody:
        nobody.shutdown(socket.SHUT_WR)
        nobody.recv(1)  # who has seen its end has all that it needs to serve
    looks = []
    for _ in range(10):
        looks.append(Look.at(world))
        time.sleep(0.05)
    return min(looks, key=lambda look: len(look.main.links))


def remains(world: World, first: Look, warm: Look, tasks_of_first: list[int]) -> Look:
    """Wait until nothing is left of the clients and the faults; a problem if something stays."""
    deadline = time.monotonic() + AFTERWARDS
    while True:
        end = Look.at(world)
        left = end.excess(first, warm, looks=world.load.certificate is not None)
        if not left and (now := tasks(world)) and max(now) > max(tasks_of_first) + MORE_TASKS:
            left = [f"tasks: {now}, and {tasks_of_first} at the start"]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if left:
        world.load.judge.wrong(f"without clients there are still {'; '.join(left)}")
    return end


def soak_server(name: str, seconds: float, seed: int) -> bool:
    """One soak, from the files to the table; whether all was well."""
    rng, is_able = random.Random(seed), not any(map(missing, NEEDS))
    has = {"", "root" if is_able else "", "workers" if "--workers" in SERVERS[name] else ""}
    has |= {"tls"} if name == "tls" else set()
    kinds = [each for each, kind in faults.KINDS.items() if kind.needs in has]
    with contextlib.ExitStack() as stack:
        site = Site(stack.enter_context(public_directory()), rng)
        certificate = Certificate(site.base / "pair") if name == "tls" else None
        load = Load(site, judge := Judge(), certificate)
        disk, cache, pids = None, None, None
        prefixes: tuple[str, ...] = ()
        groups: set[Path] = set()
        if is_able:
            disk, prefixes = stack.enter_context(disks(site, rng))
            pids = stack.enter_context(cgroup("pids"))
            cache = stack.enter_context(limited_cache(faults.ROOM, beside=pids))
            groups = {pids, cache.directory}

        def wrap(argv: list[str]) -> list[str]:
            for group in groups:
                argv = inside(group, argv)
            return argv

        options = (*SERVERS[name], *OPTIONS, *(certificate.options if certificate else ()))
        server = stack.enter_context(running_server(*options, root=site.root, wrap=wrap))
        world = World(load, server, rng, disk, prefixes, cache, pids)
        load.port = server.port
        if "workers" in has:
            server.wait_for_log("2 workers serve")
        first, before = start(world), tasks(world)
        warm = trio.run(run, world, seconds, seed, kinds)
        end = remains(world, first, warm, before) if server.process.poll() is None else warm
        has_ended = server.process.poll() is not None
        if (status := server.stop()) or has_ended:
            judge.wrong(f"exit status {status}, {'before' if has_ended else 'after'} SIGTERM")
        LOGS.mkdir(exist_ok=True)
        (LOGS / f"soak-{name}.log").write_text("\n".join(server.log) + "\n")
        (LOGS / f"soak-{name}.faults").write_text("\n".join(judge.story) + "\n")
        for line in bad_lines(server.log, [faults.KINDS[each].says for each in judge.met]):
            judge.wrong(f"the server said: {line}")
    print(f"\n{name}, {seconds:g} s, seed {seed}: {len(judge.problems)} violations")
    print(f"  {'requests':9} {load.requests}, {load.bytes // MIB} MiB, all of them checked")
    print(
        f"  {'clients':9} {load.resets} resets, {load.again} new connections as they were told, ",
        end="",
    )
    print(f"{site.replaced} files replaced")
    for each, count in sorted(judge.met.items()):
        print(f"  {'fault':9} {each}: {count}, with {judge.excused[each]} failures")
    for when, look in (("start", first), ("warm", warm), ("end", end)):
        print(f"  {when:9} {look}")
    print(f"  {'server':9} {server.log[-1].partition('stopped; ')[2]}\n", flush=True)
    return not judge.problems


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="for each server")
    parser.add_argument("--only", choices=SERVERS, help="one of the servers")
    parser.add_argument("--seed", type=int, metavar="N", help="of clients and faults")
    options = parser.parse_args(arguments)
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    if reasons := list(filter(None, map(missing, NEEDS))):
        print(f"without faults of disks, memory and processes: {'; '.join(reasons)}")
    inside = str(Path(__file__).with_name("inside"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [inside, os.environ.get("PYTHONPATH")]))
    names = [options.only] if options.only else list(SERVERS)
    failed = [each for each in names if not soak_server(each, options.minutes * 60, seed)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
