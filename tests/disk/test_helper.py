"""A helper answers every order, whatever the disk does, and ends with its socket."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from tests.disk.conftest import BrokenDisk
from tests.disk.support import KIB, MIB, as_stranger, descriptors, mappings
from tests.rig import GUARD, FuseDisk, evict, needs, resident_pages
from trio_amped.disk import carriers, helper, kernel, loading, opening
from trio_amped.disk.kernel import PAGE
from trio_amped.disk.loading import Reader, touch
from trio_amped.disk.messages import (
    FREE,
    MAX_MESSAGE,
    MAX_READ,
    Operation,
    Order,
    Reply,
)
from trio_amped.disk.opening import Status, unpack_read

pytestmark = needs("root", "loop", "fuse")


NUMBER = 2**64 - 1


class Peer:
    """The event loop's end of a helper's socket, in the hands of a test."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        channel.settimeout(GUARD)
        assert channel.recv(MAX_MESSAGE) == FREE

    def send(self, order: Order, *descriptors: int) -> None:
        socket.send_fds(self.channel, [order.pack(NUMBER)], descriptors)

    def receive(self) -> tuple[Reply, list[int]]:
        """A reply, and the second one where more than one comes."""
        message, received, _, _ = socket.recv_fds(self.channel, MAX_MESSAGE, 4)
        number, reply = Reply.unpack(message)
        assert number == NUMBER
        if reply.is_first:
            assert self.channel.recv(MAX_MESSAGE) == Reply(0).pack(NUMBER)
        return reply, received

    def ask(self, order: Order, *descriptors: int) -> Reply:
        """For orders that no descriptor comes back from."""
        self.send(order, *descriptors)
        reply, received = self.receive()
        assert not received
        return reply

    def has_ended(self) -> bool:
        return self.channel.recv(1) == b""


class Faulty(socket.socket):
    """A helper's end of its socket, of which the second message, or the first order, fails."""

    def __init__(self, sock: socket.socket, fails: str) -> None:
        super().__init__(fileno=sock.detach())
        self._fails = fails
        self._sent = 0

    def sendmsg(self, *arguments: Any) -> int:
        self._sent += 1
        if self._fails == "sendmsg" and self._sent == 2:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return super().sendmsg(*arguments)

    def recvmsg(self, *arguments: Any) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        if self._fails == "recvmsg":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return super().recvmsg(*arguments)


def test_an_answer_that_cannot_be_sent_is_an_error(root: Path) -> None:
    """Else the one who waits for the answer would wait for ever, and all who ask for the same."""
    (root / "file").write_bytes(b"content")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    faulty = Faulty(theirs, "sendmsg")
    thread = threading.Thread(target=helper.serve, args=(faulty, Reader().load))
    thread.start()
    with ours:
        peer = Peer(ours)
        order = Order(Operation.FILE, os.fsencode(root / "file"))
        assert peer.ask(order).errno == errno.ENOBUFS
        peer.send(order)
        reply, received = peer.receive()
        assert reply.errno == 0
        for each in received:
            os.close(each)
    thread.join()
    assert descriptors(root) == []


def test_a_socket_of_no_use_is_the_end_and_no_bug() -> None:
    """The other end finds another helper then."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helper.serve(Faulty(theirs, "recvmsg"), Reader().load)
    with ours:
        assert Peer(ours).has_ended()


@pytest.fixture
def peer(kind: str) -> Iterator[Peer]:
    """A helper that runs, of each kind; it must end with its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if kind == "thread":
        thread = threading.Thread(target=helper.serve, args=(theirs, Reader().load))
        thread.start()
        with ours:
            yield Peer(ours)
        thread.join(GUARD)
        assert not thread.is_alive()
        assert theirs.fileno() == -1
    else:
        process = start_process(theirs)
        with ours:
            yield Peer(ours)
        assert process.wait(GUARD) == 0


def start_process(theirs: socket.socket) -> subprocess.Popen[bytes]:
    with theirs:
        number = theirs.fileno()
        argv = [sys.executable, "-I", "-S", "-c", carriers._BOOTSTRAP, carriers._PACKAGE]
        return subprocess.Popen([*argv, str(number), "0"], pass_fds=[number])


@pytest.fixture
def file(root: Path) -> Path:
    path = root / "file"
    path.write_bytes(os.urandom(MIB))
    evict(path)
    return path


@pytest.fixture
def fd(file: Path) -> Iterator[int]:
    fd = os.open(file, os.O_RDONLY)
    yield fd
    os.close(fd)


