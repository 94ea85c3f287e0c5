"""A server in a process of its own, and what it says. Blocks."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tests.rig.fuse import calm_disks
from tests.rig.mount_points import public_directory
from tests.rig.tools import GUARD, REPOSITORY, identity

COMMON_OPTIONS: list[str] = []
"""Of all servers in this test run: pytest --no-fast-lane (tests/conftest.py)."""

PATIENCE: list[str] = []
"""The deadlines of all servers in this test run that are given no others (tests/conftest.py)."""


class ServerProcess:
    """A running server and what it has said. See `running_server`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self.url = ""
        self.port = 0
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._is_read = threading.Event()
        self._is_read.set()
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    @property
    def log(self) -> list[str]:
        """The lines that the server has written so far, to stderr or stdout."""
        with self._changed:
            return list(self._lines)

    def wait_for_log(self, pattern: str, timeout: float = GUARD) -> re.Match[str]:
        """Wait for a line in which this regular expression is found (or was, earlier)."""
        seen = 0
        found: re.Match[str] | None = None

        def look() -> bool:
            nonlocal seen, found
            while found is None and seen < len(self._lines):
                found = re.search(pattern, self._lines[seen])
                seen += 1
            return found is not None or self._ended

        with self._changed:
            self._changed.wait_for(look, timeout)
        if found is None:
            why = "the server has ended" if self._ended else f"nothing after {timeout} s"
            raise AssertionError(f"{pattern!r}: {why}; its log:\n" + "\n".join(self.log))
        return found

    def stop(self, signal: int = signal.SIGTERM, timeout: float = GUARD) -> int:
        """Send a signal, wait for the end, and return the exit status (-N: killed by signal N)."""
        self.process.send_signal(signal)
        return self.process.wait(timeout)

    @contextmanager
    def unread_log(self) -> Iterator[None]:
        """Inside, nobody reads what the server says, and its pipe has room for a page of it."""
        assert self.process.stdout is not None
        fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, resource.getpagesize())
        self._is_read.clear()
        try:
            yield
        finally:
            self._is_read.set()

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            self._is_read.wait()
            with self._changed:
                self._lines.append(line.decode(errors="backslashreplace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def end(self, patience: float = 60) -> None:
        """Whatever it takes: afterwards the server and its helpers are no more.

        No test depends on how: one that has failed may have left its disk hung, or clients.
        """
        try:
            if self.process.poll() is None:
                self.stop(timeout=patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
        try:
            self.process.wait(min(patience, 2))
        except subprocess.TimeoutExpired:
            calm_disks()  # not even SIGKILL ends a process that waits for a hung disk
            self.process.wait(GUARD)
        finally:
            with suppress(ProcessLookupError):  # its helpers, if it was killed
                os.killpg(self.pid, signal.SIGKILL)
            self._reader.join(2)
            if self._reader.is_alive():  # a helper waits for a hung disk
                calm_disks()
                self._reader.join(GUARD)
            if self.process.stdout is not None and not self._reader.is_alive():
                self.process.stdout.close()


@contextmanager
def running_server(
    *options: str,
    root: Path | None,
    wrap: Callable[[list[str]], list[str]] = identity,
    program: Sequence[str] = (sys.executable, "-m", "trio_amped"),
    timeout: float = GUARD,
) -> Iterator[ServerProcess]:
    """A server for `root` on a free port of 127.0.0.1, in a process and process group of its own.

    root: None where the options say what is served.

    With `--bind` among the options it is where that says.

    `wrap` puts other programs in front, such as `as_nobody` or `slow.command`; they must `exec`,
    so that `pid` is the server's. The server is listening when this is entered.
    """
    given = {option.partition("=")[0] for option in options}
    where = {} if "--bind" in given else {"--host": "127.0.0.1", "--port": "0"}
    where |= {} if root is None else {"--root": str(root)}
    argv = [*program]
    argv += [word for name in where if name not in given for word in (name, where[name])]
    argv += [each for each in PATIENCE if each.partition("=")[0] not in given]
    argv += [*(each for each in COMMON_OPTIONS if each not in given), *options]
    with _server_environment() as environment:
        process = subprocess.Popen(
            wrap(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        server = ServerProcess(process)
        try:
            found = server.wait_for_log(r"(https?://[^ ]+:(\d+))/", timeout)
            server.url, server.port = found[1], int(found[2])
            yield server
        finally:
            server.end()


@contextmanager
def _server_environment() -> Iterator[dict[str, str]]:
    """Our environment, in which the package is found, and strangers can save their coverage."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if "COVERAGE_PROCESS_CONFIG" not in environment:
        yield environment
        return
    ours = Path(os.environ.get("COVERAGE_FILE", REPOSITORY / ".coverage"))
    with public_directory() as scratch:
        scratch.chmod(0o1777)
        yield environment | {"COVERAGE_FILE": str(scratch / ours.name)}
        for saved in scratch.iterdir():
            shutil.move(saved, ours.parent / saved.name)
