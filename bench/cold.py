"""The proof that the event loop never waits for the disk: what is run, and its table. Blocks."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.disks import LOOP_READ_AHEAD_KB, MIB, Disk, Shape, loop_disk, machine_disk
from bench.rig import CLIENTS, HEADER, LIMIT, RATE, Result, Row, measure
from tests import rig

HELP = """\
Proves that the event loop never waits for the disk.

The server runs in a cgroup that reads at 20 MB/s. 8 clients stream cold files, each once, and
check their content; meanwhile a probe asks for a resident file of 1 KiB 400 times a second, over
8 connections. It is an open loop: requests are due on schedule whether or not the ones before are
answered, and a latency is counted from the time the request was due. So a stall is charged to
every request that it delays."""

EPILOG = """\
disks:
  machine  the disk that holds --dir: 96 files of 4 MiB
  loop     an ext4 image on a loop device with read_ahead_kb 128 (a disk's own large read-ahead
           hides windows, read-ahead and coalescing): 8 files of 64 MiB. It is mounted anew for
           each row, so names and inodes are cold too. The throttle is on the loop device alone,
           which reads its image past the page cache (direct I/O).

rows:
  thread, process   trio_amped --helpers thread, --helpers process
  tasks             trio_amped --no-fast-lane
  nobody            trio_amped as uid 65534, the files are root's
  nobody-overlay    the same, through overlayfs (reported)
  always, never     trio_amped --gate always, --gate never (for comparison)
  nginx, nginx-aio  nginx with sendfile, without and with `aio threads` (for comparison)

bounds:
  thread, process, tasks, nobody
                            hot p99 <= 5 ms, hot max <= 50 ms, cold >= 95 % of the limit
  never                     hot max > 1000 ms, or else the rig does not bite
  every row                 no errors: each answer is a 200 of the right length, each cold body
                            has the right CRC, and the hot file stayed in memory

needs: Linux, root, the cgroup controller blkio (v1) or io (v2), ext4 and util-linux (mkfs.ext4,
losetup, unshare, setpriv), nginx for its rows, the group `test`, and about 1.5 GB below --dir,
which must be on a block device and open to all users. Python itself may be in a closed directory
such as /root: for the rows `nobody` it is bound to the same path in a mount namespace of the
server's own. Load goes to 127.0.0.1 only. A full run takes about 8 minutes, a short one 1 to 2.

exit status: 0 all bounds hold, 1 a row failed, 2 the rig cannot run here."""


_ROWS = (
    Row("thread", ("--helpers", "thread"), bounds="amped"),
    Row("process", ("--helpers", "process"), bounds="amped"),
    Row("tasks", ("--no-fast-lane",), bounds="amped"),
    Row("nobody", nobody=True, bounds="amped"),
    Row("nobody-overlay", nobody=True, overlay=True),
    Row("always", ("--gate", "always")),
    Row("never", ("--gate", "never"), bounds="bites"),
    Row("nginx", nginx=True),
    Row("nginx-aio", ("aio threads;",), nginx=True),
)
ROWS = {row.name: row for row in _ROWS}
SHORT_ROWS = ("thread", "process", "nobody", "never")
SHAPES = {"machine": Shape(96, 4 * MIB), "loop": Shape(8, 64 * MIB)}
SHORT_SHAPES = {"machine": Shape(24, 4 * MIB), "loop": Shape(8, 16 * MIB)}
MAKE_DISK: dict[str, Callable[[Path, Shape], Disk]] = {
    "machine": machine_disk,
    "loop": loop_disk,
}


def conditions(scratch: Path) -> dict[str, object]:
    """Under what the numbers were measured."""
    versions = {}
    for package in ("trio-amped", "trio", "h11"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
    if shutil.which("nginx"):
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr
        versions["nginx"] = said.strip().rpartition("/")[2]
    device = rig.block_device(scratch)
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "python": platform.python_version(),
        "versions": versions,
        "limit": LIMIT,
        "clients": CLIENTS,
        "probe_rate": RATE,
        "machine_disk": str(device),
        "machine_read_ahead_kb": int(rig.read_ahead(device).read_text()),
        "loop_read_ahead_kb": LOOP_READ_AHEAD_KB,
    }


def check_machine(rows: list[Row]) -> None:
    """Fail early and in words where the rig cannot run."""
    needed: list[str] = ["root", "blkio", "loop"]
    needed += ["nobody"] if any(row.nobody for row in rows) else []
    needed += ["overlay"] if any(row.overlay for row in rows) else []
    needed += ["nginx"] if any(row.nginx for row in rows) else []
    for feature in needed:
        if reason := rig.missing(feature):
            raise RuntimeError(reason)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cold",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    short = ",".join(SHORT_ROWS)
    parser.add_argument("--short", action="store_true", help=f"fewer bytes and rows ({short})")
    parser.add_argument(
        "--tries",
        type=int,
        default=1,
        metavar="N",
        help="measure a row that fails again, at most N times, for machines that stand still "
        "themselves now and then; every try is in the table (default: 1)",
    )
    parser.add_argument("--rows", metavar="A,B", help="which rows (default: all)")
    parser.add_argument("--disks", metavar="A,B", default="machine,loop", help="which disks (both)")
    parser.add_argument(
        "--dir", type=Path, default=Path("/var/tmp"), help="where the files go (default: /var/tmp)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results, conditions too")
    options = parser.parse_args(arguments)
    options.rows = (options.rows or ",".join(SHORT_ROWS if options.short else ROWS)).split(",")
    options.disks = options.disks.split(",")
    for asked, known in ((options.rows, ROWS), (options.disks, MAKE_DISK)):
        if unknown := [name for name in asked if name not in known]:
            parser.error(f"unknown: {', '.join(unknown)} (known: {', '.join(known)})")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    rows = [ROWS[name] for name in options.rows]
    shapes = SHORT_SHAPES if options.short else SHAPES
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.umask(0o022)
    results: list[Result] = []
    try:
        check_machine(rows)
        with tempfile.TemporaryDirectory(prefix="bench-cold-", dir=options.dir) as directory:
            scratch = Path(directory).resolve()
            scratch.chmod(0o755)
            facts = conditions(scratch)
            if os.getloadavg()[0] > 1:
                print(
                    "bench.cold: others are using the CPUs: latencies may be theirs",
                    file=sys.stderr,
                )
            print(HEADER, flush=True)
            for name in options.disks:
                disk = MAKE_DISK[name](scratch, shapes[name])
                for row in rows:
                    for _ in range(options.tries):
                        result = measure(disk, row, scratch)
                        print(result.line(row.bounds), flush=True)
                        if not result.failed:
                            break
                    results.append(result)
    except (RuntimeError, AssertionError, OSError) as error:
        print(f"bench.cold: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench.cold: interrupted", file=sys.stderr)
        return 130
    print()
    for key, value in facts.items():
        print(f"- {key}: {value}")
    lags = [result.probe_lag for result in results if result.requests]
    print(f"- worst lateness of the probe itself: {max(lags, default=0):.2f} ms")
    failed = [result for result in results if result.failed]
    for result in failed:
        print(f"FAIL {result.disk} {result.row}: {'; '.join(result.failed)}")
    if options.json:
        measured = [result.plain() for result in results]
        options.json.write_text(json.dumps({"conditions": facts, "results": measured}, indent=2))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
