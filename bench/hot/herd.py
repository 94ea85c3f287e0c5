"""The rows of the herd: a fresh mount, a hot client, and then thousands at once. Blocks."""

import contextlib
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.hot.answers import Wrong
from bench.hot.files import KIB, MIB, content
from bench.hot.herd_clients import PATIENCE, Report
from bench.hot.measure import Sample, sample
from bench.hot.peers import Peer, Running, running
from bench.hot.probe import FILE, SIZE, probing
from bench.hot.processes import cpu_seconds, idle_seconds
from bench.hot.rows import CLIENTS, HERD
from bench.rig import started
from tests import rig

WINDOW = 1.0  # seconds from its beginning in which the hot client is looked at, at least
BODY = content("herd", 4 * KIB)


def image(scratch: Path) -> Path:
    """A file system with a cold file and a hot one."""
    made = scratch / "herd.img"
    with _mounted(made) as root:
        (root / "herd").mkdir(mode=0o755)
        (root / FILE).write_bytes(bytes(SIZE))
        (root / "herd" / "cold").write_bytes(BODY)
    return made


def _mounted(image: Path) -> contextlib.AbstractContextManager[Path]:
    return rig.loop_ext4(image.parent, 64 * MIB, image=image)


def measure(image: Path, row: str, load_cpus: list[int], cpus: list[int], peer: Peer) -> Sample:
    """The rate is that of the whole herd. Raises Wrong, also when a client got a 503."""
    with (
        _mounted(image) as root,
        rig.held_in_memory(root / FILE),
        running(peer, root, cpus) as server,
    ):
        with probing(server.port, load_cpus) as waits, _connected(server, row, load_cpus) as herd:
            with _new_file(root) if HERD[row] else contextlib.nullcontext():
                used, idle = cpu_seconds(server.session), idle_seconds(cpus)
                report = _ask(herd)
                used = cpu_seconds(server.session) - used
                idle = idle_seconds(cpus) - idle
            until = max(report.ended, report.begun + WINDOW)
            time.sleep(max(0.0, until - time.monotonic()))
        hot, seconds = waits.between(report.begun, until), report.ended - report.begun
    if report.wrong:
        raise Wrong(f"{report.wrong} of {CLIENTS}, {seconds:.2f} s, hot p99 {hot.p99:.0f} ms")
    return replace(sample(server, CLIENTS, seconds, used, idle), hot=hot)


@contextlib.contextmanager
def _new_file(root: Path) -> Iterator[None]:
    path = root / "herd" / "new"
    path.write_bytes(BODY)
    try:
        yield
    finally:
        path.unlink()


@contextlib.contextmanager
def _connected(server: Running, row: str, cpus: Sequence[int]) -> Iterator[subprocess.Popen[str]]:
    """The clients, who wait for a word."""
    name = "new" if HERD[row] else "cold"
    command = ["taskset", "--cpu-list", ",".join(map(str, cpus)), sys.executable]
    command += ["-m", "bench.hot.herd_clients", str(server.port), f"/herd/{name}"]
    command += [str(len(BODY)), str(zlib.crc32(BODY)), str(CLIENTS)]
    with started(command) as herd:
        assert herd.stdout is not None
        if herd.stdout.readline() != "ready\n":
            raise Wrong("the herd could not connect, see above")
        yield herd


def _ask(herd: subprocess.Popen[str]) -> Report:
    try:
        said, _ = herd.communicate("now\n", 2 * PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise Wrong("the herd did not end") from error
    if herd.returncode:
        raise Wrong("the herd failed, see above")
    return Report(**json.loads(said))
