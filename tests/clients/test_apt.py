"""apt takes its indexes and packages from a folder of ours, and asks what is new."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from tests.real.support import KIB, LONG_AGO, content, put
from tests.rig import GUARD, needs, running_server

from .support import DEBUG, Exchange, run, stop_and_count

pytestmark = needs("apt-get", "apt-ftparchive", "dpkg-deb")

NAMES = [f"trio-amped-test-{number}" for number in range(6)]


def build(
    repository: Path, scratch: Path, version: str, mtime: float = LONG_AGO
) -> dict[str, bytes]:
    """Put packages and their indexes into a folder: the packages by file name."""
    built = {}
    for number, name in enumerate(NAMES):
        package = scratch / name
        put(package / f"usr/share/{name}/data", content(50 * KIB + number))
        control = {
            "Package": name,
            "Version": version,
            "Architecture": "all",
            "Maintainer": "Nobody <nobody@example.org>",
            "Description": "a test",
        }
        lines = (f"{field}: {value}\n" for field, value in control.items())
        put(package / "DEBIAN/control", "".join(lines).encode())
        (package / "DEBIAN").chmod(0o755)
        file = repository / f"{name}_{version}_all.deb"
        run(scratch, "dpkg-deb", "--root-owner-group", "-Znone", "--build", package, file)
        built[file.name] = file.read_bytes()
        put(file, built[file.name], mtime)
        shutil.rmtree(package)
    index = run(repository, "apt-ftparchive", "packages", ".").stdout
    put(repository / "Packages", index, mtime)
    put(repository / "Packages.gz", gzip.compress(index), mtime)
    release = run(repository, "apt-ftparchive", "release", ".").stdout
    put(repository / "Release", release, mtime)
    return built


class Machine:
    """What apt takes for the whole machine."""

    def __init__(self, home: Path, source: str) -> None:
        self.home = home
        self.archives = home / "var/cache/apt/archives"
        put(home / "etc/apt/sources.list", f"deb [trusted=yes] {source} ./\n".encode())
        put(home / "var/lib/dpkg/status", b"")
        for directory in ("etc/apt/preferences.d", "var/lib/apt/lists/partial"):
            (home / directory).mkdir(parents=True)
        (self.archives / "partial").mkdir(parents=True)
        settings = {
            "Dir": home,
            "Dir::State::status": home / "var/lib/dpkg/status",
            "Acquire::http::Proxy": "DIRECT",
            "Acquire::http::Timeout": f"{GUARD:g}",
            "Acquire::Languages": "none",
            "Acquire::Retries": "0",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
        }
        lines = "".join(f'{name} "{value}";\n' for name, value in settings.items())
        self.settings = put(home / "apt.conf", lines.encode())

    def apt_get(self, *words: str) -> str:
        """Run apt-get: what it says."""
        argv = ("apt-get", *words)
        return run(self.home, *argv, APT_CONFIG=str(self.settings)).stdout.decode()

    def indexes(self) -> dict[str, bytes]:
        """The indexes that apt has now, by the last word of their names."""
        found = (self.home / "var/lib/apt/lists").glob("127.0.0.1*")
        return {path.name.rpartition("_")[2]: path.read_bytes() for path in found}


@pytest.fixture
def packages(site: Path, tmp_path: Path) -> dict[str, bytes]:
    return build(site, tmp_path, "1.0")


def statuses(requests: list[Exchange]) -> dict[str, list[int]]:
    """The statuses for each file. (apt asks for /./Release.)"""
    found: dict[str, list[int]] = {}
    for request in requests:
        found.setdefault(request.target.removeprefix("/./"), []).append(request.status)
    return found


# ---------------------------------------------------------------- indexes


def test_what_is_new_in_an_index(site: Path, packages: dict[str, bytes], tmp_path: Path) -> None:
    def is_known() -> bool:
        wanted = {name: (site / name).read_bytes() for name in ("Packages", "Release")}
        return machine.indexes() == wanted

    with running_server(*DEBUG, root=site) as server:
        machine = Machine(tmp_path / "machine", server.url)
        assert "Get:" in machine.apt_get("update")
        assert is_known()
        assert "Hit:" in machine.apt_get("update")
        assert is_known()
        build(site, tmp_path, "2.0", LONG_AGO + 10)
        assert not is_known()
        machine.apt_get("update")
        assert is_known()
        found = statuses(stop_and_count(server))
    assert found["Release"] == [200, 304, 200]
    assert found["Packages.gz"] == [200, 200]


def test_an_index_that_nothing_leads_to(
    site: Path, packages: dict[str, bytes], tmp_path: Path
) -> None:
    (site / "Release").unlink()
    with running_server(*DEBUG, root=site) as server:
        machine = Machine(tmp_path / "machine", server.url)
        for _ in range(2):
            machine.apt_get("update")
            assert machine.indexes() == {"Packages": (site / "Packages").read_bytes()}
        requests = stop_and_count(server)
    assert statuses(requests)["Packages.gz"] == [200, 304]


# ---------------------------------------------------------------- packages


def test_packages(site: Path, packages: dict[str, bytes], tmp_path: Path) -> None:
    with running_server(*DEBUG, root=site) as server:
        machine = Machine(tmp_path / "machine", server.url)
        machine.apt_get("update")
        machine.apt_get("download", *NAMES)
        assert {path.name: path.read_bytes() for path in machine.home.glob("*.deb")} == packages
        stop_and_count(server)


# If-Range has the time of the part that is there: it goes on only if that is of the same file.
@pytest.mark.parametrize(("time", "status"), [(LONG_AGO, 206), (LONG_AGO - 1, 200)])
def test_a_package_that_was_cut_off(
    site: Path, packages: dict[str, bytes], tmp_path: Path, time: int, status: int
) -> None:
    name, data = next(iter(packages.items()))
    with running_server(*DEBUG, root=site) as server:
        machine = Machine(tmp_path / "machine", server.url)
        machine.apt_get("update")
        put(machine.archives / "partial" / name, data[: 10 * KIB], time)
        machine.apt_get("install", "--download-only", "--yes", *NAMES)
        assert {path.name: path.read_bytes() for path in machine.archives.glob("*.deb")} == packages
        found = statuses(stop_and_count(server))
    assert {file: found[file] for file in packages} == {
        file: [status if file == name else 200] for file in packages
    }
