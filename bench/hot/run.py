"""A run: its rounds, and in each round its cells. Blocks."""

import argparse
import contextlib
import os
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.hot import herd, idle, measure, paper
from bench.hot.answers import Head, Wrong, verify
from bench.hot.files import SIZES, touch_sizes, zipf_sizes
from bench.hot.folder import prepare, recall
from bench.hot.measure import Sample
from bench.hot.peers import Peer, Running, running
from bench.hot.results import Results
from bench.hot.rows import FRESH, HERD, IDLE, NEEDS, PAPER, TLS_IDLE, WORKERS, WORKLOADS
from bench.hot.workloads import Workload
from bench.machine import cores
from bench.servers import KEYS, Pair
from tests import rig

FIRST_SECOND = 1
PAPER_ROUNDS = 3  # at most: each takes half a minute for each server and data set
SOME = 50  # of the files of a row that asks for each once: those whose content is compared


class Run:
    """What is measured, on which CPUs, and what it has found so far."""

    def __init__(
        self, options: argparse.Namespace, peers: Iterable[Peer], root: Path, scratch: Path
    ) -> None:
        self.rounds, self.seconds, self.is_short = options.rounds, options.seconds, options.short
        self.root, self.scratch = root, scratch
        self.cpus = sorted(os.sched_getaffinity(0))
        load, server = cores()
        self.load_cpus, self.server_cpus = [load], [server]
        self.results = Results()
        self.rows = list(self._possible(options.only))
        self.files: dict[str, bytes] = {}
        self.pairs = {key: Pair.write(scratch, key) for key in KEYS}
        self.peers: list[Peer] = []
        for peer in peers:
            if reason := peer.missing():
                self.results.notes.append(f"{peer.name} was skipped: {reason}")
            else:
                self.peers.append(peer)

    def _possible(self, rows: Iterable[str]) -> Iterator[str]:
        for row in rows:
            reasons = filter(None, map(rig.missing, NEEDS.get(row, ())))
            if reason := next(reasons, None):
                self.results.notes.append(f"{row} was skipped: {reason}")
            else:
                yield row

    def run(self) -> None:
        self.files = prepare(self.root, self._sizes())
        places = self.load_cpus, self.server_cpus
        lengths = paper.SHORT if self.is_short else paper.LONG
        data = {row: paper.DataSet.write(self.scratch, PAPER[row]) for row in self._chosen(PAPER)}
        image = herd.image(self.scratch) if self._chosen(HERD) else Path()
        for number in range(self.rounds):
            self._steady(number)
            for row in self._chosen(FRESH):
                self._each(row, number, partial(self._fresh, WORKLOADS[row]))
            for row in self._chosen([WORKERS]):
                self._each(row, number, self._workers)
            for row in self._chosen(HERD):
                self._each(row, number, partial(herd.measure, image, row, *places))
            for row in self._chosen(PAPER if number < PAPER_ROUNDS else ()):

                def sample(peer: Peer, data: paper.DataSet = data[row]) -> Sample:
                    return paper.measure(data, paper.BY_BYTES, lengths, *places, peer).sample

                self._each(row, number, sample)
            self._say(f"round {number + 1} of {self.rounds} is done")
        self._idle(IDLE, self.results.idle, None)
        self._idle(TLS_IDLE, self.results.tls_idle, self.pairs["ecdsa"])

    def _sizes(self) -> dict[str, int]:
        touch = any(WORKLOADS[row].once for row in self._chosen(FRESH))
        return SIZES | zipf_sizes() | (touch_sizes() if touch else {})

    def _chosen(self, rows: Iterable[str]) -> list[str]:
        return [row for row in rows if row in self.rows]

    def _steady(self, number: int) -> None:
        """The rows for which the servers of the round run all the time."""
        rows = self._chosen(row for row in WORKLOADS if row not in FRESH)
        plain = [row for row in rows if not WORKLOADS[row].tls]
        self._beside_each_other(number, plain, None)
        for key, pair in self.pairs.items():
            by_tls = [row for row in rows if WORKLOADS[row].tls and WORKLOADS[row].key == key]
            self._beside_each_other(number, by_tls, pair)

    def _beside_each_other(self, number: int, rows: list[str], tls: Pair | None) -> None:
        with contextlib.ExitStack() as stack:
            servers: dict[str, Running] = {}
            for peer in self.peers:
                if mine := [row for row in rows if peer.takes_part(row)]:
                    try:
                        server = running(peer, self.root, self.server_cpus, tls=tls)
                        servers[peer.name] = stack.enter_context(server)
                    except RuntimeError as error:
                        for row in mine:
                            self.results.fail(row, peer.name, number, error)
            for row in rows:

                def cell(peer: Peer, workload: Workload = WORKLOADS[row]) -> Sample:
                    return self._loaded(servers[peer.name], workload, self.load_cpus)

                self._each(row, number, cell, servers)

    def _each(
        self,
        row: str,
        number: int,
        measure: Callable[[Peer], Sample],
        names: Container[str] | None = None,
    ) -> None:
        """One server after the other; what goes wrong with one is noted."""
        peers = [each for each in self.peers if each.takes_part(row)]
        # Every other round goes backwards, so that a drift of the machine cancels out.
        for peer in reversed(peers) if number % 2 else peers:
            if names is not None and peer.name not in names:
                continue
            try:
                sample = measure(peer)
            except (Wrong, OSError, RuntimeError, AssertionError) as error:
                self.results.fail(row, peer.name, number, error)
                self._say(f"FAILED {self.results.failures[-1]}")
            else:
                self.results.add(row, peer.name, number, sample)
                self._say(described(row, peer.name, sample))

    def _loaded(self, server: Running, workload: Workload, cpus: list[int]) -> Sample:
        """One load on a server that runs. Raises Wrong."""
        return measure.checked(server, workload, self.files, self.seconds, cpus)

    def _workers(self, peer: Peer) -> Sample:
        """Two processes that serve, and the load on the same cores."""
        workload = replace(WORKLOADS["plain"], warms_up=True)  # of the two one has answered so far
        with running(peer, self.root, self.cpus, workers=2) as server:
            return self._loaded(server, workload, self.cpus)

    def _fresh(self, workload: Workload, peer: Peer) -> Sample:
        """A load on a server that has just started. Raises Wrong."""
        if workload.once and self.is_short:
            workload = replace(workload, paths=workload.paths[::10])
        with self._place(workload) as root:
            if workload.overlay and peer.kind == "ours":
                peer = replace(peer, nobody=True)
            heads = self._heads(workload, peer, root)
            if workload.status == 200:
                recall(root, workload.paths)
            with running(peer, root, self.server_cpus, logs=workload.logs) as server:
                seconds = self.seconds if workload.warms_up else FIRST_SECOND
                if workload.warms_up:
                    measure.run(server, workload, heads, seconds, self.load_cpus)
                sample = measure.run(server, workload, heads, seconds, self.load_cpus)
                verify(server.port, workload, self.files, workload.paths[:SOME])
        return sample

    def _heads(self, workload: Workload, peer: Peer, root: Path) -> dict[str, Head]:
        """Of another process, since the one that is measured must not have been asked before."""
        if workload.load == "exact":  # it reads the heads itself
            return {path: Head(0, len(self.files[path]), False) for path in workload.paths}
        with running(peer, root, self.server_cpus) as server:
            return verify(server.port, workload, self.files)

    @contextlib.contextmanager
    def _place(self, workload: Workload) -> Iterator[Path]:
        if workload.overlay:
            with rig.overlayfs(self.scratch, self.root) as root:
                yield root
        else:
            yield self.root

    def _idle(self, row: str, found_by: dict[str, idle.Memory], tls: Pair | None) -> None:
        for peer in self.peers if row in self.rows else ():
            if not peer.takes_part(row):
                continue
            try:
                with running(peer, self.root, self.server_cpus, tls=tls) as server:
                    found = idle.measure(server, self.files["/1k"])
            except (Wrong, OSError) as error:
                self.results.notes.append(f"{peer.name} does not hold idle connections: {error}")
            else:
                found_by[peer.name] = found
                self._say(f"{row:13} {peer.name:18} {found.pss:10.0f} bytes each (PSS)")

    def _say(self, line: str) -> None:
        print(line, flush=True)


def described(row: str, server: str, sample: Sample) -> str:
    hot = f"; hot p99 {sample.hot.p99:.1f} ms" if sample.hot else ""
    return (
        f"{row:13} {server:18} {sample.rate:10.1f} requests/s {sample.cpu:10.1f} us each; "
        f"the core: idle {sample.idle:4.0%}, others {sample.others:4.0%}{hot}"
    )
