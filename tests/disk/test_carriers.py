"""Threads and processes for helpers: they start, they end, and their socket's end is closed."""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.disk.conftest import BrokenDisk
from tests.disk.support import (
    MIB,
    children,
    eventually,
    eventually_async,
    helper_threads,
    in_thread,
)
from tests.rig import GUARD, REPOSITORY, evict, needs
from trio_amped.disk import carriers, helper
from trio_amped.disk.messages import FREE, MAX_MESSAGE, Operation, Order, Reply

pytestmark = needs("root", "loop", "fuse")


def pair() -> tuple[trio.socket.SocketType, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return trio.socket.from_stdlib_socket(ours), theirs


def carrier(kind: str, helpers: int = 1) -> carriers.Carrier:
    if kind == "process":
        return carriers.in_processes(trio.CapacityLimiter(1))
    return carriers.in_threads(trio.CapacityLimiter(helpers))


async def test_without_memory_to_watch_a_process_it_is_watched_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on meanwhile, and is not left as a zombie."""
    real, failures = trio.lowlevel.wait_readable, [OSError(errno.ENOMEM, "no memory")]

    async def wait_readable(fd: object) -> None:
        if isinstance(fd, int) and failures:
            raise failures.pop()
        await real(fd)  # type: ignore[arg-type]

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_readable)
    before = children()
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carrier("process"), theirs)
        with ours:
            assert await ours.recv(MAX_MESSAGE) == FREE
    assert not failures
    assert children() == before
    assert caplog.messages == ["cannot watch a disk helper: [Errno 12] no memory"]


async def test_a_process_that_was_watched_by_what_cannot_be_closed_well(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The descriptor is gone all the same; close(2)."""
    pidfds: list[int] = []
    close_really, open_really = os.close, os.pidfd_open

    def pidfd_open(pid: int, flags: int = 0) -> int:
        pidfds.append(open_really(pid, flags))
        return pidfds[-1]

    def close(fd: int) -> None:
        close_really(fd)
        if fd in pidfds:
            raise InterruptedError(errno.EINTR, "interrupted")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    monkeypatch.setattr(os, "close", close)
    before = children()
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carrier("process"), theirs)
        with ours:
            assert await ours.recv(MAX_MESSAGE) == FREE
    assert children() == before
    assert caplog.messages == ["closing a descriptor failed: [Errno 4] interrupted"]


async def ask(channel: trio.socket.SocketType, order: Order) -> Reply:
    """Of a helper that is new."""
    await channel.send(order.pack(1))
    assert await channel.recv(MAX_MESSAGE) == FREE
    _, reply = Reply.unpack(await channel.recv(MAX_MESSAGE))
    return reply


NOTHING = Order(Operation.LOAD)  # without a descriptor, which is answered by EMFILE


async def test_it_carries_a_helper_until_its_socket_ends(kind: str) -> None:
    before, threads = children(), helper_threads()
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carrier(kind), theirs)
        assert await ask(ours, NOTHING) == Reply(errno.EMFILE)
        assert (len(children() - before), helper_threads() - threads) == (
            (1, 0) if kind == "process" else (0, 1)
        )
        ours.close()
    assert theirs.fileno() == -1
    assert children() <= before
    assert helper_threads() <= threads


async def test_it_ends_when_it_is_cancelled(kind: str) -> None:
    before, threads = children(), helper_threads()
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carrier(kind), theirs)
        await ask(ours, NOTHING)
        nursery.cancel_scope.cancel()
    assert children() <= before
    ours.close()  # what an abandoned thread waits for
    eventually(lambda: helper_threads() <= threads)
    assert theirs.fileno() == -1


async def test_cancelled_before_it_started(kind: str) -> None:
    before = children()
    ours, theirs = pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await carrier(kind)(theirs)
    assert theirs.fileno() == -1
    assert children() <= before
    ours.close()


async def test_threads_have_a_limiter_of_their_own() -> None:
    theirs_limiter = trio.to_thread.current_default_thread_limiter()
    limiter = trio.CapacityLimiter(1)
    carry = carriers.in_threads(limiter)
    (one, its_end), (two, its_other_end) = pair(), pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, its_end)
        await ask(one, NOTHING)
        nursery.start_soon(carry, its_other_end)
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.borrowed_tokens == 1
        assert limiter.statistics().tasks_waiting == 1
        assert theirs_limiter.borrowed_tokens == 0
        one.close()
        assert await ask(two, NOTHING) == Reply(errno.EMFILE)
        two.close()
    assert limiter.borrowed_tokens == 0


