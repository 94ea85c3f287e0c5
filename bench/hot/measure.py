"""One cell of the table: load on one server for some seconds, with all answers checked. Blocks."""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.hot.answers import Head, Wrong, learned, verify
from bench.hot.exact import PATIENCE as FOR_ALL
from bench.hot.exact import Plan
from bench.hot.peers import Running
from bench.hot.processes import cpu_seconds, idle_seconds
from bench.hot.workloads import Ask, Workload, drawn
from bench.servers import HOST
from tests.rig import REPOSITORY

PATIENCE = 30.0  # seconds more than the load should take
SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Hot:
    """How long another client waited meanwhile, for a small file in memory: milliseconds."""

    p50: float
    p99: float
    most: float


@dataclass(frozen=True)
class Sample:
    """What one server did with one workload in one round."""

    rate: float  # requests a second
    cpu: float  # microseconds of the server for a request
    idle: float  # the share of the time in which its core had nothing to do: the load was slow
    others: float  # the share in which other programs had its core
    hot: Hot | None = None


@dataclass(frozen=True)
class Load:
    """What a load program says that it got."""

    requests: float
    bytes: int
    seconds: float
    sent: int = 0
    due: int = 0
    idle: float | None = None  # None: it does not know


def run(
    server: Running,
    workload: Workload,
    heads: Mapping[str, Head],
    seconds: int,
    cpus: Sequence[int],
    asks: Sequence[Ask] | None = None,
) -> Sample:
    """Load it from these cores. Raises Wrong when any answer was."""
    use = {"wrk": _wrk, "exact": _exact, "s_time": _s_time}[workload.load]
    idle, used = idle_seconds(server.cpus), cpu_seconds(server.session)
    load = use(server, workload, heads, seconds, cpus, asks or drawn(workload))
    used = cpu_seconds(server.session) - used
    idle = idle_seconds(server.cpus) - idle if load.idle is None else load.idle
    return sample(server, load.requests, load.seconds, used, idle)


def checked(
    server: Running,
    workload: Workload,
    files: Mapping[str, bytes],
    seconds: int,
    cpus: Sequence[int],
) -> Sample:
    """Load it between two comparisons of what it sends with the files. Raises Wrong."""
    workload = learned(server.port, workload)
    heads = verify(server.port, workload, files)
    if workload.warms_up:
        run(server, workload, heads, seconds, cpus)
    sample = run(server, workload, heads, seconds, cpus)
    if verify(server.port, workload, files) != heads:
        raise Wrong("the heads have changed")
    return sample


def sample(server: Running, requests: float, seconds: float, used: float, idle: float) -> Sample:
    """`used` and `idle`: seconds of the server's processes, and of its cores."""
    if not requests:
        raise Wrong("no answer at all")
    available = seconds * len(server.cpus)
    return Sample(
        rate=requests / seconds,
        cpu=1e6 * used / requests,
        idle=idle / available,
        others=max(0.0, 1 - (idle + used) / available),
    )


def check_total(load: Load, workload: Workload, sizes: Sequence[int]) -> None:
    """As many bytes as are due came, but for what was on its way at the end. Raises Wrong.

    `sizes`: the lengths of the whole answers.
    """
    on_their_way = workload.connections * workload.depth
    if load.sent:
        # wrk makes up the requests one time more than it sends them, to see what they are.
        most: float = load.due
        slack = (on_their_way + workload.depth) * max(sizes)
        if not load.requests <= load.sent <= load.requests + on_their_way + workload.depth:
            raise Wrong(f"{load.sent} requests were sent, {load.requests} answered")
    else:
        most, slack = (load.requests + on_their_way) * sizes[0], on_their_way * sizes[0]
    if not most - slack <= load.bytes <= most:
        raise Wrong(f"{load.bytes} bytes came, where {most - slack} to {most} are right")


