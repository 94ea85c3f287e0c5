"""Programs that fetch from a running server, each in a clean environment. Blocks."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import brotli  # type: ignore[import-untyped]

from tests.real.support import KIB, MIB, content, put
from tests.rig import GUARD, ServerProcess

DEBUG = ("--log-level", "debug")  # the server's log has a line for each request


def run(
    home: Path, *argv: str | Path, fails: bool = False, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in the directory `home`, which is all that it knows of its user.

    Nothing of our environment reaches it: no proxy, no settings, no language.
    """
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    environment = {"PATH": path, "HOME": str(home), "TMPDIR": str(home), "LC_ALL": "C"} | variables
    done = subprocess.run(
        argv,
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=GUARD,
    )
    output = (done.stdout + done.stderr).decode(errors="backslashreplace")
    assert bool(done.returncode) == fails, (argv, done.returncode, output)
    return done


def plant(root: Path, files: Mapping[str, bytes]) -> None:
    """Write these files, all with the same known modification time."""
    for name, data in files.items():
        put(root / name, data)


def tree(root: Path) -> dict[str, bytes]:
    """All files below a directory: what `plant` was given."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


TREE: Final[Mapping[str, bytes]] = {
    "a name with  spaces.txt": b"spaces",
    "'single' and \"double\".txt": b"quotes",
    "100% & more; x=y+z.txt": b"signs",
    "a#b.txt": b"a hash",
    "na\u00efve \u20ac.txt": b"UTF-8",
    "<b>bold & <i>.txt": b"like a tag",
    "a:b": b"like a scheme",
    "?sort=size": b"like a query",
    "trailing ": b"a blank",
    "\u202egpj.exe": b"turned round",
    "img2.png": b"2",
    "img10.png": b"10",
    "empty": b"",
    "big.bin": content(MIB),
    "folder/one.txt": b"one",
    'folder/it\'s "another"/deep/two.bin': content(100 * KIB),
    'folder/it\'s "another"/three.txt': b"three",
    "page/index.html": b"<p>no listing here",
    ".well-known/security.txt": b"not listed",
    ".hidden": b"not listed",
}
"""A site whose names mean something to shells, URLs and HTML."""

LISTED: Final = {name: data for name, data in TREE.items() if not name.startswith(".")}
"""What of it programs find that read listings."""


class Exchange(NamedTuple):
    """A request and its answer, as the server saw them; `length` is that of the body."""

    method: str
    target: str
    status: int
    length: int


def stop_and_count(server: ServerProcess) -> list[Exchange]:
    """Stop the server, which then has said all that it has to say: the requests that it got."""
    assert server.stop() == 0
    server.wait_for_log("stopped;")
    assert "Traceback" not in "\n".join(server.log)
    lines = (re.search(r" DEBUG +(\w+) (\S+) HTTP/1\.\d (\d+) (\d+)$", x) for x in server.log)
    return [Exchange(x[1], x[2], int(x[3]), int(x[4])) for x in lines if x]


def _zstd(data: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        plain = put(Path(scratch, "plain"), data)
        return run(plain.parent, "zstd", "-q", "-c", plain).stdout


CODINGS = {"br": ".br", "gzip": ".gz", "zstd": ".zst"}
"""How the name of a file ends that is ready in this coding."""

COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "br": brotli.compress,
    "gzip": gzip.compress,
    "zstd": _zstd,  # needs("zstd")
}