async def test_waiting_for_the_limiter_can_be_cancelled() -> None:
    limiter = trio.CapacityLimiter(1)
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        await limiter.acquire()
        nursery.start_soon(carriers.in_threads(limiter), theirs)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert theirs.fileno() == -1
    ours.close()


async def test_no_token_of_the_default_limiter_is_needed(kind: str) -> None:
    """The host application may have used them all up; an exec waits for the disk as well."""
    limiter = trio.to_thread.current_default_thread_limiter()
    owners = [object() for _ in range(int(limiter.total_tokens))]
    for owner in owners:
        limiter.acquire_on_behalf_of_nowait(owner)
    ours, theirs = pair()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carrier(kind), theirs)
            with trio.fail_after(GUARD):
                assert await ask(ours, NOTHING) == Reply(errno.EMFILE)
            ours.close()
    finally:
        for owner in owners:
            limiter.release_on_behalf_of(owner)


async def test_a_helper_thread_that_fails_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(channel: socket.socket, load: object) -> None:
        with channel:
            raise RuntimeError("a bug")

    monkeypatch.setattr(helper, "serve", serve)
    ours, theirs = pair()
    await carrier("thread")(theirs)
    assert "a bug" in caplog.text
    assert await ours.recv(1) == b""
    ours.close()


async def test_a_thread_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start_thread_soon(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    ours, theirs = pair()
    with monkeypatch.context() as patch:
        patch.setattr("trio._threads.start_thread_soon", start_thread_soon)
        await carrier("thread")(theirs)
    assert "can't start new thread" in caplog.text
    assert theirs.fileno() == -1
    ours.close()


async def test_a_process_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nothing")
    ours, theirs = pair()
    await carriers.in_processes(trio.CapacityLimiter(1))(theirs)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "cannot start a disk helper" in caplog.text
    assert theirs.fileno() == -1
    ours.close()


async def test_a_killed_process_is_noticed() -> None:
    before = children()
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carriers.in_processes(trio.CapacityLimiter(1)), theirs)
        await ask(ours, NOTHING)
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        assert await ours.recv(1) == b""
    assert children() <= before
    ours.close()


async def test_a_process_that_cannot_be_killed_is_left(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an uninterruptible read: the shielded wait has an end, which is virtual here."""
    before = children()
    ours, theirs = pair()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", lambda process: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carrier("process"), theirs)
            await eventually_async(lambda: len(children() - before) == 1)
            start = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - start == pytest.approx(1)
        assert len(children() - before) == 1
    ours.close()
    eventually(lambda: children() <= before)  # it is no zombie in the end


async def test_no_descriptor_to_watch_a_process_with(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a helper that could not be started."""
    before = children()

    def pidfd_open(pid: int, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    ours, theirs = pair()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", pidfd_open)
        await carrier("process")(theirs)
    ours.close()
    assert "Too many open files" in caplog.text
    eventually(lambda: children() <= before)


def test_helper_processes_go_when_the_main_process_is_killed(kind: str, root: Path) -> None:
    """Not by PR_SET_PDEATHSIG: their socket ends."""
    (root / "file").write_bytes(b"x" * 4096)
    program = f"""if True:
        import os, signal, trio
        from pathlib import Path
        from tests.disk.support import children, serving
        async def main():
            async with serving(Path({str(root)!r}), helpers={kind!r}, gate="always") as disk:
                file = await disk.open(b"file")
                await disk.ready(file, 0, 4096)
                print(*children(), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        trio.run(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=GUARD,
        env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")},
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == ""
    pids = done.stdout.split()
    assert bool(pids) is (kind == "process")
    eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))


async def test_a_stuck_helper_does_not_hold_up_the_end(broken: BrokenDisk, kind: str) -> None:
    path = broken.root / "file"
    path.write_bytes(os.urandom(MIB))
    evict(path)
    before, threads = children(), helper_threads()
    ours, theirs = pair()
    with path.open("rb") as opened:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carrier(kind), theirs)
            broken.disk.hang("read")
            fds = opened.fileno().to_bytes(4, sys.byteorder)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
            await ours.sendmsg([Order(Operation.LOAD, length=MIB).pack(1)], rights)
            await in_thread(broken.disk.wait_hanging)
            nursery.cancel_scope.cancel()
        assert broken.disk.hanging() > 0, "the carrier has ended before the disk let go"
        ours.close()
        broken.disk.release()
        eventually(lambda: helper_threads() <= threads and children() <= before)
