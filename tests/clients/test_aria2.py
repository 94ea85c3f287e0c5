"""aria2 takes a file in sixteen pieces at once, goes on after a stop, and asks what is new."""

from pathlib import Path

from tests.real.support import LONG_AGO, MIB, content, put
from tests.rig import needs, running_server

from .support import DEBUG, Exchange, run, stop_and_count

pytestmark = needs("aria2c")

ARIA2 = (
    *("aria2c", "--no-conf", "--quiet", "--file-allocation=none", "--max-tries=1"),
    *("--timeout=600", "--connect-timeout=600"),  # seconds, the most that aria2c takes
)
SIXTEEN = ("-x16", "-s16", "-k1M")
SIZE = 32 * MIB + 12345


def parts(requests: list[Exchange]) -> list[Exchange]:
    """But for the first request, which asks for the whole file, and is given up for the parts."""
    assert [request.status for request in requests].count(200) <= 1
    return [request for request in requests if request.status != 200]


def test_a_file_in_sixteen_pieces(site: Path, tmp_path: Path) -> None:
    data = content(SIZE)
    put(site / "file.bin", data)
    with running_server(*DEBUG, root=site) as server:
        run(tmp_path, *ARIA2, *SIXTEEN, f"{server.url}/file.bin")
        requests = parts(stop_and_count(server))
    assert (tmp_path / "file.bin").read_bytes() == data
    assert {(request.target, request.status) for request in requests} == {("/file.bin", 206)}
    assert len(requests) > 12  # who is done first may take the last one, too


def test_the_rest_of_a_file(site: Path, tmp_path: Path) -> None:
    data = content(SIZE)
    put(site / "file.bin", data)
    partial = put(tmp_path / "file.bin", data[: 24 * MIB])
    with running_server(*DEBUG, root=site) as server:
        run(tmp_path, *ARIA2, *SIXTEEN, "-c", f"{server.url}/file.bin")
        requests = parts(stop_and_count(server))
    assert partial.read_bytes() == data
    assert len(requests) > 1
    assert {request.status for request in requests} == {206}
    assert sum(request.length for request in requests) < 2 * (SIZE - 24 * MIB)


def test_what_is_new_is_taken_again(site: Path, tmp_path: Path) -> None:
    put(site / "file.bin", b"old")
    options = ("--conditional-get=true", "--allow-overwrite=true", "--remote-time=true")
    with running_server(*DEBUG, root=site) as server:
        for data, time in ((b"old", 0), (b"old", 0), (b"newer", 1)):
            put(site / "file.bin", data, LONG_AGO + time)
            run(tmp_path, *ARIA2, *options, f"{server.url}/file.bin")
            assert (tmp_path / "file.bin").read_bytes() == data
        requests = stop_and_count(server)
    assert [request.status for request in requests] == [200, 304, 200]
