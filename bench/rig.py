"""One row of the rig: start a server on a slow disk, load it, measure it, judge it. Blocks."""

import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import servers
from bench.disks import HOT, HOT_SIZE, ColdFile, Disk
from bench.load import ProbeReport, StreamReport
from tests import rig

LIMIT = 20_000_000
CLIENTS = 8
RATE = 400
WARM_UP = 1.0
MAX_P99, MAX_STALL, MIN_SHARE, BITE = 5.0, 50.0, 0.95, 1000.0


@dataclass(frozen=True)
class Row:
    """One server to be measured, and what is asked of it: "amped", "bites" or nothing."""

    name: str
    options: tuple[str, ...] = ()
    nginx: bool = False
    nobody: bool = False
    overlay: bool = False
    bounds: str = ""


@dataclass
class Result:
    """What was measured for a row; times in milliseconds, rates in bytes a second."""

    disk: str
    row: str
    requests: int = 0
    p50: float = math.nan
    p99: float = math.nan
    max: float = math.nan
    cold: float = math.nan
    errors: list[str] = field(default_factory=list)
    probe_lag: float = math.nan
    failed: list[str] = field(default_factory=list)

    def note(self, probe: ProbeReport, stream: StreamReport) -> None:
        """What the load has found."""
        self.errors += probe.errors + stream.errors
        self.cold = stream.bytes / (stream.ended - stream.started)
        self.probe_lag = probe.lag * 1000
        during = [wait for due, wait in probe.samples if stream.started <= due <= stream.ended]
        ordered = sorted(1000 * wait for wait in during)
        if ordered:
            self.requests, self.max = len(ordered), ordered[-1]
            self.p50 = ordered[math.ceil(0.50 * len(ordered)) - 1]
            self.p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]

    def judge(self, bounds: str) -> None:
        """Note every bound that does not hold (a time that is not a number holds none)."""
        if self.errors:
            self.failed.append(f"{len(self.errors)} errors, first: {self.errors[0]}")
        elif bounds == "bites" and not self.max > BITE:
            self.failed.append(f"max is not > {BITE:.0f} ms: the rig does not bite")
        elif bounds == "amped":
            if not self.p99 <= MAX_P99:
                self.failed.append(f"p99 is not <= {MAX_P99:g} ms")
            if not self.max <= MAX_STALL:
                self.failed.append(f"max is not <= {MAX_STALL:g} ms")
            if not self.cold >= MIN_SHARE * LIMIT:
                self.failed.append(f"cold is not >= {MIN_SHARE:.0%} of the limit")

    def plain(self) -> dict[str, object]:
        """For JSON, which has no word for what is not a number."""
        return {key: None if value != value else value for key, value in asdict(self).items()}

    def line(self, bounds: str) -> str:
        """The row of the table."""
        verdict = "FAIL" if self.failed else "pass" if bounds else "-"
        return (
            f"| {self.disk:7} | {self.row:14} | {self.p50:9.2f} | {self.p99:9.2f} "
            f"| {self.max:9.2f} | {self.cold / 1e6:9.2f} | {self.cold / LIMIT:8.1%} "
            f"| {len(self.errors):6} | {verdict:7} |"
        )


HEADER = """\
| disk    | row            |  p50 (ms) |  p99 (ms) |  max (ms) | cold MB/s | of limit | errors | verdict |
| ------- | -------------- | --------: | --------: | --------: | --------: | -------: | -----: | ------- |"""  # noqa: E501


def measure(disk: Disk, row: Row, scratch: Path) -> Result:
    """Run one row from eviction to verdict."""
    result = Result(disk.name, row.name)
    try:
        with contextlib.ExitStack() as stack:
            below = root = stack.enter_context(disk.fresh())
            if row.overlay:
                root = stack.enter_context(rig.overlayfs(scratch, below))
            slow = stack.enter_context(rig.slow_cgroup(below, LIMIT))
            rig.load(root / HOT)
            server = servers.nginx if row.nginx else servers.trio_amped
            user = rig.as_nobody if row.nobody else rig.identity
            port = stack.enter_context(
                server(root, row.options, lambda command: slow.command(user(command)))
            )
            probe, stream = put_load(port, disk)
            if not rig.resident_pages(below / HOT):
                result.errors.append("the hot file left memory")
    except (RuntimeError, AssertionError, OSError) as error:
        result.errors.append(str(error))
    else:
        result.note(probe, stream)
    result.judge(row.bounds)
    return result


def put_load(port: int, disk: Disk) -> tuple[ProbeReport, StreamReport]:
    """Stream the cold files of a disk while the probe runs. Raises RuntimeError."""
    probing = [sys.executable, "-m", "bench.load", "probe", servers.HOST, str(port)]
    probing += [f"/{HOT}", str(HOT_SIZE), str(RATE)]
    patience = 120 + 4 * sum(file.size for file in disk.files) / LIMIT
    with started(probing) as probe:
        time.sleep(WARM_UP)
        streamed = stream(port, disk.files, patience)
        return ProbeReport(**json.loads(answer(probe, "", patience))), streamed


def stream(
    port: int,
    files: Sequence[ColdFile],
    patience: float,
    clients: int = CLIENTS,
    prefix: Sequence[str] = (),
) -> StreamReport:
    """Fetch each of these files once, by so many clients. Raises RuntimeError.

    patience: seconds. prefix: a program and its arguments that starts the clients (taskset).
    """
    command = [*prefix, sys.executable, "-m", "bench.load", "stream"]
    command += [servers.HOST, str(port), str(clients)]
    known = json.dumps([(file.name, file.size, file.crc) for file in files])
    with started(command) as process:
        return StreamReport(**json.loads(answer(process, known, patience)))


def answer(process: subprocess.Popen[str], said: str, patience: float) -> str:
    """End the input of a load process with these words, and return its output.

    Raises RuntimeError when it fails, or does not end within so many seconds.
    """
    try:
        output, _ = process.communicate(said, patience)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the load did not end within {patience:.0f} s") from error
    if process.returncode:
        raise RuntimeError("the load failed, see above")
    return output


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A load process that does not outlive the block."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        text=True,
        cwd=rig.REPOSITORY,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
