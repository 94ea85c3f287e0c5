"""The Containerfile of examples/deploy, as far as it can be run without images: what it copies is
enough, and its server, in namespaces and on an overlay as in a container, does what it says."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.real.support import MIB, Client, content, put
from tests.rig import (
    GUARD,
    REPOSITORY,
    ServerProcess,
    for_strangers,
    needs,
    overlayfs,
    public_directory,
    running_server,
)
from tests.test_init import NAMESPACE, process_1

FILE: Final = REPOSITORY / "examples/deploy/Containerfile"
BODY: Final = content(8 * MIB)
WAYS: Final[dict[str, tuple[str, ...]]] = {"lane": (), "tasks": ("--no-fast-lane",)}
EVERY_WAY: Final = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def instructions(name: str) -> list[str]:
    """Return what follows each instruction of this name."""
    return re.findall(rf"^{name} (.*)$", FILE.read_text(), re.MULTILINE)


def words(name: str) -> list[str]:
    """Return the command of an instruction that is there once, in its form of JSON."""
    (text,) = instructions(name)
    found: list[str] = json.loads(text.removeprefix("CMD "))
    return found


def copies() -> Iterator[tuple[list[Path], str]]:
    """What each COPY copies, and to where."""
    for text in instructions("COPY"):
        *sources, target = [word for word in shlex.split(text) if not word.startswith("--")]
        yield [REPOSITORY / each for each in sources], target


def test_what_is_copied_can_be_installed(tmp_path: Path) -> None:
    """And the site is there, for its owner."""
    targets = dict[str, Path]()
    for sources, target in copies():
        into = targets[target] = tmp_path / target.strip("/")
        for source in sources:
            if source.is_dir():
                shutil.copytree(source, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, into)
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    done = subprocess.run([*argv, str(targets["/tmp/source/"])], capture_output=True, timeout=GUARD)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.whl"))
    assert (targets["/srv/www/"] / "index.html").exists()
    (user,) = instructions("USER")
    assert f"COPY --chown={user} examples/site /srv/www/" in FILE.read_text()


@contextmanager
def running_container(*more: str) -> Iterator[ServerProcess]:
    """Its server as its user, without capabilities, as process 1, on an overlay."""
    (user,) = instructions("USER")
    uid, gid = user.split(":")
    program, root, *options = words("ENTRYPOINT")
    assert (program, root) == ("trio-amped", "/srv/www")
    options = [each.replace("*:8000", "127.0.0.1:0") for each in options]

    def wrap(argv: list[str]) -> list[str]:
        rights = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
        rights += ["--bounding-set=-all", "--inh-caps=-all"]
        return for_strangers([*NAMESPACE, "setpriv", *rights, *argv])

    with public_directory() as place:
        site = place / "image/site"
        put(site / "large", BODY)
        put(site / "index.html", b"index")
        for path in (site, *site.rglob("*")):
            os.chown(path, int(uid), int(gid))
        with (
            overlayfs(place, place / "image") as image,
            running_server(*options, *more, root=image / "site", wrap=wrap) as server,
        ):
            yield server


def is_healthy(server: ServerProcess) -> bool:
    python, *rest = words("HEALTHCHECK")
    assert python == "python"
    argv = [sys.executable, *(each.replace("8000", str(server.port)) for each in rest)]
    return subprocess.run(argv, stderr=subprocess.DEVNULL, timeout=GUARD).returncode == 0


@needs("nobody", "overlay")
@EVERY_WAY
def test_it_serves_and_stops(way: tuple[str, ...]) -> None:
    with running_container(*way) as server:
        server.wait_for_log(r"gate mincore: the kernel tells uid 10001 .*\(overlayfs\)")
        assert is_healthy(server)
        with Client(server, receive_buffer=4096) as client:
            client.ask("/large")
            length = int(client.head().fields["content-length"])
            (name,) = instructions("STOPSIGNAL")
            os.kill(process_1(server.process), signal.Signals[name])
            server.wait_for_log("finishing what is being sent, at most 8 s")
            assert client.take(length) == BODY
            assert server.process.wait(GUARD) == 0
        assert not is_healthy(server)
        assert not any("WARNING" in line for line in server.log)
