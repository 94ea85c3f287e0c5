"""Several workers: who gets requests, and what becomes of them when processes come and go."""

import errno
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.real.crowd import Crowd
from tests.real.support import (
    KIB,
    MIB,
    Client,
    children,
    connections,
    content,
    eventually,
    ignores,
    put,
    stop_process,
    watched,
)
from tests.rig import GUARD, REPOSITORY, ServerProcess, fuse_disk, needs, running_server
from trio_amped.config import Config
from trio_amped.listening import Opened, beside, close_all
from trio_amped.supervisor import listen, usable_processors
from trio_amped.worker_process import Worker

SIZE = 4 * MIB
WARNING = "WARNING (?!as root it can)"  # which is no fault of a test that is run by root
FINISHING = r"SIG\w+: finishing what is being sent, at most \d+ s; once more stops at once"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "root/big", content(SIZE))
    put(tmp_path / "root/small", b"small")
    return tmp_path / "root"


# The program, whose supervisor kills no worker that is only slow: a busy machine makes it so.
PATIENT = """if True:
    import sys
    from trio_amped import cli, worker_process
    worker_process._LATE = 600.0
    worker_process._STARTING = 600
    worker_process._STILL = 600
    sys.exit(cli.main())
"""

# The same, which kills at once those that have not ended in their time.
IMPATIENT = PATIENT.replace("600.0", "0.1")

# The same, which kills those that say nothing for three seconds.
ALERT = PATIENT.replace("_STILL = 600", "_STILL = 3")


@contextmanager
def running_workers(
    *options: str, root: Path, program: tuple[str, ...] = (sys.executable, "-c", PATIENT)
) -> Iterator[ServerProcess]:
    """A server with two workers, which both serve."""
    with running_server("--workers", "2", *options, root=root, program=program) as server:
        server.wait_for_log("2 workers serve")
        yield server


def workers(server: ServerProcess) -> list[int]:
    """The processes of the two workers."""
    eventually(lambda: len(children(server.pid)) == 2)
    return children(server.pid)


@contextmanager
def clients_of_all(server: ServerProcess) -> Iterator[list[Client]]:
    """As many clients as it takes until each worker has one; each has asked once, for /small."""
    clients: list[Client] = []
    with ExitStack() as stack:
        while not all(map(connections, workers(server))):
            clients.append(stack.enter_context(Client(server)))
            assert clients[-1].get("/small").body == b"small"
        yield clients


@contextmanager
def a_client_of_each(server: ServerProcess, receive_buffer: int = 0) -> Iterator[dict[int, Client]]:
    """One client for each worker, by the worker's process; each has had the head of /big.

    The kernel chooses who gets a connection: we try until all have one.
    """
    processes = workers(server)
    with ExitStack() as stack:
        found: dict[int, Client] = {}
        while len(found) < len(processes):
            before = {pid: connections(pid) for pid in processes}
            client = stack.enter_context(Client(server, receive_buffer=receive_buffer))
            client.ask("/big")
            assert client.head().status == 200
            [pid] = [pid for pid in processes if connections(pid) > before[pid]]
            if pid not in found:
                found[pid] = client
                continue
            client.reset()
            eventually(lambda: {pid: connections(pid) for pid in processes} == before)  # noqa: B023
        yield found


def finishes(client: Client) -> bool:
    """Whether what `a_client_of_each` has asked for comes, and then the end."""
    return client.take(SIZE) == content(SIZE) and client.has_ended()


def answers(server: ServerProcess, count: int) -> bool:
    """Whether so many clients, one after the other, get the small file."""
    for _ in range(count):
        with Client(server) as client:
            if client.get("/small").body != b"small":
                return False
    return True


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), GUARD).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # closed at this very moment
        return False
    return False


def lines(server: ServerProcess, pattern: str) -> list[str]:
    return [line for line in server.log if re.search(pattern, line)]


