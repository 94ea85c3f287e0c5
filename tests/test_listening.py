"""The sockets of a config's binds, and their files; who is served there is for other tests."""

import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final, NoReturn

import pytest
import trio

from tests.rig import NOBODY, needs
from trio_amped import Config, listening, serve, supervisor
from trio_amped.binds import Bind, read_binds
from trio_amped.listening import (
    CannotListen,
    Opened,
    SocketFile,
    beside,
    close_all,
    open_binds,
    passed_by_systemd,
)
from trio_amped.urls import _ipv6_addresses, urls_of


async def opened(*binds: str) -> list[Opened]:
    return await open_binds(read_binds(binds))


async def why_not(*binds: str) -> str:
    """What is said of binds at which nothing can listen."""
    with pytest.raises(CannotListen) as caught:
        close_all(await opened(*binds))
    return str(caught.value)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


ipv6: Final = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def is_reached(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except OSError:
        return False
    return True


async def test_a_name_is_an_error_where_no_thread_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address needs none. Both a server and a supervisor open them so."""

    async def run_sync(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    for call in (
        opened("localhost:0"),
        opened("unix:/nowhere/socket"),
        supervisor.listen(Config(host="localhost", port=0), 1),
        serve(Config(host="localhost", port=0)),
    ):
        with pytest.raises(OSError, match="can't start new thread") as caught:
            await call
        assert caught.value.errno == errno.EAGAIN
    close_all(await opened("127.0.0.1:0"))


# ---------------------------------------------------------------- all addresses


@ipv6
@pytest.mark.parametrize(
    ("bind", "reached"),
    [
        ("[::]:0", ["127.0.0.1", "::1"]),
        ("*:0", ["127.0.0.1", "::1"]),
        ("[::]:0,ipv6only", ["::1"]),
        ("0.0.0.0:0", ["127.0.0.1"]),
    ],
)
async def test_which_families_are_let_in(bind: str, reached: list[str]) -> None:
    """Also by the sockets of other workers, which are alike."""
    [first] = await opened(bind)
    port = first.sock.getsockname()[1]
    second = beside(first)
    first.sock.close()
    with closing(second.sock):
        assert [host for host in ("127.0.0.1", "::1") if is_reached(host, port)] == reached


async def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """`*` is then IPv4 alone; and `[::]`, which has said IPv6, is an error."""

    def refuse(port: int) -> NoReturn:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr("trio_amped.listening._open_dual", refuse)
    [one] = await opened("*:0")
    with one.sock as sock:
        assert sock.getsockname()[0] == "0.0.0.0"
    assert await why_not("[::]:0") == (
        "cannot listen on [::]:0: Address family not supported by protocol; "
        "choose another address with --bind, or --host and --port"
    )


@pytest.mark.parametrize("host", ["\U0001f4a9", "\u00e4..b", "a..b", "a" * 64])
async def test_a_host_that_is_no_name(host: str) -> None:
    """Neither for a look-up, nor for what makes ASCII of a name before."""
    says = await why_not(f"{host}:0")
    assert says == (
        f"cannot listen on {host}:0: its host is no name; "
        "choose another address with --bind, or --host and --port"
    )


async def test_what_was_opened_is_closed_if_the_next_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        says = await why_not(f"unix:{path}", f"127.0.0.1:{port}")
    assert says.startswith(f"cannot listen on 127.0.0.1:{port}: Address already in use; ")
    assert not path.exists()


@ipv6
async def test_urls_of_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_amped.urls._ipv4_addresses", lambda: iter(["192.0.2.1"]))
    monkeypatch.setattr("trio_amped.urls._ipv6_addresses", lambda: iter(["2001:db8::1"]))
    for bind, hosts in (
        ("*:0", ["localhost", "192.0.2.1", "[2001:db8::1]"]),
        ("0.0.0.0:0", ["localhost", "192.0.2.1"]),
        ("[::]:0,ipv6only", ["[::1]", "[2001:db8::1]"]),
        ("127.0.0.1:0", ["127.0.0.1"]),
    ):
        [one] = await opened(bind)
        with one.sock as sock:
            port = sock.getsockname()[1]
            assert urls_of(sock, "https") == [f"https://{host}:{port}/" for host in hosts]


def test_the_addresses_of_this_machine(tmp_path: Path) -> None:
    """Each can be bound, so that it is one; of IPv6 those that need no interface beside them."""
    with socket.create_server(("0.0.0.0", 0)) as sock:
        port = sock.getsockname()[1]
        hosts = [url.removeprefix("http://").removesuffix(f":{port}/") for url in urls_of(sock)]
        assert hosts[0] == "localhost"
        assert all(is_reached(host, port) for host in hosts)
    table = tmp_path / "if_inet6"
    table.write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "20010db8000000000000000000000001 02 40 00 80     eth0\n"
        "fe800000000000000000000000000001 02 40 20 80     eth0\n"
    )
    assert list(_ipv6_addresses(table)) == ["2001:db8::1"]
    assert list(_ipv6_addresses(tmp_path / "none")) == []


# ---------------------------------------------------------------- UNIX sockets


async def test_the_file_of_a_unix_socket_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    found = await opened(f"unix:{path},mode=640")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    [one] = found
    assert urls_of(one.sock) == [f"unix:{path}"]
    close_all(found)
    assert not path.exists()


async def test_the_file_of_a_successor_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    found = await opened(f"unix:{path}")
    path.unlink()
    later = await opened(f"unix:{path}")
    close_all(found)
    assert path.is_socket()
    close_all(later)
    close_all(later)  # there is nothing left to remove


async def test_a_stale_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    inode = path.stat().st_ino
    blocker = path.rename(tmp_path / "old")  # so that the inode is not given again
    os.link(blocker, path)
    found = await opened(f"unix:{path}")
    assert path.stat().st_ino != inode
    close_all(found)


@pytest.mark.parametrize("is_busy", [False, True])
async def test_somebody_listens_there(tmp_path: Path, is_busy: bool) -> None:
    """Also where that one's queue is full."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(str(path))
        other.listen(0)
        if is_busy:
            client.connect(str(path))
        says = await why_not(f"unix:{path}")
    assert says == (
        f"cannot listen on unix:{path}: a server listens there; "
        "stop who has it, or choose another with --bind or --port"
    )
    assert path.is_socket()


async def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("x")
    assert await why_not(f"unix:{path}") == (
        f"cannot listen on unix:{path}: a file is there that is no socket; "
        "remove it, or choose another path"
    )
    link = tmp_path / "link"
    link.symlink_to(path)
    assert "no socket" in await why_not(f"unix:{link}")
    assert path.read_text() == "x"
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("none/socket", "No such file or directory"),
        ("socket,owner=no-such-user", "no such user: 'no-such-user'; name another owner"),
        ("socket,owner=:no-such-group", "no such group: 'no-such-group'; name another owner"),
    ],
)
async def test_a_file_that_cannot_be(tmp_path: Path, rest: str, reason: str) -> None:
    assert reason in await why_not(f"unix:{tmp_path}/{rest}")
    assert os.listdir(tmp_path) == []


