"""Workers that are somebody else, and confined: also the next ones, and their helpers."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.rig import GUARD, NOBODY, ServerProcess, for_strangers, needs, running_server

from .support import Client, children, eventually, put

pytestmark = needs("nobody")

SECRET = b"for root alone"


@pytest.fixture
def root(place: Path) -> Path:
    put(place / "root/hot", b"hot")
    put(place / "root/folder/name", b"")
    put(place / "secret", SECRET).chmod(0o600)
    os.link(place / "secret", place / "root/secret")
    return place / "root"


@contextmanager
def as_a_stranger(root: Path, *options: str) -> Iterator[ServerProcess]:
    """A server whose workers are nobody, all of which serve."""
    with running_server(
        "--user", str(NOBODY) + ":" + str(NOBODY), *options, root=root, wrap=for_strangers
    ) as server:
        server.wait_for_log(r"\d workers? serves?")
        yield server
        assert server.stop() == 0
        assert "Traceback" not in "\n".join(server.log)


def rights(pid: int) -> dict[str, list[str]]:
    """What a process may do, as proc(5) says it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: fields[name].split() for name in ("Uid", "Gid", "Groups", "CapEff", "NoNewPrivs")}


THOSE_OF_NOBODY = {
    "Uid": [str(NOBODY)] * 4,
    "Gid": [str(NOBODY)] * 4,
    "Groups": [str(NOBODY)],
    "CapEff": ["0" * 16],
    "NoNewPrivs": ["1"],
}


def all_are_nobody(server: ServerProcess) -> bool:
    """Whether the workers, and the helpers that are processes of theirs, have no other rights."""
    workers = children(server.pid)
    below = [helper for worker in workers for helper in children(worker)]
    return all(rights(pid) == THOSE_OF_NOBODY for pid in (*workers, *below))


def get(server: ServerProcess, path: str) -> tuple[int, bytes]:
    with Client(server) as client:
        answer = client.get(path)
        return answer.status, answer.body


def test_by_root_what_root_may_read_is_served(root: Path) -> None:
    """This is what another user is for; and it is said at the start."""
    with running_server(root=root) as server:
        server.wait_for_log(
            "WARNING.*as root it can read every file; --user NAME serves as somebod"
        )
        assert get(server, "/secret") == (200, SECRET)


@pytest.mark.parametrize("helpers", ["thread", "process"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_worker_is_somebody_else(helpers: str, workers: str, root: Path) -> None:
    """Its supervisor is not, which has opened the port."""
    options = ("--workers", workers, "--helpers", helpers, "--listing")
    with as_a_stranger(root, *options) as server:
        assert len(children(server.pid)) == int(workers)
        assert get(server, "/hot") == (200, b"hot")
        assert get(server, "/secret")[0] == 404
        status, listing = get(server, "/folder/")
        assert status == 200
        assert b"name" in listing
        assert all_are_nobody(server)
        assert rights(server.pid)["Uid"] == ["0"] * 4
        log = "\n".join(server.log)
        assert f"serving as {NOBODY}:{NOBODY}, uid {NOBODY}, gid {NOBODY}" in log
        assert f"mincore tells uid {NOBODY} nothing true about files of uid 0" in log
        assert "as root it can" not in log


def test_so_are_those_that_come_after_it(root: Path) -> None:
    """One that replaces a dead one, and those of a restart."""
    with as_a_stranger(root) as server:
        [first] = children(server.pid)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: children(server.pid) not in ([first], []))
        assert get(server, "/hot") == (200, b"hot")
        [second] = children(server.pid)
        assert all_are_nobody(server)
        os.kill(server.pid, signal.SIGHUP)
        server.wait_for_log("all workers are new")
        eventually(lambda: second not in children(server.pid))
        assert get(server, "/secret")[0] == 404
        assert all_are_nobody(server)


@pytest.mark.parametrize("closed", ["folder", "key"])
def test_a_key_of_root_is_renewed_by_sighup(closed: str, place: Path, root: Path) -> None:
    """Debian's /etc/ssl/private is closed to others, and the certificate is beside it."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    leaf = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
    certificate, key = place / "certificate.pem", place / "private/key.pem"
    leaf.cert_chain_pems[0].write_to_path(certificate)
    key.parent.mkdir()
    leaf.private_key_pem.write_to_path(key)
    (key.parent if closed == "folder" else key).chmod(0o700)
    pair = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with as_a_stranger(root, "--workers", "2", *pair) as server:
        said = "INFO.*the certificate is renewed by SIGHUP alone: a worker may not read its files"
        server.wait_for_log(said)
        assert len([line for line in server.log if re.search(said, line)]) == 1
        os.kill(server.pid, signal.SIGHUP)
        server.wait_for_log("all workers are new")


TRIES = """
import os, signal, sys

def outcome(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return error.strerror
    return "opened"

def tell(*_):
    for path in ("/etc/passwd", os.environ["ROOT"] + "/hot"):
        print("tried", path, outcome(path), file=sys.stderr, flush=True)

signal.signal(signal.SIGRTMIN, tell)
"""


@needs("landlock")
@pytest.mark.parametrize("user", [(), ("--user", f"{NOBODY}:{NOBODY}")], ids=["same", "nobody"])
def test_a_worker_opens_nothing_else(
    user: tuple[str, ...], root: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python runs a module of ours in it, which tries when it is told to."""
    put(place / "modules/sitecustomize.py", TRIES.encode())
    monkeypatch.setenv("PYTHONPATH", str(place / "modules"))
    monkeypatch.setenv("ROOT", str(root))
    options = ("--confine", "--listing", *user)
    with running_server(*options, root=root, wrap=for_strangers) as server:
        server.wait_for_log(r"\d workers? serves?")
        server.wait_for_log("confined to what is served, by Landlock")
        [worker] = children(server.pid)
        os.kill(worker, signal.SIGRTMIN)
        server.wait_for_log("tried /etc/passwd Permission denied")
        server.wait_for_log(f"tried {root}/hot opened")
        assert get(server, "/hot") == (200, b"hot")
        assert get(server, "/folder/")[0] == 200


@needs("landlock")
@pytest.mark.parametrize("is_named", [False, True])
def test_a_root_that_is_switched_is_in_a_folder_that_is_named(is_named: bool, place: Path) -> None:
    for name in ("one", "two"):
        put(place / "releases" / name / "file", name.encode())
    current = place / "current"
    current.symlink_to("releases/one")
    more = (str(place / "releases"),) if is_named else ()
    with running_server("--confine", *more, "--revalidate", "0", root=current) as server:
        assert get(server, "/file") == (200, b"one")
        (place / "next").symlink_to("releases/two")
        (place / "next").rename(current)
        expected = (200, b"two") if is_named else (404, b"404 Not Found\n")
        eventually(lambda: get(server, "/file") == expected)
        if not is_named:
            server.wait_for_log("may not read it; see chmod.1. and --confine")


def test_check_looks_as_who_would_serve(root: Path) -> None:
    argv = [sys.executable, "-m", "trio_amped", "check", f"--root={root}", "--listing"]
    argv += [f"--user={NOBODY}:{NOBODY}", "--port=0"]
    done = subprocess.run(for_strangers(argv), capture_output=True, text=True, timeout=GUARD)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[2:] == [
        f"odd: {root} has 2 files of other users, where the kernel does not say what is in "
        "memory; see chown(1): hot, folder/name",
        f"odd: {root} has 1 file that the server may not read; see chmod(1): secret",
    ]
