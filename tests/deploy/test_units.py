"""The units of examples/deploy for systemd: they are what it understands, and they serve."""

import os
import pwd
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.ports import listens, reserved_port
from tests.deploy.systemd import Systemd, running_systemd
from tests.real.support import MIB, Client, content, eventually, put
from tests.rig import GUARD, REPOSITORY, needs, public_directory

FOLDER: Final = REPOSITORY / "examples/deploy"
SERVICE: Final = FOLDER / "trio-amped.service"
SOCKET: Final = FOLDER / "trio-amped.socket"
PROGRAM: Final = "/opt/trio-amped/bin/trio-amped"
BODY: Final = content(2 * MIB)


def directive(unit: Path, name: str) -> str:
    """Return what a unit says of this name."""
    (value,) = re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)
    return str(value)


@needs("systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """It warns of what it does not know, and of a program that is not there."""
    for unit in (SERVICE, SOCKET):
        text = unit.read_text().replace(PROGRAM, sys.executable)
        (tmp_path / unit.name).write_text(text)
    argv = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=one"]
    argv += [str(tmp_path / unit.name) for unit in (SERVICE, SOCKET)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=GUARD)
    assert (done.returncode, done.stderr) == (0, "")


@needs("systemd-analyze")
def test_the_exposure_is_what_is_said() -> None:
    argv = ["systemd-analyze", "security", "--offline=true", str(SERVICE)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 0, done.stderr
    found = re.search(r"Overall exposure level for trio-amped\.service: ([0-9.]+) ", done.stdout)
    assert found
    for page in (SERVICE, REPOSITORY / "docs/deploy.md"):
        said = re.search(r"exposure\s+(?:#\s+)?([0-9.]+) of 10", page.read_text())
        assert said, page
        assert float(found[1]) <= float(said[1]), page


# ---------------------------------------------------------------- under systemd itself


class Running:
    """The two units under a systemd; `port`: where the socket is."""

    def __init__(self, systemd: Systemd, port: int, log: Path) -> None:
        self.systemd = systemd
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        """What the server has said."""
        return self._log.read_text()

    def property(self, name: str) -> str:
        return self.systemd.control("show", "trio-amped.service", f"--property={name}", "--value")


@contextmanager
def running_units(environment: str) -> Iterator[Running]:
    """The units as they are; only where the socket is, and where the log goes, is said anew."""
    owner = pwd.getpwnam(directive(SERVICE, "User"))
    with public_directory() as place, reserved_port() as port:
        put(place / "www/release/folder/large", BODY)
        (place / "www/current").symlink_to("release")
        for path in (place / "www").rglob("*"):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
        program, log = place / "trio-amped", place / "log"
        paths = f"PYTHONPATH={shlex.quote(str(REPOSITORY))}"
        program.write_text(f'#!/bin/sh\n{paths} exec {sys.executable} -m trio_amped "$@"\n')
        program.chmod(0o755)
        socket_lines = rf"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
        # The Python of the tests may be in somebody's home.
        service_lines = rf"[Service]\nProtectHome=no\nStandardError=append:{log}\n"
        service_lines += rf"Environment=TRIO_AMPED_LISTING=true {environment}\n"
        setup = [
            f"mkdir -p /opt/trio-amped/bin /srv/www && cp {program} {PROGRAM}",
            f"mount --bind {place / 'www'} /srv/www",
            f"cp {SERVICE} {SOCKET} $units/",
            "mkdir $units/trio-amped.service.d $units/trio-amped.socket.d",
            "mkdir $units/multi-user.target.wants",
            f"printf '{socket_lines}' > $units/trio-amped.socket.d/test.conf",
            f"printf '{service_lines}' > $units/trio-amped.service.d/test.conf",
            "ln -s ../trio-amped.socket $units/multi-user.target.wants/",
        ]
        with running_systemd(place, setup) as systemd:
            yield Running(systemd, port, log)


@needs("nobody", "cgroup2", "systemd-analyze", "nsenter")
@pytest.mark.parametrize("way", ["TRIO_AMPED_FAST_LANE=true", "TRIO_AMPED_FAST_LANE=false"])
def test_the_units_serve(way: str) -> None:
    """The first client starts the service, with all it may use and no more; then it is reloaded."""
    with running_units(f"{way} TRIO_AMPED_HELPERS=process") as running:
        eventually(lambda: listens(running.port))
        with Client(running.port) as client:
            assert client.get("/folder/large").body == BODY
            assert client.get("/folder/large", "Range: bytes=7-9").body == BODY[7:10]
            assert b"large" in client.get("/folder/").body, "a listing, of a process that is nicer"
        gates = "gate mincore: .*; files are opened from the kernel's caches;"
        assert re.search(gates, running.log), "a system call is not allowed"
        assert "confined to what is served" in running.log
        eventually(lambda: running.property("StatusText").endswith("workers serve"))
        assert running.property("ActiveState") == "active"
        running.systemd.control("reload", "trio-amped.service")
        eventually(lambda: running.property("StatusText").endswith("workers serve, all new"))
        with Client(running.port) as client:
            assert client.get("/folder/large").body == BODY
        running.systemd.control("stop", "trio-amped.socket", "trio-amped.service")
        assert running.property("Result") == "success"
        assert "WARNING" not in running.log, running.log
        assert "ERROR" not in running.log, running.log
        assert "stopped; " in running.log