@needs("root")
async def test_the_owner_of_a_file(tmp_path: Path) -> None:
    nobody, group = pwd.getpwnam("nobody"), grp.getgrgid(pwd.getpwnam("nobody").pw_gid)
    path = tmp_path / "socket"
    for owner, uid, gid in (
        ("nobody", nobody.pw_uid, 0),
        (f"nobody:{group.gr_name}", nobody.pw_uid, group.gr_gid),
        (f":{group.gr_gid}", 0, group.gr_gid),
        (f"{nobody.pw_uid}:0", nobody.pw_uid, 0),
    ):
        found = await opened(f"unix:{path},owner={owner},mode=600")
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (uid, gid, 0o600)
        close_all(found)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Somebody who can read a folder locks it."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


async def test_somebody_holds_a_lock_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For ever, or for a moment as servers do that start."""
    path = tmp_path / "socket"
    pauses: list[float] = []
    monkeypatch.setattr("trio_amped.listening.time.sleep", pauses.append)
    with locked(tmp_path):
        assert await why_not(f"unix:{path}") == (
            f"cannot listen on unix:{path}: somebody holds a lock of its folder; "
            "see lslocks(8), or choose a folder that others may not read"
        )
    assert sum(pauses) == pytest.approx(3)
    assert not path.exists()
    with ExitStack() as stack:
        stack.enter_context(locked(tmp_path))
        monkeypatch.setattr("trio_amped.listening.time.sleep", lambda _: stack.close())
        close_all(await opened(f"unix:{path}"))


async def test_who_waits_for_a_lock_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once; and the thread makes no socket any more, which nobody would remove."""
    waits, goes_on, has_ended = threading.Event(), threading.Event(), threading.Event()

    def sleep(_: float) -> None:
        waits.set()
        goes_on.wait()

    def open_unix(path: str, bind: Bind) -> tuple[socket.socket, SocketFile]:
        try:
            return original(path, bind)
        finally:
            has_ended.set()

    original = listening._open_unix
    monkeypatch.setattr(listening, "_open_unix", open_unix)
    monkeypatch.setattr("trio_amped.listening.time.sleep", sleep)
    try:
        with locked(tmp_path):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(opened, f"unix:{tmp_path}/socket")
                await trio.to_thread.run_sync(waits.wait)
                nursery.cancel_scope.cancel()
    finally:
        goes_on.set()
    await trio.to_thread.run_sync(has_ended.wait)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "option", ["mode=666", pytest.param(f"owner={NOBODY}", marks=needs("root"))]
)
async def test_a_link_in_the_place_of_a_new_socket(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By somebody who may write its folder: what the link leads to is not touched."""
    path, secret = tmp_path / "socket", tmp_path / "secret"
    secret.touch(0o600)
    before = secret.stat()
    original = listening._give

    def give(name: str, bind: Bind) -> None:
        os.unlink(name)
        os.symlink(secret, name)
        original(name, bind)

    monkeypatch.setattr(listening, "_give", give)
    says = await why_not(f"unix:{path},{option}")
    assert "somebody has replaced the socket; choose a folder that others may not write" in says
    after = secret.stat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)


# ---------------------------------------------------------------- sockets of others


@pytest.mark.parametrize(
    ("environment", "passed"),
    [
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, {3: "unknown", 4: "unknown"}),
        (
            {"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:a"},
            {3: "web", 4: "a", 5: "unknown"},
        ),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": ""}, {3: "unknown"}),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, {}),  # it is for whoever started us
        ({"LISTEN_FDS": "1"}, {}),
        ({"LISTEN_PID": "7"}, {}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, {}),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "0"}, {}),
        ({}, {}),
    ],
)
def test_what_systemd_passes(environment: dict[str, str], passed: dict[int, str]) -> None:
    assert passed_by_systemd(environment, 7) == passed


@contextmanager
def passing(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[list[socket.socket]]:
    """Have these sockets be passed; the numbers of their descriptors begin anywhere."""
    found = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    passed = {os.dup(sock.fileno()): name for sock, name in zip(found, names, strict=True)}
    monkeypatch.setattr("trio_amped.listening.passed_by_systemd", lambda *_: passed)
    try:
        yield found
    finally:
        for sock in found:
            sock.close()


async def test_names_say_whose_a_passed_socket_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name, those that no other bind takes."""
    with passing(monkeypatch, "a", "b", "a", "c") as socks:
        found = await opened("systemd", "systemd:a")
        names = {each.sock.getsockname(): each.bind.text for each in found}
        texts = [names[sock.getsockname()] for sock in socks]
        assert texts == ["systemd:a", "systemd", "systemd:a", "systemd"]
        assert not any(each.sock.get_inheritable() for each in found)
        close_all(found)


async def test_nothing_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    says = await why_not("systemd")
    assert says.startswith("cannot listen on systemd: systemd has passed no socket (LISTEN_FDS, ")
    with passing(monkeypatch, "a", "b"):
        says = await why_not("systemd:web")
    assert "systemd has passed no socket of this name, but a, b; " in says


async def test_an_inherited_socket_has_one_queue_for_all() -> None:
    """A worker more does not open it a second time, which its options may forbid."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        first = (await opened(f"fd:{os.dup(sock.fileno())}"))[0]
        second = beside(first)
        first.sock.close()
        with second.sock, socket.create_connection(sock.getsockname()[:2]):
            second.sock.accept()[0].close()


async def test_a_descriptor_that_is_no_listener(tmp_path: Path) -> None:
    advice = "; pass a TCP or UNIX socket that listens"
    with (
        socket.socket() as silent,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        (tmp_path / "file").open("w") as file,
    ):
        for each in (silent, datagrams):
            says = await why_not(f"fd:{each.fileno()}")
            assert says.endswith(f"is no TCP or UNIX socket that listens{advice}")
            each.getsockname()  # it is open still
        assert "is no socket" in await why_not(f"fd:{file.fileno()}")
    assert "Bad file descriptor" in await why_not("fd:999999")
