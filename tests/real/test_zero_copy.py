"""A large file that is in memory goes from the page cache to the socket, and nowhere else."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import ServerProcess, load, needs, running_server

from .support import MIB, SIZES, SMALL, WINDOW, Client, Trace, content, traced

pytestmark = needs("root", "strace")  # root: mincore is the gate, which reads nothing

_RECEIVING = ("recvfrom", "recvmsg", "recvmmsg")
_SENDING = ("sendto", "sendmsg", "sendmmsg", "write", "writev", "sendfile", "splice")
_READING = ("read", "readv", "pread64", "preadv", "preadv2", "io_submit", "copy_file_range")
_MAPPING = ("mmap", "madvise")
_ALL = (*_RECEIVING, *_SENDING, *_READING, *_MAPPING, "fstat", "accept4")


@pytest.fixture(scope="module", autouse=True)
def resident(site: Path) -> None:
    for size in SIZES:
        load(site / f"{size}.bin")


def trace_of_get(server: ServerProcess, path: str, *fields: str) -> tuple[Trace, bytes]:
    """The system calls of a request, for a file that was asked for before."""
    with Client(server) as client:
        assert client.get(path, *fields).status in (200, 206)
        with traced(server, *_ALL) as trace:
            body = client.get(path, *fields).body
            client.get("/", method="OPTIONS")  # answered after the calls that we want
    (end,) = (number for number, call in enumerate(trace.calls) if '"OPTIONS /' in call)
    del trace.calls[end:]
    return trace, body


def to_client(trace: Trace) -> list[str]:
    """The calls that send something to a TCP client."""
    return [call for call in trace.of(*_SENDING) if re.match(r"\w+\(\d+<TCP:", call)]


def of_file(trace: Trace, size: int) -> list[str]:
    """The calls that have to do with the contents of a file, but for sendfile."""
    calls = trace.of(*_READING, *_MAPPING)
    return [call for call in calls if f"/{size}.bin>" in call]


def windows(calls: list[str]) -> list[tuple[int, int, int]]:
    """Offset, length and result of sendfile calls."""
    pattern = r"sendfile\(.*>, \[(\d+)\](?: => \[\d+\])?, (\d+)\) = (\d+)"
    found = [re.fullmatch(pattern, call) for call in calls]
    assert all(found), calls
    return [(int(m[1]), int(m[2]), int(m[3])) for m in found if m]


@pytest.fixture(scope="module")
def plain(site: Path) -> Iterator[ServerProcess]:
    """A server whose requests tasks answer, by h11."""
    with running_server("--no-fast-lane", root=site) as server:
        yield server


@pytest.mark.parametrize("size", [WINDOW, WINDOW + 1, 5 * MIB])
def test_the_fast_lane_uses_sendfile_as_well(server: ServerProcess, size: int) -> None:
    trace, body = trace_of_get(server, f"/{size}.bin")
    assert body == content(size)
    head, *rest = to_client(trace)
    assert re.search(r'"HTTP/1\.1 200 OK\\r\\n.*MSG_MORE', head)
    sent = windows([call for call in rest if "= -1 EAGAIN" not in call])
    assert sum(count for _, _, count in sent) == size
    assert all("PROT_NONE" in call for call in of_file(trace, size))


@pytest.mark.parametrize("size", [SMALL + 1, WINDOW, WINDOW + 1, 5 * MIB])
def test_a_large_file_goes_by_sendfile_in_windows(plain: ServerProcess, size: int) -> None:
    trace, body = trace_of_get(plain, f"/{size}.bin")
    assert body == content(size)
    head, *rest = to_client(trace)
    assert re.search(r'"HTTP/1\.1 200 OK\\r\\n.*MSG_MORE', head)
    offset = 0
    blocked = re.compile(r"= -1 EAGAIN")
    for start, asked, sent in windows([call for call in rest if not blocked.search(call)]):
        assert start == offset
        assert asked <= WINDOW
        assert start // WINDOW == (start + asked - 1) // WINDOW, "a part of two windows"
        offset += sent
    assert offset == size
    # The one mapping is mincore's, which nobody can read through.
    assert all("PROT_NONE" in call for call in of_file(trace, size))


def test_a_large_range_goes_by_sendfile(server: ServerProcess) -> None:
    first, last = WINDOW // 2, 2 * WINDOW + 9
    trace, body = trace_of_get(server, f"/{5 * MIB}.bin", f"Range: bytes={first}-{last}")
    assert body == content(5 * MIB)[first : last + 1]
    calls = [call for call in to_client(trace) if "EAGAIN" not in call]
    assert "MSG_MORE" in calls[0]
    sent = windows(calls[1:])
    assert sent[0][0] == first
    assert sum(count for _, _, count in sent) == len(body)
    assert all("PROT_NONE" in call for call in of_file(trace, 5 * MIB))


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL])
def test_a_small_file_goes_in_one_send_with_its_head(server: ServerProcess, size: int) -> None:
    trace, body = trace_of_get(server, f"/{size}.bin")
    assert body == content(size)
    (call,) = to_client(trace)
    sent = re.fullmatch(
        r'sendto\(.*"HTTP/1\.1 200 OK\\r\\n.*, (\d+), (\w+), NULL, 0\) = (\d+)', call
    )
    assert sent
    assert sent[1] == sent[3]
    assert int(sent[1]) > size
    assert sent[2] == "0"
