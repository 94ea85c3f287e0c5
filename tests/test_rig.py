"""The real disks do what they say, and leave nothing behind."""

import contextlib
import errno
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.real.support import eventually
from tests.rig import (
    GUARD,
    NOBODY,
    FuseDisk,
    as_nobody,
    block_device,
    evict,
    forget_names,
    fuse_disk,
    held_in_memory,
    limited_cache,
    load,
    loop_ext4,
    missing,
    needs,
    overlayfs,
    public_directory,
    read_ahead,
    resident_pages,
    running_server,
    slow_cgroup,
    tmpfs,
)
from tests.rig.tools import require

MIB = 1 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for the mounts of one test, which must be gone afterwards."""
    with public_directory() as directory:
        yield directory
        assert str(directory) not in Path("/proc/self/mounts").read_text()
        left = [path.name for path in directory.iterdir()]
        assert not [name for name in left if "-" in name], "a mount point or an image is left"


@pytest.fixture
def backing(place: Path) -> Path:
    """A folder with one file of 1 MiB, for FUSE."""
    folder = place / "backing"
    folder.mkdir()
    (folder / "file").write_bytes(os.urandom(MIB))
    return folder


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


@pytest.fixture
def disk(place: Path, backing: Path, threads: ThreadPoolExecutor) -> Iterator[FuseDisk]:
    """It goes before the threads are waited for, which may wait for it."""
    with fuse_disk(place, backing) as disk:
        yield disk


def pages(size: int) -> int:
    return size // mmap.PAGESIZE


# ---------------------------------------------------------------- what this machine can do


def test_missing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    missing.cache_clear()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    try:
        assert missing("root") == "no root: not root"
        assert missing("tmpfs") == "no tmpfs: not root"
        assert missing("nginx") == "no nginx: not installed: apt-get install nginx"
        mark = needs("root", "nginx").mark
        assert mark.args == (True,)
        assert mark.kwargs["reason"] == (
            "no root: not root; no nginx: not installed: apt-get install nginx"
        )
        with pytest.raises(RuntimeError, match=r"^not installed: apt-get install curl zsync$"):
            require("zsyncmake", "zsync", "curl")
    finally:
        missing.cache_clear()


def test_a_program_that_no_package_has_is_a_mistake() -> None:
    """It would be skipped everywhere, since nothing installs it."""
    with pytest.raises(KeyError):
        needs("sh")


@needs("nobody")
def test_every_probe_has_an_answer_for_strangers() -> None:
    program = "from tests.rig.features import missing, _PROBES\nfor f in _PROBES: print(missing(f))"
    argv = as_nobody([sys.executable, "-W", "error", "-c", program])
    plain = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    done = subprocess.run(
        argv, capture_output=True, text=True, cwd="/", env=plain | {"PYTHONPATH": os.getcwd()}
    )
    assert done.stderr == ""
    answers = done.stdout.splitlines()
    assert {"no root: not root", "no loop: not root", "no blkio: not root"} <= set(answers)


# ---------------------------------------------------------------- mounts


@needs("loop")
def test_loop_ext4_is_a_disk_of_its_own(place: Path) -> None:
    with loop_ext4(place, 16 * MIB, read_ahead_kb=128) as mount:
        device = block_device(mount)
        assert device.name.startswith("loop")
        assert read_ahead(device).read_text().strip() == "128"
        assert mount.stat().st_dev != place.stat().st_dev
        (mount / "file").write_text("hello")
        assert (mount / "file").read_text() == "hello"
    assert not (Path("/sys/block") / device.name / "loop" / "backing_file").is_file() or (
        str(place) not in (Path("/sys/block") / device.name / "loop/backing_file").read_text()
    )


@needs("loop")
def test_loop_ext4_keeps_an_image_that_was_given(place: Path) -> None:
    image = place / "image"
    with loop_ext4(place, 16 * MIB, image=image) as mount:
        (mount / "file").write_text("hello")
    with loop_ext4(place, 16 * MIB, image=image, options="noatime") as mount:
        assert (mount / "file").read_text() == "hello"
        assert os.statvfs(mount).f_flag & os.ST_NOATIME


@needs("loop")
def test_a_failing_test_leaves_no_mount(place: Path) -> None:
    """The `place` fixture looks for leftovers; a file that is still open is not in the way."""
    with contextlib.ExitStack() as later:
        with contextlib.suppress(ZeroDivisionError), loop_ext4(place, 16 * MIB) as mount:
            later.enter_context((mount / "file").open("wb"))
            _ = 1 / 0
        assert str(mount) not in Path("/proc/self/mounts").read_text()


@needs("overlay")
def test_overlayfs_shows_the_lower_files_and_does_not_change_them(place: Path) -> None:
    lower = place / "lower"
    lower.mkdir()
    (lower / "file").write_text("lower")
    with overlayfs(place, lower) as mount:
        assert (mount / "file").read_text() == "lower"
        (mount / "file").write_text("upper")
        assert (mount / "file").read_text() == "upper"
    assert (lower / "file").read_text() == "lower"


@needs("tmpfs")
def test_tmpfs_cannot_be_evicted(place: Path) -> None:
    with tmpfs(place) as mount:
        (mount / "file").write_bytes(b"x" * mmap.PAGESIZE)
        with pytest.raises(AssertionError, match=r"1 pages of .* stay in memory"):
            evict(mount / "file")


# ---------------------------------------------------------------- the page cache


@needs("loop")
def test_evict_and_load(place: Path) -> None:
    with loop_ext4(place, 32 * MIB) as mount:
        file = mount / "file"
        file.write_bytes(os.urandom(MIB + 1))  # dirty: evict writes it first
        evict(file)
        assert resident_pages(file) == 0
        load(file)
        assert resident_pages(file) == pages(MIB) + 1
        (mount / "empty").touch()
        assert resident_pages(mount / "empty") == 0


@needs("loop")
def test_what_was_sent_to_another_cpu_is_evicted(place: Path) -> None:
    """Its packets are freed late: without _free_packets this failed for one file of six."""
    cpus = sorted(os.sched_getaffinity(0))

    def receive(client: socket.socket, size: int) -> None:
        os.sched_setaffinity(0, {cpus[-1]})  # of this thread
        while size:
            size -= len(client.recv(size))

    def send(server: socket.socket, file: Path) -> None:
        os.sched_setaffinity(0, {cpus[0]})
        with file.open("rb") as opened:
            server.sendfile(opened)

    with (
        loop_ext4(place, 32 * MIB) as mount,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
        ThreadPoolExecutor(2) as threads,
    ):
        for number in range(50):
            file = mount / str(number)
            file.write_bytes(os.urandom(MIB // 8))
            both = threads.submit(receive, client, MIB // 8), threads.submit(send, server, file)
            for each in both:
                each.result(GUARD)
            evict(file)


@needs("loop")
def test_held_in_memory(place: Path) -> None:
    with loop_ext4(place, 32 * MIB) as mount:
        file = mount / "file"
        file.write_bytes(os.urandom(MIB + 1))
        evict(file)
        with held_in_memory(file):
            with pytest.raises(AssertionError, match="stay in memory"):
                evict(file)
            assert resident_pages(file) == pages(MIB) + 1
        evict(file)


@needs("fuse", "root")
def test_forget_names(disk: FuseDisk, place: Path, backing: Path) -> None:
    with fuse_disk(place, backing, entry_timeout=3600, attr_timeout=3600) as patient:

        def lookups() -> int:
            before = patient.counts().get("getattr", 0)
            (patient.path / "file").stat()
            return patient.counts()["getattr"] - before

        assert lookups() > 0
        assert lookups() == 0
        forget_names()
        assert lookups() > 0


# ---------------------------------------------------------------- FUSE


@needs("fuse")
def test_fuse_passes_through(disk: FuseDisk, backing: Path) -> None:
    file = disk.path / "file"
    assert file.read_bytes() == (backing / "file").read_bytes()
    ours, theirs = file.stat(), (backing / "file").stat()
    for name in ("st_ino", "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns"):
        assert getattr(ours, name) == getattr(theirs, name)
    (disk.path / "new").write_text("hello")
    (disk.path / "new").rename(disk.path / "newer")
    assert (backing / "newer").read_text() == "hello"
    os.truncate(disk.path / "newer", 4)
    assert sorted(path.name for path in disk.path.iterdir()) == ["file", "newer"]
    assert (disk.path / "newer").read_text() == "hell"
    (disk.path / "newer").unlink()
    with pytest.raises(FileNotFoundError):
        (disk.path / "newer").stat()


@needs("fuse")
def test_fuse_counts_and_asks_at_every_fstat(disk: FuseDisk) -> None:
    with (disk.path / "file").open("rb") as file:
        before = disk.counts()
        os.fstat(file.fileno())
        os.fstat(file.fileno())
        assert disk.counts()["getattr"] == before["getattr"] + 2
    assert disk.counts()["open"] == 1
    assert disk.counts()["flush"] == 1
    disk.wait_counted("release", 1)


@needs("fuse")
def test_fuse_hangs_and_lets_go(disk: FuseDisk, threads: ThreadPoolExecutor) -> None:
    file = disk.path / "file"
    disk.hang("open", "readdir")
    openers = [threads.submit(file.read_bytes) for _ in range(3)]
    lister = threads.submit(os.listdir, disk.path)
    disk.wait_hanging(4)
    assert disk.hanging() == 4
    assert not any(opener.done() for opener in openers)
    assert file.stat().st_size == MIB  # the others go on
    disk.release("readdir")
    assert lister.result(GUARD) == ["file"]
    assert disk.hanging() == 3
    disk.release()
    assert {len(opener.result(GUARD)) for opener in openers} == {MIB}


@needs("fuse")
def test_fuse_lets_those_go_that_hang(disk: FuseDisk, threads: ThreadPoolExecutor) -> None:
    file = disk.path / "file"
    disk.hang("open")
    first = threads.submit(file.read_bytes)
    disk.wait_hanging()
    disk.let_go()
    assert len(first.result(GUARD)) == MIB
    second = threads.submit(file.read_bytes)
    disk.wait_hanging()
    assert not second.done()
    disk.release()
    assert len(second.result(GUARD)) == MIB


@needs("fuse")
def test_fuse_hangs_many_calls(backing: Path, disk: FuseDisk, threads: ThreadPoolExecutor) -> None:
    """More than libfuse's ten threads and the kernel's twelve read-ahead requests."""
    for number in range(24):
        (backing / f"{number}").write_bytes(b"x" * mmap.PAGESIZE)
    disk.hang("read")
    reads = [threads.submit((disk.path / f"{number}").read_bytes) for number in range(24)]
    disk.wait_hanging(24)
    assert (disk.path / "file").stat().st_size == MIB
    disk.release()
    assert {len(read.result(GUARD)) for read in reads} == {mmap.PAGESIZE}


@needs("fuse")
def test_fuse_hangs_a_lookup_and_a_close(disk: FuseDisk, threads: ThreadPoolExecutor) -> None:
    disk.hang("getattr")
    stat = threads.submit((disk.path / "file").stat)
    disk.wait_hanging()
    disk.release()
    assert stat.result(GUARD).st_size == MIB
    fd = os.open(disk.path / "file", os.O_RDONLY)
    disk.hang("flush")
    close = threads.submit(os.close, fd)
    disk.wait_hanging()
    assert not close.done()
    disk.release()
    close.result(GUARD)


@needs("fuse")
def test_fuse_fails_also_a_call_that_hung(disk: FuseDisk, threads: ThreadPoolExecutor) -> None:
    file = disk.path / "file"
    disk.fail("read", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        file.read_bytes()
    disk.fail("read", 0)
    assert len(file.read_bytes()) == MIB
    disk.hang("open")
    opener = threads.submit(file.open)
    disk.wait_hanging()
    disk.fail("open", errno.EACCES)
    disk.release()
    with pytest.raises(PermissionError):
        opener.result(GUARD)


@needs("fuse")
def test_fuse_delays(disk: FuseDisk, threads: ThreadPoolExecutor) -> None:
    disk.delay("open", 0.05)
    start = time.monotonic()
    (disk.path / "file").read_bytes()
    assert time.monotonic() - start >= 0.05
    disk.delay("open", 3600)
    before = disk.counts()["open"]
    slow = threads.submit((disk.path / "file").read_bytes)
    disk.wait_counted("open", before + 1)
    disk.reset()  # cuts short a delay that has begun
    assert len(slow.result(GUARD)) == MIB


@needs("fuse")
def test_fuse_leaves_when_calls_hang(place: Path, backing: Path) -> None:
    with ThreadPoolExecutor() as threads:
        with fuse_disk(place, backing) as disk:
            disk.hang("read")
            read = threads.submit((disk.path / "file").read_bytes)
            disk.wait_hanging()
        with contextlib.suppress(OSError):  # it was let go, or its file system went first
            assert len(read.result(GUARD)) == MIB


@needs("fuse")
def test_fuse_reports_why_it_did_not_start(place: Path, backing: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"did not start: (.|\n)*nonsense"),
        fuse_disk(place, backing, options=["nonsense"]),
    ):
        pass


@needs("fuse")
@pytest.mark.parametrize("operation", ["read", "open"])  # a thread that can be killed, or cannot
def test_fuse_ends_with_its_tests(place: Path, backing: Path, operation: str) -> None:
    """Killed tests clean up nothing; the FUSE process notices, lets go, unmounts and ends."""
    program = f"""if True:
        import os, signal, threading
        from pathlib import Path
        from tests.rig import fuse_disk
        with fuse_disk(Path({str(place)!r}), Path({str(backing)!r})) as disk:
            disk.hang({operation!r})
            threading.Thread(target=(disk.path / "file").read_bytes).start()
            disk.wait_hanging()
            print(disk.path, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,  # the FUSE process does not have it: it ends with the tests
        text=True,
        timeout=GUARD,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    path = Path(done.stdout.strip())
    eventually(lambda: str(path) not in Path("/proc/self/mounts").read_text())
    path.rmdir()


@needs("fuse", "loop")
def test_an_ext4_on_fuse_has_its_faults(
    place: Path, disk: FuseDisk, threads: ThreadPoolExecutor
) -> None:
    with loop_ext4(place, 16 * MIB, 128, image=disk.path / "image") as mount:
        file = mount / "file"
        content = os.urandom(MIB)
        file.write_bytes(content)

        evict(file)
        before = disk.counts()["read"]
        assert file.read_bytes() == content
        assert disk.counts()["read"] > before, "a cold read must come from FUSE"
        before = disk.counts()["read"]
        assert file.read_bytes() == content
        assert disk.counts()["read"] == before, "a hot one must not"

        evict(file)
        disk.delay("read", 0.05)
        start = time.monotonic()
        assert file.read_bytes() == content
        assert time.monotonic() - start >= 0.05
        disk.reset()

        evict(file)
        disk.fail("read", errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            file.read_bytes()
        disk.reset()

        evict(file)
        disk.hang("read")
        cold = threads.submit(file.read_bytes)
        disk.wait_hanging()
        assert file.stat().st_size == MIB
        assert not cold.done()
        disk.release()
        assert cold.result(GUARD) == content

        evict(file)
        disk.hang("read")  # and leave so: it is let go before the unmount
        cold = threads.submit(file.read_bytes)
        disk.wait_hanging()
    assert cold.result(GUARD) == content


# ---------------------------------------------------------------- a slow disk, another user


@needs("loop", "blkio")
def test_a_slow_cgroup_slows_cold_reads_of_its_processes_only(place: Path) -> None:
    with loop_ext4(place, 32 * MIB, read_ahead_kb=128) as mount:
        slowly, freely = mount / "slowly", mount / "freely"
        for file in (slowly, freely):
            file.write_bytes(os.urandom(MIB))
            evict(file)
        with slow_cgroup(mount, 4 * MIB) as slow:
            command = slow.command(["cat", str(slowly)])
            start = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            assert time.monotonic() - start > 0.2

            evict(slowly)
            slow.limit(1024)  # it would take a quarter of an hour
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as limited:
                subprocess.run(["cat", str(freely)], check=True, stdout=subprocess.DEVNULL)
                assert resident_pages(freely) == pages(MIB)
                assert limited.poll() is None
                slow.limit(400 * MIB)
                assert limited.wait(GUARD) == 0


@needs("loop", "blkio")
def test_a_slow_cgroup_limits_operations_and_its_disk_counts_them(place: Path) -> None:
    with loop_ext4(place, 32 * MIB, read_ahead_kb=128) as mount:
        file = mount / "file"
        file.write_bytes(os.urandom(MIB))
        evict(file)
        with slow_cgroup(mount, operations=8) as slow:
            command, before = slow.command(["cat", str(file)]), slow.reads()
            start = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            assert time.monotonic() - start > 0.2
            reads = slow.reads().since(before)
            assert MIB <= reads.bytes < 2 * MIB
            assert 0 < reads.operations < pages(MIB), "as large as the kernel makes them"

            evict(file)
            slow.limit(operations=1)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as limited:
                slow.limit()  # also for what waits already
                assert limited.wait(GUARD) == 0


@needs("loop", "blkio")
def test_a_slow_cgroup_goes_when_it_is_busy(place: Path) -> None:
    with (
        loop_ext4(place, 16 * MIB) as mount,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as cat,
    ):
        with slow_cgroup(mount, MIB) as slow:
            slow.add(cat.pid)
            assert str(cat.pid) in (slow.directory / "cgroup.procs").read_text().split()
        assert not slow.directory.exists()


@needs("loop", "memory")
def test_a_limited_cache_is_as_large_whatever_its_processes_need(place: Path) -> None:
    """The memory of their own is half of the limit here, and costs no page of a file."""
    program = (
        "import sys; own = bytearray(16 << 20); print(len(own), flush=True); sys.stdin.readline();"
        " sum(map(len, open(sys.argv[1], 'rb')))"
    )
    with loop_ext4(place, 96 * MIB) as mount, limited_cache(32 * MIB) as cache:
        file = mount / "file"
        with file.open("wb") as writer:
            for _ in range(64):
                writer.write(os.urandom(MIB))
        evict(file)
        reader = cache.command([sys.executable, "-c", program, str(file)])
        pipe = subprocess.PIPE
        with subprocess.Popen(reader, stdin=pipe, stdout=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            cache.follow()
            process.communicate(b"\n")
        assert process.returncode == 0
        assert 24 * MIB < cache.cached() <= 32 * MIB
    assert not cache.directory.exists()


@needs("loop", "memory")
def test_a_limited_cache_counts_the_memory_of_processes_that_start_later(place: Path) -> None:
    """As helpers do: two that have half of the limit between them cost no page of a file."""
    helper = "import sys; own = bytearray(8 << 20); print(len(own), flush=True); sys.stdin.read()"
    program = f"""if True:
        import subprocess, sys
        pipe = subprocess.PIPE
        for _ in range(2):
            helper = subprocess.Popen([sys.executable, "-c", {helper!r}], stdin=pipe, stdout=pipe)
            helper.stdout.readline()
        print("ready", flush=True)
        sys.stdin.readline()
        sum(map(len, open(sys.argv[1], "rb")))
        print("read", flush=True)
        sys.stdin.readline()
    """
    with loop_ext4(place, 96 * MIB) as mount, limited_cache(32 * MIB) as cache:
        file = mount / "file"
        file.write_bytes(os.urandom(64 * MIB))
        evict(file)
        reader = cache.command([sys.executable, "-c", program, str(file)])
        pipe = subprocess.PIPE
        with subprocess.Popen(reader, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            cache.follow()
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "read\n"
            assert 24 * MIB < cache.cached() <= 32 * MIB
            process.communicate("\n")


@needs("blkio")
def test_a_slow_cgroup_wants_a_block_device() -> None:
    with (
        pytest.raises(RuntimeError, match="not on a block device"),
        slow_cgroup(Path("/proc"), MIB),
    ):
        pass


@needs("nobody")
def test_nobody_is_a_stranger_with_our_interpreter(place: Path) -> None:
    (place / "secret").write_text("secret")
    (place / "secret").chmod(0o600)
    (place / "public").write_text("public")
    program = f"""if True:
        import os, sys, trio
        from pathlib import Path
        import trio_amped
        print(os.getresuid(), os.getresgid(), os.getgroups(), os.getpid())
        print(sys.base_prefix, os.__file__.startswith(sys.base_prefix))
        print([line.split()[1] for line in open("/proc/self/status") if line[:6] == "CapEff"])
        print(Path({str(place / "public")!r}).read_text())
        Path({str(place / "secret")!r}).read_text()
    """
    argv = as_nobody([sys.executable, "-c", program])
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        output, errors = process.communicate()
    ids = (NOBODY,) * 3
    assert output.splitlines() == [
        f"{ids} {ids} [] {process.pid}",
        f"{sys.base_prefix} True",
        "['0000000000000000']",
        "public",
    ]
    assert "PermissionError" in errors


# ---------------------------------------------------------------- servers

STAND_IN = """if True:
    import http.server, os, signal, sys
    os.chdir(sys.argv[sys.argv.index("--root") + 1])
    if "--fail" in sys.argv:
        sys.exit("cannot do that")
    if "--stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    if "--helper" in sys.argv:
        print("helper", os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600"), flush=True)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    print(f"listening on http://127.0.0.1:{server.server_port}/ uid", os.geteuid(), flush=True)
    server.serve_forever()
"""
PROGRAM = (sys.executable, "-c", STAND_IN)


@needs("curl")
def test_running_server(place: Path) -> None:
    (place / "file").write_text("hello")
    with running_server(root=place, program=PROGRAM) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        body = subprocess.run(["curl", "-s", f"{server.url}/file"], capture_output=True, check=True)
        assert body.stdout == b"hello"
        assert server.wait_for_log(r"GET (\S+)")[1] == "/file"
        assert any("listening" in line for line in server.log)
        assert Path(f"/proc/{server.pid}/cmdline").read_bytes().startswith(sys.executable.encode())
        assert server.stop() == 3
        with pytest.raises(AssertionError, match=r"the server has ended(.|\n)*listening"):
            server.wait_for_log("never said")


@needs("nobody", "curl")
def test_running_server_is_ours_by_default(place: Path) -> None:
    (place / "file").write_text("hello")
    with running_server(root=place, wrap=as_nobody) as server:
        argv = ["curl", "-s", f"{server.url}/file"]
        assert subprocess.run(argv, capture_output=True, check=True).stdout == b"hello"
        assert server.stop() == 0


@needs("nobody", "loop", "blkio", "curl")
def test_running_server_as_a_stranger_on_a_slow_disk(place: Path) -> None:
    with loop_ext4(place, 16 * MIB) as mount, slow_cgroup(mount, 100 * MIB) as slow:
        (mount / "file").write_text("hello")
        with running_server(
            root=mount, program=PROGRAM, wrap=lambda argv: slow.command(as_nobody(argv))
        ) as server:
            assert server.wait_for_log(r"uid (\d+)")[1] == str(NOBODY)
            assert str(server.pid) in (slow.directory / "cgroup.procs").read_text().split()
            argv = ["curl", "-s", f"{server.url}/file"]
            assert subprocess.run(argv, capture_output=True, check=True).stdout == b"hello"


def test_running_server_says_why_it_did_not_start(place: Path) -> None:
    with (
        pytest.raises(AssertionError, match="cannot do that"),
        running_server("--fail", root=place, program=PROGRAM),
    ):
        pass


def test_running_server_ends_helpers_too(place: Path) -> None:
    with running_server("--helper", root=place, program=PROGRAM) as server:
        helper = int(server.wait_for_log(r"helper (\d+)")[1])
        life = os.pidfd_open(helper)
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        assert select.select([life], [], [], 0)[0] == [], "killed alone, it leaves its helper"
    assert select.select([life], [], [], GUARD)[0] == [life]
    os.close(life)


@needs("fuse", "curl")
def test_running_server_ends_on_a_hung_disk(disk: FuseDisk) -> None:
    with running_server("--stubborn", root=disk.path, program=PROGRAM) as server:
        disk.hang("open")  # a hung read of cached pages ends by SIGKILL, a hung open does not
        with subprocess.Popen(["curl", "-s", f"{server.url}/file"], stdout=subprocess.DEVNULL):
            disk.wait_hanging()
            with pytest.raises(subprocess.TimeoutExpired):
                server.stop(signal.SIGKILL, timeout=0.1)
            assert server.process.poll() is None
            server.end(patience=0.1)
        assert server.process.returncode == -signal.SIGKILL
