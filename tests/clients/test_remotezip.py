"""Python's zipfile takes single members out of an archive that stays with us, by ranges."""

import io
import zipfile
from pathlib import Path

import pytest
import requests
from remotezip import RemoteZip  # type: ignore[import-untyped]

from tests.real.support import KIB, MIB, content, put
from tests.rig import running_server

from .support import DEBUG, stop_and_count

MEMBERS = {f"folder/{n}.bin": content(256 * KIB + n) for n in range(32)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_two_members(site: Path, method: int) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as output:
        for name, data in MEMBERS.items():
            output.writestr(name, data)
    put(site / "archive.zip", archive.getvalue())

    with running_server(*DEBUG, root=site) as server:
        with requests.Session() as session:
            session.trust_env = False  # no proxies
            with RemoteZip(f"{server.url}/archive.zip", session=session) as remote:
                assert remote.namelist() == list(MEMBERS)
                for name in ("folder/30.bin", "folder/3.bin"):
                    assert remote.read(name) == MEMBERS[name]
        exchanges = stop_and_count(server)
    assert [exchange.status for exchange in exchanges] == [206, 206, 206]
    assert sum(exchange.length for exchange in exchanges) < MIB < len(archive.getvalue()) / 7