class Downloads(Crowd):
    """Clients that ask for all of /big again and again, on new connections and on kept ones."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(server, 2)

    path, expected = "/big", content(SIZE)


# ---------------------------------------------------------------- who serves


@pytest.mark.parametrize("options", [[], ["--no-fast-lane"]])
def test_every_worker_gets_requests_and_signs_its_lines(root: Path, options: list[str]) -> None:
    with running_workers("--log-level", "debug", *options, root=root) as server:
        with clients_of_all(server) as clients:
            assert len(clients) >= 2
        server.wait_for_log(r"DEBUG +worker 1: GET /small")
        server.wait_for_log(r"DEBUG +worker 2: GET /small")


def test_it_says_once_where_and_how_it_serves(root: Path) -> None:
    with running_workers("--error-page", "404=/missing.html", root=root) as server:
        assert server.stop() == 0
    address, gate, page, count, *_ = (line for line in server.log if "as root" not in line)
    assert address.endswith(f"INFO    serving {root} at {server.url}/")
    assert "INFO    gate " in gate
    assert "the page missing.html is not used" in page
    assert count.endswith("INFO    2 workers serve")
    for once in ("serving ", "gate ", "the page ", *["as root "] * (os.geteuid() == 0)):
        assert len(lines(server, once)) == 1


@pytest.mark.parametrize("options", [[], ["--workers", "1"]])
def test_one_worker_has_no_supervisor(root: Path, options: list[str]) -> None:
    with running_server(*options, root=root) as server, Client(server) as client:
        assert client.get("/small").body == b"small"
        assert children(server.pid) == []
        assert not lines(server, r"worker \d|workers serve")


def test_their_counters_are_added_up(root: Path) -> None:
    with running_workers(root=root) as server:
        with clients_of_all(server) as clients:
            assert server.stop() == 0
            count = len(clients)
        server.wait_for_log(
            rf"stopped; {count} requests, [1-9]\d* bytes, [1-9]\d* resident .*[a-z]$"
        )
        assert not lines(server, "not counted")


# ---------------------------------------------------------------- where they listen


def addresses_here() -> list[str]:
    """The addresses of this machine's loopback; many a container has no IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return ["127.0.0.1"]
    return ["127.0.0.1", "::1"]


@pytest.mark.parametrize("host", addresses_here())
async def test_all_workers_listen_at_the_same_address(host: str) -> None:
    """Any free one for the first is that of the others."""
    listeners = [one.sock for [one] in await listen(Config(host=host, port=0), 3)]
    assert len({listener.getsockname() for listener in listeners}) == 1
    assert listeners[0].getsockname()[1] != 0
    for listener in listeners:
        listener.close()


async def test_without_descriptors_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sockets for some workers, and of the file at which they were to listen."""
    opened: list[Opened] = []

    def refuse_the_third(first: Opened) -> Opened:
        if len(opened) == 2:
            raise OSError(errno.EMFILE, "Too many open files")
        opened.append(beside(first))
        return opened[-1]

    monkeypatch.setattr("trio_amped.rebinding.beside", refuse_the_third)
    with pytest.raises(OSError, match="Too many open files"):
        await listen(Config(bind=[f"unix:{tmp_path}/socket"]), 4)
    assert os.listdir(tmp_path) == []
    assert [each.sock.fileno() for each in opened] == [-1, -1]


async def test_every_address_of_a_name_has_a_listener_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def open_two(port: int, *, host: str) -> list[trio.SocketListener]:
        one = await open_really(0, host="127.0.0.1")
        return [*one, *await open_really(0, host="127.0.0.2")]

    open_really = trio.open_tcp_listeners
    monkeypatch.setattr(trio, "open_tcp_listeners", open_two)
    found = await listen(Config(host="both", port=0), 2)
    names = [[opened.sock.getsockname() for opened in each] for each in found]
    assert names[0] == names[1]
    assert [host for host, _ in names[0]] == ["127.0.0.1", "127.0.0.2"]
    for each in found:
        close_all(each)


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line that ends by itself."""
    argv = [sys.executable, "-m", "trio_amped", "--workers", "2", *options]
    paths = [environment.pop("PYTHONPATH", ""), str(REPOSITORY)]
    there = os.environ | environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(argv, env=there, capture_output=True, text=True, timeout=GUARD)


def only_line(*options: str) -> str:
    """The one line on stderr of a server that cannot start."""
    done = run(*options)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("trio-amped: error: ")
    return line.removeprefix("trio-amped: error: ")