# ---------------------------------------------------------------- orders


def test_open(peer: Peer, root: Path, file: Path) -> None:
    directory = os.open(root, os.O_PATH)
    try:
        peer.send(Order(Operation.OPEN, b"file"), directory)
        reply, (received,) = peer.receive()
        found = opening.unpack_facts(received, reply.content)
        assert reply.errno == 0
        assert os.fstat(received).st_ino == found.status.inode == file.stat().st_ino
        os.close(received)
        assert peer.ask(Order(Operation.OPEN, b"nothing"), directory) == Reply(errno.ENOENT)
        leads_away = Order(Operation.OPEN, b"../x")
        assert peer.ask(leads_away, directory) == Reply(errno.EXDEV, b"..")
        assert peer.ask(leads_away._replace(crosses=True), directory) == Reply(errno.EXDEV)
        assert peer.ask(Order(Operation.OPEN, b"nul\0"), directory) == Reply(errno.EINVAL)
    finally:
        os.close(directory)


def test_root(peer: Peer, root: Path) -> None:
    peer.send(Order(Operation.ROOT, os.fsencode(root)))
    reply, (received,) = peer.receive()
    assert opening.unpack_facts(received, reply.content).status.inode == root.stat().st_ino
    os.close(received)
    assert peer.ask(Order(Operation.ROOT, b"/nothing")) == Reply(errno.ENOENT)


def test_load(peer: Peer, file: Path, fd: int) -> None:
    offset = 512 * KIB
    assert peer.ask(Order(Operation.LOAD, offset=offset, length=4 * PAGE), fd) == Reply(0)
    shadow = kernel.ShadowMapping(fd, MIB)
    assert shadow.resident(offset, 4 * PAGE) == 4 * PAGE
    assert shadow.resident(0, PAGE) == 0
    shadow.close()
    assert peer.ask(Order(Operation.LOAD, offset=0, length=MIB), fd) == Reply(0)
    assert resident_pages(file) == MIB // PAGE
    assert not mappings(file)
    evict(file)


def test_read(peer: Peer, file: Path, fd: int) -> None:
    content = file.read_bytes()
    found = Status.of(fd)

    def read(offset: int, length: int) -> bytes:
        reply = peer.ask(Order(Operation.READ, offset=offset, length=length), fd)
        status, data = unpack_read(reply.content)
        assert (reply.errno, status._replace(atime_ns=0)) == (0, found._replace(atime_ns=0))
        return data

    assert read(100, 50) == content[100:150]
    assert read(KIB, MIB) == content[KIB : KIB + MAX_READ]
    assert read(MIB, 50) == b""
    assert peer.ask(Order(Operation.READ, offset=-1, length=50), fd) == Reply(errno.EINVAL)


def test_digest(peer: Peer, file: Path, fd: int) -> None:
    content = file.read_bytes()
    evict(file)
    for size in (MIB, 600 * KIB + 1, 1, 0, 2 * MIB):
        reply = peer.ask(Order(Operation.DIGEST, length=size), fd)
        status, made = unpack_read(reply.content)
        assert (reply.errno, status.version) == (0, Status.of(fd).version)
        assert made == blake2b(content[:size], digest_size=16).digest()
    assert not mappings(file)
    os.truncate(file, PAGE)
    reply = peer.ask(Order(Operation.DIGEST, length=MIB), fd)
    status, made = unpack_read(reply.content)
    assert (status.size, made) == (PAGE, blake2b(content[:PAGE], digest_size=16).digest())


_ON_A_FILE = [Operation.OPEN, Operation.LOAD, Operation.READ, Operation.DIGEST]


@pytest.mark.parametrize("operation", _ON_A_FILE)
def test_a_descriptor_that_did_not_arrive(peer: Peer, operation: Operation) -> None:
    """The kernel drops it when the process has no place left."""
    assert peer.ask(Order(operation, length=PAGE)) == Reply(errno.EMFILE)