def read_wrk(output: str, status: int = 200) -> Load:
    """What wrk.lua has written among what wrk writes. Raises Wrong when it counts errors."""
    found = re.search(r"^RESULT (\{.*\})$", output, re.MULTILINE)
    if found is None:
        raise Wrong(f"wrk has no result: {output.strip()[-500:]}")
    result = json.loads(found[1])
    errors = {kind: count for kind, count in result.pop("errors").items() if count}
    if status >= 400 and errors.pop("status", 0) != result["requests"]:
        raise Wrong(f"wrk did not count each answer as an error, as it does with {status}")
    if errors:
        raise Wrong("wrk counts errors: " + ", ".join(f"{n} {kind}" for kind, n in errors.items()))
    return Load(**result)


def _wrk(
    server: Running,
    workload: Workload,
    heads: Mapping[str, Head],
    seconds: int,
    cpus: Sequence[int],
    asks: Sequence[Ask],
) -> Load:
    sizes = {path: head.size + head.length * workload.has_body for path, head in heads.items()}
    with tempfile.TemporaryDirectory() as directory:
        request, plan = Path(directory, "request"), Path(directory, "plan")
        template = workload.template
        if len(workload.paths) == 1:  # it may hold what is different each time
            template = template.replace("%PATH%", workload.paths[0])
        request.write_bytes(template.encode())
        plan.write_text("".join(f"{sizes[path]} {path} {span}\n" for path, span in asks))
        command = ["wrk", f"-t{len(cpus)}", f"-c{workload.connections}", f"-d{seconds}s"]
        command += ["--timeout", "10s", "-s", str(SCRIPT), _url(server), "--"]
        command += [str(request), str(plan), str(workload.depth)]
        load = read_wrk(_run(command, cpus, seconds + PATIENCE), workload.status)
    check_total(load, workload, list(sizes.values()))
    return load


def _url(server: Running) -> str:
    return f"{'https' if server.tls else 'http'}://{HOST}:{server.port}/"


def _exact(
    server: Running,
    workload: Workload,
    heads: Mapping[str, Head],
    seconds: int,
    cpus: Sequence[int],
    asks: Sequence[Ask],
) -> Load:
    lengths = {path: head.length for path, head in heads.items()}
    with tempfile.TemporaryDirectory() as directory:
        plan = Path(directory, "plan")
        plan.write_text(json.dumps(vars(Plan.of(workload, asks, lengths))))
        length = 0 if workload.once else seconds
        numbers = (server.port, plan, workload.connections, length)
        command = [sys.executable, "-m", "bench.hot.exact", *map(str, numbers)]
        command.append(",".join(map(str, server.cpus)))
        result = json.loads(_run(command, cpus, (length or FOR_ALL) + PATIENCE))
    if error := result.pop("error"):
        raise Wrong(error)
    return Load(**result)


def _s_time(
    server: Running,
    workload: Workload,
    heads: Mapping[str, Head],
    seconds: int,
    cpus: Sequence[int],
    asks: Sequence[Ask],
) -> Load:
    """Make connections anew by as many programs of OpenSSL, each of which makes one at a time."""
    [path] = workload.paths
    command = ["openssl", "s_time", "-connect", f"{HOST}:{server.port}", "-new", "-www", path]
    command += ["-time", str(seconds)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(workload.connections) as programs:
        run = partial(_run, command, cpus, seconds + PATIENCE)
        outputs = [programs.submit(run) for _ in range(workload.connections)]
        loads = [read_s_time(each.result()) for each in outputs]
    return Load(
        sum(load.requests for load in loads),
        sum(load.bytes for load in loads),
        time.perf_counter() - begun,
    )


def read_s_time(output: str) -> Load:
    """Return what `openssl s_time` has counted. Raises Wrong when it has counted nothing."""
    found = re.search(
        r"^(\d+) connections in (\d+) real seconds, (\d+) bytes", output, re.MULTILINE
    )
    if found is None:
        raise Wrong(f"no connections: {output.strip()[-300:]}")
    connections, seconds, size = map(int, found.groups())
    return Load(connections, connections * size, seconds)


def _run(command: Sequence[str], cpus: Sequence[int], patience: float) -> str:
    pinned = ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]
    try:
        done = subprocess.run(
            pinned,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=patience,
        )
    except subprocess.TimeoutExpired as error:
        raise Wrong(f"{command[0]} did not end within {patience:.0f} s") from error
    if done.returncode:
        raise Wrong(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
