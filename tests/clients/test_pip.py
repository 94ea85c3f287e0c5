"""pip finds wheels in a listing, and installs them."""

import base64
import csv
import hashlib
import io
import os
import sys
import zipfile
from pathlib import Path

import pytest

from tests.rig import GUARD, ServerProcess, running_server

from .support import DEBUG, plant, run, stop_and_count, tree

PIP = (sys.executable, "-m", "pip", "--no-cache-dir", "--disable-pip-version-check")
PATIENCE = f"--timeout={GUARD:g}"


def wheel(version: str, code: bytes) -> bytes:
    """A package named `served` with one module."""
    files = {
        "served.py": code,
        f"served-{version}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: served\nVersion: {version}\n".encode()
        ),
        f"served-{version}.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
        rows.writerow((name, f"sha256={digest.decode()}", len(data)))
    own_name = f"served-{version}.dist-info/RECORD"
    rows.writerow((own_name, "", ""))
    files[own_name] = record.getvalue().encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as output:
        for name, data in files.items():
            output.writestr(name, data)
    return archive.getvalue()


@pytest.fixture
def wheels(site: Path) -> dict[str, bytes]:
    """Wheels in a folder; a plus sign in a name must come through a URL."""
    files = {
        "served-1.0-py3-none-any.whl": wheel("1.0", b"ANSWER = 41\n"),
        "served-2.0+local.1-py3-none-any.whl": wheel("2.0+local.1", b"ANSWER = 42\n"),
        "other-3.0-py3-none-any.whl": b"not asked for",
    }
    plant(site / "our wheels", files)
    return files


def pip(server: ServerProcess, home: Path, *words: str) -> None:
    links = f"{server.url}/our%20wheels/"
    run(
        home,
        *PIP,
        *words,
        PATIENCE,
        "--no-index",
        "--find-links",
        links,
        PIP_CONFIG_FILE=os.devnull,
    )


@pytest.mark.parametrize(
    ("wanted", "version", "code"),
    [("served==1.0", "1.0", b"ANSWER = 41\n"), ("served", "2.0+local.1", b"ANSWER = 42\n")],
)
def test_an_installation(
    site: Path, wheels: dict[str, bytes], tmp_path: Path, wanted: str, version: str, code: bytes
) -> None:
    with running_server(*DEBUG, "--listing", root=site) as server:
        pip(server, tmp_path, "install", "--no-compile", "--target", "installed", wanted)
        requests = stop_and_count(server)
    installed = tree(tmp_path / "installed")
    assert installed["served.py"] == code
    metadata = installed[f"served-{version}.dist-info/METADATA"].decode()
    assert f"\nVersion: {version}\n" in metadata
    assert [request.status for request in requests] == [200, 200]


def test_downloads(site: Path, wheels: dict[str, bytes], tmp_path: Path) -> None:
    with running_server("--listing", root=site) as server:
        pip(server, tmp_path, "download", "--dest", "downloads", "served==1.0")
        pip(server, tmp_path, "download", "--dest", "downloads", "served")
        stop_and_count(server)
    assert tree(tmp_path / "downloads") == {
        name: data for name, data in wheels.items() if name.startswith("served")
    }