def test_no_descriptor_stays(kind: str, peer: Peer, root: Path, file: Path, fd: int) -> None:
    if kind == "process":
        (pid,) = children_of_socket(peer)
        place = Path(f"/proc/{pid}/fd")
    else:
        place = Path("/proc/self/fd")
    directory = os.open(root, os.O_PATH)

    def count() -> int:
        return len(list(place.iterdir()))

    try:
        assert peer.ask(Order(Operation.LOAD, length=PAGE), fd) == Reply(0)
        before = count()
        for _ in range(20):
            peer.send(Order(Operation.OPEN, b"file"), directory)
            os.close(peer.receive()[1][0])
            peer.send(Order(Operation.ROOT, os.fsencode(root)))
            os.close(peer.receive()[1][0])
            assert peer.ask(Order(Operation.OPEN, b"nothing"), directory).errno == errno.ENOENT
            assert peer.ask(Order(Operation.LOAD, length=PAGE), fd) == Reply(0)
            assert peer.ask(Order(Operation.READ, length=PAGE), fd).errno == 0
        # its own copy of the last one goes after the answer: another order is a barrier
        assert peer.ask(Order(Operation.LOAD, length=PAGE), fd) == Reply(0)
        assert count() == before
    finally:
        os.close(directory)


def children_of_socket(peer: Peer) -> list[int]:
    """The process at the other end: our only child that is not a FUSE disk or a rescuer."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"disk.helper" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


@pytest.mark.parametrize("kind", ["thread"], indirect=True)
def test_what_a_thread_receives_is_not_inherited(
    peer: Peer, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread's descriptors are our process's: MSG_CMSG_CLOEXEC has to reach recvmsg."""
    inherited: list[bool] = []

    def announce(descriptor: int, offset: int, length: int) -> int:
        inherited.append(os.get_inheritable(descriptor))
        return 0

    monkeypatch.setattr(loading, "_announce", announce)
    assert peer.ask(Order(Operation.LOAD, length=PAGE), fd) == Reply(0)
    assert inherited == [False]


# ---------------------------------------------------------------- what a disk can do


def test_a_truncated_file_kills_nobody(peer: Peer, file: Path, fd: int) -> None:
    """A touch of its lost pages would be SIGBUS."""
    os.truncate(file, 3 * PAGE)
    assert peer.ask(Order(Operation.LOAD, offset=0, length=MIB), fd) == Reply(0)
    assert resident_pages(file) == 3
    os.truncate(file, 0)
    assert peer.ask(Order(Operation.LOAD, offset=0, length=MIB), fd) == Reply(0)
    assert peer.ask(Order(Operation.LOAD, offset=MIB, length=MIB), fd) == Reply(0)
    reply = peer.ask(Order(Operation.READ, offset=0, length=MIB), fd)
    assert unpack_read(reply.content)[1] == b""


def test_a_file_truncated_while_it_is_loaded_kills_nobody(peer: Peer, broken: BrokenDisk) -> None:
    path = broken.root / "file"
    path.write_bytes(os.urandom(2 * MIB))
    evict(path)
    with path.open("rb") as opened:
        broken.disk.hang("read")
        peer.send(Order(Operation.LOAD, offset=0, length=2 * MIB), opened.fileno())
        broken.disk.wait_hanging()
        truncation = threading.Thread(target=os.truncate, args=(path, PAGE))
        truncation.start()  # the kernel lets it wait for the pages that are being read
        broken.disk.release()
        assert peer.receive() == (Reply(0), [])
        truncation.join(GUARD)
        assert not truncation.is_alive()


def test_an_unreadable_disk_is_an_error(peer: Peer, broken: BrokenDisk) -> None:
    path = broken.root / "file"
    path.write_bytes(os.urandom(MIB))
    evict(path)
    with path.open("rb") as opened:
        broken.disk.fail("read", errno.EIO)
        for operation in _ON_A_FILE[1:]:
            assert peer.ask(Order(operation, length=MIB), opened.fileno()) == Reply(errno.EIO)
        broken.disk.reset()
        assert peer.ask(Order(Operation.LOAD, length=MIB), opened.fileno()) == Reply(0)


def test_an_unreadable_fuse_file_is_an_error(peer: Peer, fuse: FuseDisk, fuse_root: Path) -> None:
    (fuse_root / "file").write_bytes(b"x" * PAGE)
    with (fuse_root / "file").open("rb") as opened:
        fuse.fail("read", errno.EIO)
        for operation in _ON_A_FILE[1:]:
            assert peer.ask(Order(operation, length=PAGE), opened.fileno()) == Reply(errno.EIO)
        fuse.reset()
        reply = peer.ask(Order(Operation.READ, length=PAGE), opened.fileno())
        assert (reply.errno, unpack_read(reply.content)[1]) == (0, b"x" * PAGE)
        reply = peer.ask(Order(Operation.DIGEST, length=PAGE), opened.fileno())
        made = blake2b(b"x" * PAGE, digest_size=16).digest()
        assert (reply.errno, unpack_read(reply.content)[1]) == (0, made)


