"""What a service manager is told, by one process and by a supervisor, and when."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.real.support import put
from tests.rig import GUARD, running_server
from trio_amped.notify import READY, ServiceManager


class Manager:
    """The service manager's end: a socket in a file, or an abstract one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name.replace("@", "\0", 1))
        self.socket.settimeout(GUARD)

    def hear(self) -> dict[str, str]:
        """The next message, but that the watchdog has been fed."""
        while "WATCHDOG" in (message := self.hear_all()):
            pass
        return message

    def hear_all(self) -> dict[str, str]:
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def has_heard(self) -> list[dict[str, str]]:
        """What is here already."""
        self.socket.setblocking(False)
        messages = []
        try:
            while True:
                messages.append(self.hear_all())
        except BlockingIOError:
            self.socket.settimeout(GUARD)
            return messages


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = str(tmp_path / "notify") if request.param == "file" else f"@trio_amped-{os.getpid()}"
    found = Manager(name)
    yield found
    found.socket.close()


def test_a_state_and_a_status_are_one_message(manager: Manager) -> None:
    """In which no line is somebody else's."""
    ours = ServiceManager({"NOTIFY_SOCKET": manager.name}, 7)
    ours.tell(READY, "serving a\nSTOPPING=1")
    assert manager.has_heard() == [{"READY": "1", "STATUS": r"serving a\nSTOPPING=1"}]
    ours.tell(READY)
    assert manager.has_heard() == [{"READY": "1"}]


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "relative"])
def test_nobody_wants_to_know(name: str, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager({"NOTIFY_SOCKET": name} if name else {}, 7).tell(READY)
    assert caplog.messages == []


def test_a_manager_that_is_gone_is_no_reason_to_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager({"NOTIFY_SOCKET": f"{tmp_path}/none"}, 7).tell(READY)
    assert caplog.messages == [
        "the service manager cannot be told READY=1: No such file or directory"
    ]


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_whose_watchdog_it_is(environment: dict[str, str], seconds: float | None) -> None:
    assert ServiceManager(environment, 7).watchdog == seconds


async def test_the_event_loop_feeds_the_watchdog(
    manager: Manager, autojump_clock: MockClock
) -> None:
    """Twice in its time; and it does not when the loop stands still."""
    ours = ServiceManager({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "3000000"}, 7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.feed)
        await trio.sleep(4.0)
        assert manager.has_heard() == [{"WATCHDOG": "1"}] * 3
        nursery.cancel_scope.cancel()


async def test_without_a_watchdog_nobody_feeds(autojump_clock: MockClock) -> None:
    await ServiceManager({}, 7).feed()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "root/small", b"small")
    return tmp_path / "root"


def test_the_life_of_one_process(
    root: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    with running_server(root=root) as server:
        assert manager.hear_all() == {"WATCHDOG": "1"}
        assert manager.hear() == {"READY": "1", "STATUS": "serving"}
        server.stop()
        assert manager.hear() == {"STOPPING": "1", "STATUS": "finishing what is being sent"}
        assert manager.has_heard() == []


def test_the_life_of_a_supervisor(
    root: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers say nothing: they are restarted between RELOADING=1 and READY=1."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    with running_server("--workers", "2", root=root) as server:
        assert manager.hear_all() == {"WATCHDOG": "1"}
        assert manager.hear() == {"READY": "1", "STATUS": "2 workers serve"}
        before = time.monotonic_ns() // 1000
        os.kill(server.pid, signal.SIGHUP)
        says = manager.hear()
        assert before <= int(says.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
        assert says == {"RELOADING": "1", "STATUS": "reading the settings anew"}
        assert manager.hear() == {"READY": "1", "STATUS": "2 workers serve, all new"}
        root.rename(root.with_name("elsewhere"))
        os.kill(server.pid, signal.SIGHUP)
        assert manager.hear()["RELOADING"] == "1"
        says = manager.hear()
        assert says == {
            "READY": "1",
            "STATUS": "worker 1 could not be renewed; the old ones serve",
        }
        server.stop()
        assert manager.hear() == {"STOPPING": "1", "STATUS": "finishing what is being sent"}


def test_a_server_that_cannot_serve_is_never_ready(
    root: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    with pytest.raises(AssertionError, match="No such file"), running_server(root=root / "none"):
        pass
    assert not any("READY" in each for each in manager.has_heard())
