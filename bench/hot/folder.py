"""The folder that is served: its files written, settled, and in memory. Blocks."""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.hot.files import contents
from tests import rig

SETTLED = 3.5  # seconds after which no stamp of a file or a folder is young
SIDECARS = (".br", ".zst", ".gz")  # names that our server looks for beside each file


def prepare(root: Path, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Write the files, settled (an entity tag is weak while a file is young) and in memory."""
    files = dict(contents(sizes))
    long_ago = time.time() - 1_000_000
    for name, content in files.items():
        path = root / name.removeprefix("/")
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
        os.utime(path, (long_ago, long_ago))
    os.sync()
    time.sleep(SETTLED)
    return files


def recall(root: Path, paths: Iterable[str]) -> None:
    """Leave the kernel as a server does that has run before: it knows all files and names."""
    for path in paths:
        file = root / path.removeprefix("/")
        rig.load(file)
        for suffix in SIDECARS:
            file.with_name(file.name + suffix).exists()