def test_a_missing_root(root: Path) -> None:
    says = only_line("--port", "0", "--root", f"{root}/missing")
    assert says == (
        f"cannot serve {root}/missing: No such file or directory; "
        "give a readable folder with --root"
    )


def test_a_port_in_use(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        says = only_line("--port", port, "--root", str(root))
    assert says.startswith(f"cannot listen on 127.0.0.1:{port}: Address already in use; ")


def test_the_port_of_another_server_with_workers_is_in_use(root: Path) -> None:
    """The kernel would let it join the other's listeners, and give it some of the requests."""
    with running_workers(root=root) as server:
        says = only_line("--port", str(server.port), "--root", str(root))
        assert says.startswith(
            f"cannot listen on 127.0.0.1:{server.port}: Address already in use; "
        )


# ---------------------------------------------------------------- workers that die


@pytest.mark.parametrize("options", [[], ["--no-fast-lane"]])
def test_what_is_queued_on_a_worker_that_is_killed_is_served_by_the_next(
    root: Path, options: list[str]
) -> None:
    with running_workers(*options, root=root) as server, ExitStack() as stack:
        victim, other = workers(server)
        stop_process(victim)
        clients = [stack.enter_context(Client(server)) for _ in range(40)]
        for client in clients:
            client.ask("/small")
        eventually(lambda: 0 < connections(other) == sum(client.has_answer() for client in clients))
        queued = [client for client in clients if not client.has_answer()]
        assert queued
        assert len(queued) < len(clients)
        os.kill(victim, signal.SIGKILL)
        for client in clients:
            assert client.answer().body == b"small"
        server.wait_for_log(
            rf"ERROR +worker \d: process {victim} was killed by SIGKILL; the next one in 0.1 s"
        )
        assert other in workers(server)
        assert victim not in workers(server)
        assert server.stop() == 0
        server.wait_for_log(r"stopped; 40 requests, .*; not counted: 1 dead workers$")


def test_a_worker_that_is_killed_does_not_concern_the_others(root: Path) -> None:
    with running_workers(root=root) as server, a_client_of_each(server, 64 * KIB) as clients:
        victim, other = clients
        os.kill(victim, signal.SIGKILL)
        assert len(clients[victim].take(SIZE)) < SIZE
        assert clients[other].take(SIZE) == content(SIZE)
        assert clients[other].get("/small").body == b"small"
        eventually(lambda: victim not in children(server.pid))  # it is no zombie
        assert other in workers(server)


@pytest.fixture
def saboteur(tmp_path: Path) -> Path:
    """A directory for PYTHONPATH, where workers find the file `how`, and what to do at once."""
    put(
        tmp_path / "sabotage/sitecustomize.py",
        b"import os, pathlib, sys\n"
        b"how = pathlib.Path(__file__).with_name('how')\n"
        b"if 'trio_amped.worker' in sys.orig_argv and how.exists():\n"
        b"    exec(how.read_text())\n",
    )
    return tmp_path / "sabotage"


# Each worker ends by the first line of the file `ends`, and leaves the others to its successors.
END_IN_TURN = b"""if True:
    ends = how.with_name("ends")
    ours, _, theirs = ends.read_text().partition("\\n")
    ends.write_text(theirs)
    exec(ours)
"""
ENDS = (
    ("os._exit(9)", "ended with status 9"),
    ("os._exit(0)", "ended with status 0"),
    ("os.kill(os.getpid(), 11)", "was killed by SIGSEGV"),
    ("os._exit(0)", "ended with status 0"),
    ("os._exit(9)", "ended with status 9"),
)


def test_workers_that_cannot_start_end_it_with_1(root: Path, saboteur: Path) -> None:
    """However they end."""
    put(saboteur / "how", END_IN_TURN)
    put(saboteur / "ends", "\n".join(statement for statement, _ in ENDS).encode())
    done = run("--port", "0", "--root", str(root), PYTHONPATH=str(saboteur))
    assert done.returncode == 1
    *failures, last, given_up, stopped = done.stderr.splitlines()
    assert [line.rpartition("; ")[2] for line in failures] == [
        f"the next one in {seconds} s" for seconds in ("0.1", "0.2", "0.4", "0.8")
    ]
    for line, (_, end) in zip((*failures, last), ENDS, strict=True):
        assert re.search(rf"ERROR +worker 1: process \d+ {end}", line)
    assert given_up.endswith("ERROR   5 workers in a row ended at once: given up")
    assert "stopped; 0 requests" in stopped


def test_workers_that_begin_to_die_end_it_with_1(
    root: Path, saboteur: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(saboteur))
    with running_workers(root=root) as server:
        put(saboteur / "how", b"os._exit(9)")
        for pid in workers(server):
            os.kill(pid, signal.SIGKILL)
        assert server.process.wait(GUARD) == 1
        server.wait_for_log("10 workers in a row ended at once: given up")


async def test_a_worker_has_lasted_when_it_has_served_for_long(
    mock_clock: trio.testing.MockClock,
) -> None:
    """However long it took to start, or to fail."""
    worker = Worker()
    mock_clock.jump(1000)
    assert not worker.has_lasted()
    worker._hear(b'{"serving": true}')
    mock_clock.jump(9.9)
    assert not worker.has_lasted()
    mock_clock.jump(0.2)
    assert worker.has_lasted()


def test_a_worker_that_cannot_serve_any_more_says_why(root: Path) -> None:
    with running_workers(root=root) as server:
        victim, other = workers(server)
        root.rename(root.with_name("elsewhere"))
        os.kill(victim, signal.SIGKILL)
        server.wait_for_log(rf"worker \d: cannot serve {root}: No such file or directory; ")
        root.with_name("elsewhere").rename(root)
        assert other in workers(server)


def test_a_worker_whose_loop_stands_still_tells_its_stacks_and_is_replaced(
    root: Path, saboteur: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal makes it spin in its event loop, with the GIL in its hands."""
    monkeypatch.setenv("PYTHONPATH", str(saboteur))
    put(saboteur / "how", b"import signal; signal.signal(14, lambda *_: [1 for _ in iter(int, 1)])")
    with running_workers(root=root, program=(sys.executable, "-c", ALERT)) as server:
        victim, other = workers(server)
        os.kill(victim, signal.SIGALRM)
        server.wait_for_log(
            rf"worker \d: process {victim} stood still for 3 s, and was killed; the next one in "
        )
        assert lines(server, r"most recent call first")
        assert lines(server, r'File ".*trio/_core/_run.py", line \d+ in run')
        assert other in workers(server)
        eventually(lambda: len(workers(server)) == 2 and victim not in workers(server))


def test_a_worker_that_was_stopped_is_replaced(root: Path) -> None:
    """What is queued on it is served by the next."""
    with running_workers(root=root, program=(sys.executable, "-c", ALERT)) as server:
        victim, _ = workers(server)
        stop_process(victim)
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(server)) for _ in range(20)]
            for client in clients:
                client.ask("/small")
            for client in clients:
                assert client.answer().body == b"small"
        server.wait_for_log(f"process {victim} stood still for 3 s, and was killed")
        assert victim not in children(server.pid)


def test_workers_are_not_blamed_for_a_supervisor_that_stood_still(root: Path) -> None:
    with running_workers(root=root, program=(sys.executable, "-c", ALERT)) as server:
        before = workers(server)
        stop_process(server.pid)
        start = time.monotonic()
        eventually(lambda: time.monotonic() > start + 6)
        server.process.send_signal(signal.SIGCONT)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("all workers are new")
        assert not lines(server, f"ERROR|{WARNING}")
        eventually(lambda: not set(before) & set(children(server.pid)))


@needs("fuse")
def test_a_successor_that_hangs_with_its_root_blocks_nobody(tmp_path: Path) -> None:
    put(tmp_path / "backing/small", b"small")
    program = (sys.executable, "-c", PATIENT.replace("_STARTING = 600", "_STARTING = 3"))
    with (
        fuse_disk(tmp_path, tmp_path / "backing") as disk,
        running_workers(root=disk.path, program=program) as server,
    ):
        before = workers(server)
        disk.hang("getattr", "open")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log(r"worker 1: process \d+ did not serve after 3 s, and was killed")
        server.wait_for_log("worker 1 is not renewed: its successor does not serve")
        os.kill(before[0], signal.SIGKILL)
        server.wait_for_log(rf"worker \d: process {before[0]} was killed by SIGKILL; the next one")
        server.wait_for_log(r"did not serve after 3 s, and was killed; the next one")
        disk.release()
        eventually(lambda: answers(server, 20))


# ---------------------------------------------------------------- a rolling restart


@pytest.mark.parametrize("count", [5, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("options", [[], ["--no-fast-lane"]])
def test_rolling_restarts_lose_no_request(root: Path, options: list[str], count: int) -> None:
    with running_workers(*options, root=root) as server:
        before = workers(server)
        with Crowd(server) as crowd, Downloads(server) as downloads:
            for number in range(1, count + 1):
                server.process.send_signal(signal.SIGHUP)
                eventually(lambda: len(lines(server, "all workers are new")) == number)  # noqa: B023
        assert crowd.failures == []
        assert downloads.failures == []
        assert len(crowd.answers) > 2 * count
        eventually(lambda: not set(before) & set(children(server.pid)))
        assert len(workers(server)) == 2
        assert server.stop() == 0
        total = len(crowd.answers) + len(downloads.answers)
        server.wait_for_log(rf"stopped; {total} requests, .*[a-z]$")


@pytest.mark.parametrize("options", [[], ["--no-fast-lane"]])
def test_downloads_go_on_through_several_restarts(root: Path, options: list[str]) -> None:
    """They take longer than a drain may."""
    with (
        running_workers("--drain-timeout", "0.1", *options, root=root) as server,
        a_client_of_each(server, 64 * KIB) as clients,
    ):
        for number in range(1, 5):
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda: len(lines(server, "all workers are new")) == number)  # noqa: B023
        for client in clients.values():
            assert client.take(SIZE) == content(SIZE)
            last = client.get("/small")
            assert (last.body, last.fields["connection"]) == (b"small", "close")
            assert client.has_ended()
        eventually(lambda: not set(clients) & set(children(server.pid)))
        assert not lines(server, f"ERROR|{WARNING}|Traceback")


def test_a_transfer_under_way_is_finished_by_the_old_worker(root: Path) -> None:
    with running_workers(root=root) as server, a_client_of_each(server, 64 * KIB) as clients:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("all workers are new")
        with watched(list(clients)) as have_ended:
            for client in clients.values():
                assert client.take(SIZE) == content(SIZE)
                assert client.get("/small").fields["connection"] == "close"
                assert client.has_ended()
            assert have_ended()
        assert not set(workers(server)) & set(clients)
        assert len(lines(server, r"serving .* at http")) == 2  # and what has become of the gate


def test_a_successor_that_does_not_serve_replaces_nobody(
    root: Path, saboteur: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(saboteur))
    with running_workers(root=root) as server:
        before = workers(server)
        put(saboteur / "how", b"os._exit(9)")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("worker 1: process [0-9]+ ended with status 9$")
        server.wait_for_log("worker 1 is not renewed: its successor does not serve")
        assert workers(server) == before
        (saboteur / "how").unlink()
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("all workers are new")
        with Client(server) as client:
            assert client.get("/small").body == b"small"


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_drains_all_workers(root: Path, number: signal.Signals, to_all: bool) -> None:
    """A terminal sends it to the workers as well, and so do some service managers."""
    with running_workers(root=root) as server:
        with a_client_of_each(server, 64 * KIB) as clients, watched(list(clients)) as have_ended:
            assert all(ignores(pid, each) for pid in clients for each in (number, signal.SIGHUP))
            (os.killpg if to_all else os.kill)(server.pid, number)
            server.wait_for_log(FINISHING)
            eventually(lambda: refuses(server.port))
            for client in clients.values():
                assert finishes(client)
            assert server.process.wait(GUARD) == 0
            assert have_ended()
        server.wait_for_log("stopped; [0-9]+ requests")
        assert len(lines(server, FINISHING)) == 1
        assert not lines(server, f"ERROR|{WARNING}|Traceback|not counted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(root: Path, number: signal.Signals) -> None:
    with running_workers(root=root) as server:
        with a_client_of_each(server, 64 * KIB) as clients, watched(list(clients)) as have_ended:
            os.killpg(server.pid, number)
            server.wait_for_log(FINISHING)
            os.killpg(server.pid, number)
            assert server.process.wait(GUARD) == 0
            assert have_ended()
            for client in clients.values():
                assert len(client.take(SIZE)) < SIZE
        server.wait_for_log("stopped; [0-9]+ requests.*[a-z]$")
        assert not lines(server, f"ERROR|{WARNING}|Traceback|not counted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_is_deaf_to_signals_from_its_very_start(
    root: Path, saboteur: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Before it can ignore them: Python has not even imported us."""
    monkeypatch.setenv("PYTHONPATH", str(saboteur))
    os.mkfifo(saboteur / "gate")
    with running_workers(root=root) as server:
        put(saboteur / "how", b"how.with_name('gate').read_bytes()")
        server.process.send_signal(signal.SIGHUP)
        with (saboteur / "gate").open("wb"):  # waits until the successor is there
            os.killpg(server.pid, number)
            server.wait_for_log(FINISHING)
        assert server.process.wait(GUARD) == 0
        assert not lines(server, "Traceback|ERROR|not counted")


def test_a_worker_that_does_not_end_is_killed(root: Path) -> None:
    with running_workers(root=root, program=(sys.executable, "-c", IMPATIENT)) as server:
        victim, other = workers(server)
        stop_process(victim)
        with watched([other]) as has_ended:
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_log(FINISHING)
            assert has_ended()  # it has nothing to finish
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(GUARD) == 0
        server.wait_for_log(rf"worker \d: process {victim} had to be killed")
        server.wait_for_log("not counted: 1 dead workers")


def test_workers_end_with_their_supervisor(root: Path) -> None:
    """They finish what they send."""
    with running_workers(root=root) as server:
        with a_client_of_each(server, 64 * KIB) as clients, watched(list(clients)) as have_ended:
            server.process.kill()
            server.wait_for_log("worker 1: the supervisor has ended: finishing what is being sent")
            server.wait_for_log("worker 2: the supervisor has ended: finishing what is being sent")
            eventually(lambda: refuses(server.port))
            for client in clients.values():
                assert finishes(client)
            assert have_ended()
        assert not lines(server, "Traceback")


def test_workers_that_start_end_with_their_supervisor(root: Path) -> None:
    with running_server("--workers", "2", root=root) as server:
        with watched(children(server.pid)) as have_ended:
            server.process.kill()
            assert have_ended()
        assert not lines(server, "Traceback")


# ---------------------------------------------------------------- auto


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 6),
        ({"a/b": "max 100000"}, 6),
        ({"a/b": "250000 100000"}, 3),
        ({"a/b": "10000 100000"}, 1),
        ({"a/b": "max 100000", "a": "200000 100000"}, 2),
        ({"a/b": "900000 100000", "": "800000 100000"}, 6),
    ],
)
def test_auto_is_the_processors_that_it_may_use(
    limits: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    ours = put(tmp_path / "ours", b"4:memory:/x\n0::/a/b\n")
    for group, limit in limits.items():
        put(tmp_path / "groups" / group / "cpu.max", f"{limit}\n".encode())
    assert usable_processors(tmp_path / "groups", ours) == expected


def test_auto_runs(root: Path) -> None:
    with running_server("--workers", "auto", root=root) as server:
        count = usable_processors()
        if count > 1:
            server.wait_for_log(f"{count} workers serve")
        assert len(children(server.pid)) == (count if count > 1 else 0)


@pytest.mark.parametrize("host", addresses_here())
async def test_all_listeners_are_alike(host: str) -> None:
    """As far as whoever comes can tell: else it would depend on the kernel who is let in."""
    bind = "[::]:0,ipv6only" if ":" in host else f"{host}:0"  # else: "::" is for IPv4 as well
    opened = await listen(Config(bind=[bind]), 3)
    options = [
        (socket.SOL_SOCKET, socket.SO_REUSEADDR),
        (socket.SOL_SOCKET, socket.SO_REUSEPORT),
        *[(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)] * (":" in host),
    ]
    found = set()
    for each in itertools.chain.from_iterable(opened):
        with each.sock as listener:
            values = [listener.getsockopt(*option) for option in options]
            found.add((listener.getsockname(), *values))
    ((_, *values),) = found
    assert all(values)
