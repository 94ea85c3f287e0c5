"""zsync takes no more than what has changed in a file: many parts in one request."""

from pathlib import Path

import pytest

from tests.real.support import KIB, MIB, content, put
from tests.rig import needs, running_server

from .support import DEBUG, run, stop_and_count

pytestmark = needs("zsync", "zsyncmake")

SIZE = 8 * MIB
CHANGE = 5 * KIB


@pytest.mark.parametrize(("changes", "most_requests"), [(1, 1), (8, 1), (50, 4)])
def test_an_update(site: Path, tmp_path: Path, changes: int, most_requests: int) -> None:
    new = content(SIZE)
    old = bytearray(new)
    for place in range(0, SIZE, SIZE // changes):
        old[place : place + CHANGE] = bytes(CHANGE)
    put(site / "file.bin", new)
    run(site, "zsyncmake", "-b", "2048", "-u", "file.bin", "file.bin")
    put(tmp_path / "old.bin", bytes(old))

    with running_server(*DEBUG, root=site) as server:
        run(tmp_path, "zsync", "-i", "old.bin", "-o", "new.bin", f"{server.url}/file.bin.zsync")
        index, *updates = stop_and_count(server)
    assert (tmp_path / "new.bin").read_bytes() == new
    assert (index.target, index.status) == ("/file.bin.zsync", 200)
    assert {(update.target, update.status) for update in updates} == {("/file.bin", 206)}
    # fewer requests than parts, and next to no bytes between these: each had several parts
    assert len(updates) <= most_requests
    assert sum(update.length for update in updates) < changes * 4 * CHANGE < SIZE / 4
