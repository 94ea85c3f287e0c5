"""One cell of the table: load on one server for some seconds, with all answers checked. Blocks."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.hot.answers import Head, Wrong
from bench.hot.peers import Running
from bench.hot.processes import cpu_seconds, idle_seconds
from bench.hot.workloads import Workload, drawn
from bench.servers import HOST
from tests.rig import REPOSITORY

PATIENCE = 30.0  # seconds more than the load should take
SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Sample:
    """What one server did with one workload in one round."""

    rate: float  # requests a second
    cpu: float  # microseconds of the server for a request
    idle: float  # the share of the time in which its core had nothing to do: the load was slow
    others: float  # the share in which other programs had its core


@dataclass(frozen=True)
class Load:
    """What a load program says that it got."""

    requests: int
    bytes: int
    seconds: float
    sent: int = 0
    due: int = 0


def run(
    server: Running,
    workload: Workload,
    heads: Mapping[str, Head],
    seconds: int,
    cpus: Sequence[int],
) -> Sample:
    """Load it from these cores. Raises Wrong when any answer was."""
    use = _wrk if workload.load == "wrk" else _bulk
    idle, used = idle_seconds(server.cpus), cpu_seconds(server.session)
    load = use(server.port, workload, heads, seconds, cpus)
    idle, used = idle_seconds(server.cpus) - idle, cpu_seconds(server.session) - used
    check_total(load, workload, heads)
    answers: float = load.requests
    if workload.load == "bulk":  # there are few of them: count the unfinished ones by their bytes
        (head,) = heads.values()
        answers = load.bytes / (head.size + head.length)
    time = load.seconds * len(server.cpus)
    return Sample(
        rate=answers / load.seconds,
        cpu=1e6 * used / answers,
        idle=idle / time,
        others=max(0.0, 1 - (idle + used) / time),
    )


def check_total(load: Load, workload: Workload, heads: Mapping[str, Head]) -> None:
    """As many bytes as are due came, but for what was on its way at the end. Raises Wrong."""
    sizes = [head.size + head.length for head in heads.values()]
    on_their_way = workload.connections * workload.depth
    if not load.requests:
        raise Wrong("no answer at all")
    if load.sent:
        # wrk makes up the requests one time more than it sends them, to see what they are.
        most, slack = load.due, (on_their_way + workload.depth) * max(sizes)
        if not load.requests <= load.sent <= load.requests + on_their_way + workload.depth:
            raise Wrong(f"{load.sent} requests were sent, {load.requests} answered")
    else:
        most, slack = (load.requests + on_their_way) * sizes[0], on_their_way * sizes[0]
    if not most - slack <= load.bytes <= most:
        raise Wrong(f"{load.bytes} bytes came, where {most - slack} to {most} are right")


def read_wrk(output: str) -> Load:
    """What wrk.lua has written among what wrk writes. Raises Wrong when it counts errors."""
    found = re.search(r"^RESULT (\{.*\})$", output, re.MULTILINE)
    if found is None:
        raise Wrong(f"wrk has no result: {output.strip()[-500:]}")
    result = json.loads(found[1])
    errors = {kind: count for kind, count in result.pop("errors").items() if count}
    if errors:
        raise Wrong("wrk counts errors: " + ", ".join(f"{n} {kind}" for kind, n in errors.items()))
    return Load(**result)


def _wrk(
    port: int,
    workload: Workload,
    heads: Mapping[str, Head],
    seconds: int,
    cpus: Sequence[int],
) -> Load:
    order = [f"{heads[path].size + heads[path].length} {path}\n" for path in drawn(workload.paths)]
    with tempfile.TemporaryDirectory() as directory:
        head, plan = Path(directory, "head"), Path(directory, "plan")
        head.write_bytes(workload.head.encode())
        plan.write_text("".join(order))
        command = ["wrk", f"-t{len(cpus)}", f"-c{workload.connections}", f"-d{seconds}s"]
        command += ["--timeout", "10s", "-s", str(SCRIPT), f"http://{HOST}:{port}/", "--"]
        command += [str(head), str(plan), str(workload.depth)]
        return read_wrk(_run(command, seconds, cpus))


def _bulk(
    port: int, workload: Workload, heads: Mapping[str, Head], seconds: int, cpus: Sequence[int]
) -> Load:
    (path,) = workload.paths
    numbers = (workload.connections, seconds, heads[path].size, heads[path].length)
    command = [sys.executable, "-m", "bench.hot.bulk", str(port), path, *map(str, numbers)]
    result = json.loads(_run(command, seconds, cpus))
    if error := result.pop("error"):
        raise Wrong(error)
    return Load(**result)


def _run(command: Sequence[str], seconds: int, cpus: Sequence[int]) -> str:
    pinned = ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]
    try:
        done = subprocess.run(
            pinned,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=seconds + PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise Wrong(f"{command[0]} did not end within {seconds + PATIENCE:.0f} s") from error
    if done.returncode:
        raise Wrong(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