def test_a_close_that_fails_is_not_the_end(peer: Peer, fuse: FuseDisk, fuse_root: Path) -> None:
    """close(2) reports the flush of a FUSE or network file; its descriptor is gone all the same."""
    (fuse_root / "file").write_bytes(b"x" * PAGE)
    with (fuse_root / "file").open("rb") as opened:
        fuse.fail("flush", errno.EIO)
        try:
            reply = peer.ask(Order(Operation.READ, length=PAGE), opened.fileno())
        finally:
            fuse.reset()
        assert (reply.errno, unpack_read(reply.content)[1]) == (0, b"x" * PAGE)


def test_a_close_that_fails_after_the_answer_is_not_the_end(
    peer: Peer, fuse: FuseDisk, fuse_root: Path
) -> None:
    """Its own copy of a descriptor that it has handed over."""
    (fuse_root / "file").write_bytes(b"x" * PAGE)
    directory = os.open(fuse_root, os.O_PATH)
    fuse.fail("flush", errno.EIO)
    try:
        for _ in range(2):
            peer.send(Order(Operation.OPEN, b"file"), directory)
            reply, (received,) = peer.receive()
            assert reply.errno == 0
            with contextlib.suppress(OSError):
                os.close(received)
    finally:
        fuse.reset()
        os.close(directory)


@needs("nobody")
def test_a_load_writes_the_access_time(root: Path) -> None:
    """So that the event loop need not, which would wait for the journal."""
    path = root / "file"
    path.write_bytes(bytes(MIB))
    os.utime(path, (0, path.stat().st_mtime))
    facts = as_stranger("first_touch", root, "file")
    assert facts == {
        "must": True,
        "mapped_before": False,
        "first_misses": 1,
        "misses": 1,
        "after": False,
        "again": False,
    }
    assert path.stat().st_atime > 0


# ---------------------------------------------------------------- its end


def test_it_ends_when_its_socket_does(peer: Peer) -> None:
    peer.channel.shutdown(socket.SHUT_WR)
    assert peer.has_ended()


def test_an_answer_that_nobody_waits_for(broken: BrokenDisk, kind: str) -> None:
    """The event loop goes while a helper works: it ends in peace, and keeps nothing."""
    path = broken.root / "file"
    path.write_bytes(os.urandom(MIB))
    evict(path)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with path.open("rb") as opened, ours:
        broken.disk.hang("read")
        if kind == "thread":
            thread = threading.Thread(target=helper.serve, args=(theirs, Reader().load))
            thread.start()
        else:
            process = start_process(theirs)
        Peer(ours).send(Order(Operation.LOAD, length=MIB), opened.fileno())
        broken.disk.wait_hanging()
        ours.close()
        broken.disk.release()
        if kind == "thread":
            thread.join(GUARD)
            assert not thread.is_alive()
        else:
            assert process.wait(GUARD) == 0


def test_a_descriptor_that_nobody_waits_for(root: Path, file: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        before = descriptors(root)
        opened = os.open(file, os.O_RDONLY)
        ours.close()
        with pytest.raises(BrokenPipeError):  # which ends the helper
            helper._answer(theirs, NUMBER, helper.Done(Reply(0), [opened]))
        assert descriptors(root) == before


def test_an_answer_that_nobody_reads() -> None:
    """The kernel says ECONNRESET, and not the end, to a peer whose answer was not read."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(Reply(0).pack(NUMBER))
    ours.close()
    helper.serve(theirs, touch)


def test_main_ignores_what_the_whole_group_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, for coverage; the process itself is tested below."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "argv", ["-c", str(theirs.detach()), "0"])
    ours.close()
    try:
        helper.main()
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN] * 3
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize("kind", ["process"], indirect=True)
def test_a_process_ignores_what_the_whole_group_is_sent(peer: Peer, fd: int) -> None:
    assert peer.ask(Order(Operation.LOAD, length=PAGE), fd) == Reply(0)
    (pid,) = children_of_socket(peer)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert peer.ask(Order(Operation.LOAD, length=PAGE), fd) == Reply(0)


@pytest.mark.parametrize("kind", ["process"], indirect=True)
def test_a_process_imports_little(peer: Peer, fd: int) -> None:
    """No trio and no site: it is there sooner, and smaller."""
    assert peer.ask(Order(Operation.LOAD, length=PAGE), fd) == Reply(0)
    (pid,) = children_of_socket(peer)
    assert "site-packages" not in Path(f"/proc/{pid}/maps").read_text()
