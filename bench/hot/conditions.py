"""Under what a run was made: machine, kernel, versions, options. Blocks."""

import argparse
import importlib.metadata
import os
import platform
import re
import subprocess
import time

from bench.machine import processor

PACKAGES = ("trio-amped", "trio", "h11", "granian", "aiohttp", "starlette", "uvicorn", "uvloop")
MORE_PACKAGES = ("httptools", "hypercorn")


def conditions(options: argparse.Namespace) -> dict[str, str]:
    versions = [f"Python {platform.python_version()}"]
    for package in (*PACKAGES, *MORE_PACKAGES):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    for program in ("nginx", "wrk"):
        done = subprocess.run([program, "-v"], capture_output=True, text=True)
        found = re.search(r"\d+\.\d+\.\d+", done.stderr + done.stdout)
        versions.append(f"{program} {found[0] if found else '(unknown version)'}")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores, "
        f"{memory / 2**30:.0f} GiB, Linux {platform.release()}",
        "versions": ", ".join(versions),
        "user": "root" if os.geteuid() == 0 else "not root",
        "run": f"{options.rounds} rounds, {options.seconds} s for each load",
        **({"bench/BASE": options.base} if options.base else {}),
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }
