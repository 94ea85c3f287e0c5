"""A disk that hangs costs helpers, and never the event loop."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.rig import (
    GUARD,
    FuseDisk,
    ServerProcess,
    fuse_disk,
    load,
    loop_ext4,
    needs,
    running_server,
)

from .support import (
    KIB,
    MIB,
    Client,
    content,
    descriptors,
    eventually,
    evict,
    first_with_answer,
    helper_processes,
    put,
    watched,
)

pytestmark = needs("fuse")

# While anything on the machine is renamed or mounted, a helper may have to look where a name leads:
# without, what is in memory needs none.
NO_LOOKUPS = ("--precompressed", "none", "--revalidate", "1000")
SLOW = content(MIB)
SLOW_FILES = 6
HOT_SMALL, HOT_LARGE = content(KIB), content(2 * MIB)


@pytest.fixture
def disk(place: Path) -> Iterator[FuseDisk]:
    """A FUSE disk that is mounted below a root on a good one; `<mount>/slow` is on it."""
    put(place / "backing/slow", SLOW)
    for number in range(SLOW_FILES):
        put(place / f"backing/slow-{number}", SLOW)
    root = place / "root"
    put(root / "hot", HOT_SMALL)
    put(root / "large", HOT_LARGE)
    with fuse_disk(root, place / "backing") as disk:
        yield disk


@contextmanager
def server_above(disk: FuseDisk, *options: str) -> Iterator[ServerProcess]:
    """A server for the folder that the disk is mounted in, which has seen each file once."""
    with running_server(*options, root=disk.path.parent) as server:
        with Client(server) as client:
            assert client.get(slow(disk)).body == SLOW
        assert_hot(server)
        evict(disk.path / "slow")
        yield server


@contextmanager
def impatient_server_above(disk: FuseDisk, *options: str) -> Iterator[ServerProcess]:
    """The same, which gives the disk 0.2 s: on a busy machine a good disk may need longer."""
    options = ("--disk-timeout", "0.2", *NO_LOOKUPS, *options)
    with running_server(*options, root=disk.path.parent) as server:
        with Client(server) as client:
            for path in (slow(disk), "/hot", "/large"):
                eventually(lambda path=path: client.get(path).status == 200)  # type: ignore[misc]
        assert_hot(server)
        evict(disk.path / "slow")
        yield server


def slow(disk: FuseDisk) -> str:
    return f"/{disk.path.name}/slow"


def each_slow(disk: FuseDisk) -> list[str]:
    """Paths that no two share a helper for."""
    return [f"{slow(disk)}-{number}" for number in range(SLOW_FILES)]


def assert_hot(server: ServerProcess) -> None:
    """What is in memory is answered, in all its forms."""
    with Client(server) as client:
        for _ in range(3):
            assert client.get("/hot").body == HOT_SMALL
            assert client.get("/large").body == HOT_LARGE
            assert client.get("/large", "Range: bytes=9-99").body == HOT_LARGE[9:100]
            assert client.get("/hot", method="HEAD").status == 200
        assert client.get("/../x").status == 400


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as clients:
        yield clients


def ask(clients: ExitStack, server: ServerProcess, path: str, count: int) -> list[Client]:
    """So many clients that have asked, and wait."""
    return ask_each(clients, server, [path] * count)


def ask_each(
    clients: ExitStack, server: ServerProcess, paths: Sequence[str], method: str = "GET"
) -> list[Client]:
    """A client for each path, which has asked for that, and waits."""
    asking = [clients.enter_context(Client(server)) for _ in paths]
    for client, path in zip(asking, paths, strict=True):
        client.ask(path, method=method)
    return asking


@pytest.mark.parametrize("helpers", ["thread", "process"])
@pytest.mark.parametrize("operation", ["getattr", "open", "read"])
def test_hot_requests_go_on(
    disk: FuseDisk, clients: ExitStack, operation: str, helpers: str
) -> None:
    with server_above(disk, "--helpers", helpers) as server:
        disk.hang(operation)  # type: ignore[arg-type]
        asking = ask(clients, server, slow(disk), 4)
        disk.wait_hanging(1)
        assert_hot(server)
        assert not any(client.has_answer() for client in asking)
        disk.release()
        assert all(client.answer().body == SLOW for client in asking)


@pytest.mark.parametrize("operation", ["open", "read"])
def test_names_that_the_kernel_knows_are_no_reason_to_go_there(
    place: Path, clients: ExitStack, operation: str
) -> None:
    """With its names in the kernel's caches, an open from them asks the disk all the same."""
    put(place / "backing/slow", SLOW)
    put(place / "root/hot", HOT_SMALL)
    put(place / "root/large", HOT_LARGE)
    with (
        fuse_disk(place / "root", place / "backing", attr_timeout=9999, entry_timeout=9999) as disk,
        server_above(disk) as server,
    ):
        disk.hang(operation)  # type: ignore[arg-type]
        asking = ask(clients, server, slow(disk), 2)
        disk.wait_hanging(1)
        assert_hot(server)
        disk.release()
        assert all(client.answer().body == SLOW for client in asking)


@pytest.mark.parametrize("operation", ["getattr", "read"])
def test_a_disk_that_hangs_amid_a_body(disk: FuseDisk, clients: ExitStack, operation: str) -> None:
    """The file is open already; even an fstat of it may wait."""
    size = 8 * MIB
    put(disk.backing / "large", content(size))
    with server_above(disk) as server, ThreadPoolExecutor(1) as thread:
        client = clients.enter_context(Client(server, receive_buffer=16 * KIB))
        client.ask(f"/{disk.path.name}/large")
        assert client.head().status == 200
        disk.hang(operation)  # type: ignore[arg-type]
        body = thread.submit(client.take, size)
        if operation == "read":
            disk.wait_hanging(1)
        assert_hot(server)
        disk.release()
        assert body.result() == content(size)
        assert_hot(server)


def test_a_close_that_hangs_costs_helpers(disk: FuseDisk, clients: ExitStack) -> None:
    """close waits for flush, also the close of a helper's own descriptor of the file."""
    with server_above(disk) as server:
        disk.hang("flush")
        (client,) = ask(clients, server, slow(disk), 1)
        disk.wait_hanging(1)
        with Client(server) as other:
            assert other.get("/hot").body == HOT_SMALL
        disk.release()
        assert client.answer().body == SLOW
        eventually(lambda: not [d for d in descriptors(server.pid) if d.endswith("/slow")])


def test_our_own_close_may_hang_as_well(disk: FuseDisk) -> None:
    """HEAD: a helper opens it, and closes its own descriptor; the one it handed over is ours."""
    with server_above(disk) as server, Client(server) as client:
        disk.hang("flush")
        assert client.get(slow(disk), method="HEAD").status == 200
        disk.wait_hanging(2)
        assert client.get("/hot").body == HOT_SMALL
        assert client.get("/large").body == HOT_LARGE
        disk.release()
        eventually(lambda: not [d for d in descriptors(server.pid) if d.endswith("/slow")])


VIEWS = [
    (f"?sort={sort}&order={order}", f"Accept: {kind}")
    for sort in ("name", "size", "time")
    for order in ("asc", "desc")
    for kind in ("text/html", "application/json")
]


@contextmanager
def listing_server_above(disk: FuseDisk, patience: str) -> Iterator[ServerProcess]:
    """A server that shows directories: two on the disk, and one beside it."""
    for name in ("a", "b"):
        put(disk.backing / name / "file", b"1")
    put(disk.path.parent / "well/file", b"1")
    options = ("--listing", "--disk-timeout", patience, *NO_LOOKUPS)
    with running_server(*options, root=disk.path.parent) as server, Client(server) as client:
        # While its helpers start, and on a busy machine, a good disk may take longer.
        eventually(lambda: client.get("/well/").status == 200)
        yield server


def test_all_views_of_a_directory_that_hangs_cost_one_helper(
    disk: FuseDisk, clients: ExitStack
) -> None:
    """Each client has its 503, and only the first view was ever begun: not even HEAD waits for more
    than that. What nobody waits for any more is never begun."""
    with listing_server_above(disk, "0.5") as server:
        disk.hang("readdir")
        before = disk.counts().get("readdir", 0)
        waiting = []
        for query, accept in VIEWS:
            client = clients.enter_context(Client(server))
            client.ask(f"/{disk.path.name}/a/{query}", accept)
            waiting.append(client)
        assert [client.answer().status for client in waiting] == [503] * 12
        with Client(server) as client:
            assert client.get(f"/{disk.path.name}/a/", method="HEAD").status == 503
        assert disk.counts()["readdir"] == before + 1
        disk.release()
        with Client(server) as client:
            eventually(lambda: client.get(f"/{disk.path.name}/b/").status == 200)


def test_directories_that_hang_leave_helpers_to_others(disk: FuseDisk, clients: ExitStack) -> None:
    with listing_server_above(disk, "1") as server:
        disk.hang("readdir")
        ask_each(clients, server, [f"/{disk.path.name}/{name}/" for name in ("a", "b")])
        disk.wait_hanging(2)
        with Client(server) as client:
            eventually(lambda: client.get("/well/?sort=size").status == 200)
        assert disk.hanging() == 2
        disk.release()


def test_head_reads_no_directory(disk: FuseDisk) -> None:
    with listing_server_above(disk, "60") as server, Client(server) as client:
        disk.hang("readdir")
        for query, accept in VIEWS:
            reply = client.get(f"/{disk.path.name}/a/{query}", accept, method="HEAD")
            assert reply.status == 200
            assert not {"content-length", "etag", "transfer-encoding"} & reply.fields.keys()
            assert reply.fields["content-type"].startswith(accept.removeprefix("Accept: "))
        assert disk.hanging() == 0
        disk.release()


@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_a_helper_that_hangs_in_close_gets_no_job(disk: FuseDisk, helpers: str) -> None:
    """Names that nobody has asked for are a helper's work, and their disk is a good one."""
    options = ("--disk-timeout", "60", "--helpers", helpers)
    with server_above(disk, *options) as server, Client(server) as client:
        if helpers == "process":  # the first two: to start one is to close descriptors
            eventually(lambda: len(helper_processes(server)) >= 2)
        disk.hang("flush")
        assert client.get(slow(disk), method="HEAD").status == 200
        disk.wait_hanging(2)
        statuses = [client.get(f"/new-{number}").status for number in range(6)]
        disk.release()
        assert statuses == [404] * 6


def test_nobody_waits_for_the_end_of_the_last_close(disk: FuseDisk, clients: ExitStack) -> None:
    with server_above(disk) as server:
        disk.hang("release")
        (client,) = ask(clients, server, slow(disk), 1)
        assert client.answer().body == SLOW
        disk.wait_hanging(1)
        assert client.get(slow(disk)).body == SLOW
        assert_hot(server)


@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_with_every_helper_hung_hot_requests_go_on_and_the_queue_is_bounded(
    disk: FuseDisk, clients: ExitStack, helpers: str
) -> None:
    """Two mounts hang, with a helper each. HEAD: the queue is for what is opened alone."""
    bounds = ("--max-helpers", "2", "--max-queue", "5", "--helpers", helpers)
    with (
        fuse_disk(disk.path.parent, disk.backing) as other,
        server_above(disk, *bounds, *NO_LOOKUPS) as server,
    ):
        hung = []
        for each in (disk, other):
            each.hang("open")
            hung += ask_each(clients, server, each_slow(each)[:1], method="HEAD")
            each.wait_hanging(1)
        assert_hot(server)
        # One place has three of five, so one of four is told to come back; which one is nobody's
        # business.
        waiting = ask_each(clients, server, each_slow(disk)[1:5], method="HEAD")
        refused = first_with_answer(waiting)
        waiting.remove(refused)
        assert refused.answer("HEAD").status == 503
        for _ in range(3):
            reply = refused.get(slow(disk))
            assert (reply.status, reply.fields["retry-after"]) == (503, "1")
            assert reply.body == b"503 Service Unavailable\n"
            assert refused.get("/hot").body == HOT_SMALL
        assert_hot(server)
        assert not any(client.has_answer() for client in hung + waiting)
        disk.release()
        other.release()
        for client in hung + waiting:
            reply = client.answer("HEAD")
            assert (reply.status, reply.fields["content-length"]) == (200, str(len(SLOW)))
        assert refused.get(slow(disk)).body == SLOW


@pytest.mark.parametrize("way", [(), ("--no-fast-lane",)], ids=["lane", "tasks"])
def test_one_client_leaves_room_in_the_queue_for_another(
    disk: FuseDisk, clients: ExitStack, way: Sequence[str]
) -> None:
    """All of its files are on the only disk there is, which hangs; it has four of eight places."""
    bounds = ("--max-helpers", "1", "--max-queue", "8")
    with running_server(*bounds, *NO_LOOKUPS, *way, root=disk.path) as server:
        disk.hang("open")
        greedy = [clients.enter_context(Client(server)) for _ in range(SLOW_FILES)]
        for number, client in enumerate(greedy):
            client.ask(f"/slow-{number}")
        refused = first_with_answer(greedy)
        greedy.remove(refused)
        assert refused.answer().status == 503
        other = clients.enter_context(Client(server, host="127.0.0.2"))
        other.ask("/slow")
        assert refused.get("/nothing").status == 503
        assert not other.has_answer()
        disk.release()
        assert all(client.answer().body == SLOW for client in [*greedy, other])


@pytest.mark.parametrize("helpers", ["thread", "process"])
@pytest.mark.parametrize("operation", ["getattr", "open"])
def test_a_hung_mount_below_the_root_leaves_helpers_to_cold_files_beside_it(
    disk: FuseDisk, clients: ExitStack, operation: str, helpers: str
) -> None:
    """It hangs from the first request on: nobody has seen a file of it."""
    root = disk.path.parent
    for number in range(3):
        put(root / f"cold/{number}", SLOW)
        evict(root / f"cold/{number}")
    (root / "link").symlink_to(f"{disk.path.name}")
    options = ("--max-helpers", "4", "--max-queue", "64", "--helpers", helpers)
    with running_server(*options, root=root) as server:
        disk.hang(operation)  # type: ignore[arg-type]
        paths = [*each_slow(disk), f"/link{slow(disk).removeprefix(f'/{disk.path.name}')}"]
        asking = ask_each(clients, server, paths)
        disk.wait_hanging(2)
        with Client(server) as client:
            for number in range(3):
                assert client.get(f"/cold/{number}").body == SLOW
                assert client.get(f"/cold/none-{number}").status == 404
        assert not any(client.has_answer() for client in asking)
        disk.release()
        assert all(client.answer().body == SLOW for client in asking)


@pytest.mark.parametrize("helpers", ["thread", "process"])
@pytest.mark.parametrize("operation", ["open", "read"])
def test_a_disk_that_does_not_answer_in_time_is_503(
    disk: FuseDisk, clients: ExitStack, operation: str, helpers: str
) -> None:
    with impatient_server_above(disk, "--helpers", helpers) as server:
        disk.hang(operation)  # type: ignore[arg-type]
        asking = ask(clients, server, slow(disk), 3)
        for client in asking:
            reply = client.answer()
            assert (reply.status, reply.fields["retry-after"]) == (503, "1")
        server.wait_for_log(f"WARNING +503 for {slow(disk)}: .*the disk does not answer")
        assert_hot(server)
        disk.release()
        for client in asking:
            eventually(lambda client=client: client.get(slow(disk)).body == SLOW)  # type: ignore[misc]
        eventually(lambda: not [d for d in descriptors(server.pid) if d.endswith("/slow")])


@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_clients_that_leave_a_hung_disk(disk: FuseDisk, clients: ExitStack, helpers: str) -> None:
    """Nothing is left dangling: neither descriptors nor helpers that wait for nobody."""
    with impatient_server_above(disk, "--max-helpers", "2", "--helpers", helpers) as server:
        disk.hang("open")
        for client in ask_each(clients, server, each_slow(disk)):
            assert client.answer().status == 503
            client.reset()
        disk.release()
        with Client(server) as client:
            eventually(lambda: client.get(slow(disk)).body == SLOW)
        eventually(lambda: not [d for d in descriptors(server.pid) if "/slow" in d])
        assert_hot(server)


def test_a_root_on_a_hung_disk(place: Path, clients: ExitStack) -> None:
    """Nothing can be answered from it, but requests that need no disk are."""
    put(place / "backing/slow", SLOW)
    with (
        fuse_disk(place, place / "backing") as disk,
        running_server("--revalidate", "0", root=disk.path) as server,
    ):
        disk.hang("getattr", "open", "read")
        asking = ask(clients, server, "/slow", 4)
        disk.wait_hanging(1)
        with Client(server) as client:
            assert client.get("/.hidden").status == 404
            assert client.get("/", method="POST").status == 405
            assert client.get("/../x").status == 400
        disk.release()
        assert all(client.answer().body == SLOW for client in asking)


@needs("loop")
@pytest.mark.parametrize("helpers", ["thread", "process"])
def test_what_is_in_memory_outlives_its_disk(place: Path, clients: ExitStack, helpers: str) -> None:
    """The hot and the cold file are on one ext4, whose disk hangs."""
    (place / "backing").mkdir()
    with (
        fuse_disk(place, place / "backing") as disk,
        loop_ext4(place, 64 * MIB, image=disk.path / "image") as root,
    ):
        put(root / "hot", HOT_SMALL)
        put(root / "large", HOT_LARGE)
        put(root / "cold", SLOW)
        load(root / "large")
        with running_server("--helpers", helpers, root=root) as server:
            with Client(server) as client:
                assert client.get("/cold").body == SLOW
            assert_hot(server)
            evict(root / "cold")
            disk.hang("read")
            asking = ask(clients, server, "/cold", 3)
            disk.wait_hanging(1)
            assert_hot(server)
            assert not any(client.has_answer() for client in asking)
            disk.release()
            assert all(client.answer().body == SLOW for client in asking)
            assert server.stop() == 0


# ---------------------------------------------------------------- stopping on a hung disk


def test_with_process_helpers_the_server_can_always_stop(
    disk: FuseDisk, clients: ExitStack
) -> None:
    # Half of them are for what is mounted below the root.
    options = ("--helpers", "process", "--drain-timeout", "0.1", "--max-helpers", "6")
    with server_above(disk, *options) as server:
        disk.hang("open")
        ask_each(clients, server, each_slow(disk)[:3])
        disk.wait_hanging(3)
        with watched(helper_processes(server)) as have_ended:
            assert server.stop(signal.SIGTERM) == 0
            disk.release()
            assert have_ended()


def test_with_thread_helpers_the_server_stops_once_the_disk_answers(
    disk: FuseDisk, clients: ExitStack
) -> None:
    with server_above(disk, "--drain-timeout", "0.1") as server:
        disk.hang("open")
        ask_each(clients, server, each_slow(disk)[:2])
        disk.wait_hanging(1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("stopped; ")  # the event loop has ended, whatever the threads do
        disk.release()
        assert server.process.wait(GUARD) == 0
