"""The rules of a whole test run: Hypothesis profiles, no skipped test in CI, how servers serve; and
what tests in several folders need."""

import contextlib
import math
import os
import signal
from collections.abc import Callable, Generator, Iterator

import pytest
import trio
from hypothesis import settings

from fuzz import limits
from fuzz.campaign import profiles
from tests.rig import GUARD
from tests.rig.server import COMMON_OPTIONS, PATIENCE
from trio_amped.disk import carriers, crew, descriptors, kernel

# Seconds of CPU time that one test may take. A test that spins fails by this limit, on an idle
# machine as on a busy one; a test that waits for ever by pytest-timeout's (pyproject.toml).
CPU_LIMIT = 600.0

DEADLINES = ("head", "keep-alive", "send", "disk", "drain")

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

# A run in the background ignores ^C, and so would all programs that it starts and stops by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

profiles.register()
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))


class NoSkips:
    """CI has all that the tests need: a skipped test there is one that nobody runs."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        self.skipped.append(f"{report.nodeid}: {reason}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skipped and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skipped:
            terminalreporter.section("skipped in CI, which is a failure", red=True, bold=True)
            for line in self.skipped:
                terminalreporter.line(line, red=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-fast-lane", action="store_true", help="servers serve by tasks, unless told otherwise"
    )
    parser.addoption(
        "--brief", action="store_true", help="serve from memory by the lane alone; few examples"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "impatient: it gives up where the program does")
    config.addinivalue_line("markers", "measured: the coverage of its processes counts")
    # On a busy machine a client of ours may need longer than servers give to others.
    PATIENCE.extend(f"--{what}-timeout=1000" for what in DEADLINES)
    if config.getoption("--no-fast-lane"):
        COMMON_OPTIONS.append("--no-fast-lane")
    if config.getoption("--brief"):
        settings.register_profile("brief", settings.default, max_examples=20)
        settings.load_profile("brief")
    if IN_CI:
        config.pluginmanager.register(NoSkips(), "no-skips")


class Spinning(BaseException):
    """A test that does not end. No server, nor Hypothesis, takes this for an error of its own."""


def _end() -> None:
    raise Spinning(f"it did not end in {CPU_LIMIT:g} s of CPU time")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Limit the CPU time of a test."""
    with limits.alarm(signal.ITIMER_PROF, CPU_LIMIT, _end):
        return (yield)


@pytest.fixture(scope="module", autouse=True)
def _unmeasured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Processes that are started do not measure their coverage, but those of `measured` modules.

    Each would take half as long again to start, and twice as long for what it does; and hardly a
    line is reached by them alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("measured"):
            for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
                patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def _log_is_printable(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Nothing in a line of our log is obeyed by a terminal, or begins another line."""
    yield
    for record in caplog.get_records("call"):
        if record.name.startswith("trio_amped"):
            assert record.getMessage().isprintable()


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What trio was asked to do in threads."""
    asked: list[object] = []
    start = trio.lowlevel.start_thread_soon

    def noted(work: Callable[[], object], *arguments: object) -> None:
        asked.append(work)
        start(work, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", noted)
    monkeypatch.setattr(trio._threads, "start_thread_soon", noted)
    return asked


@pytest.fixture
def as_long_as_it_takes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the starts and ends of threads and processes, where the program would give up.

    A busy machine may need longer than a second to start one, or to end a process that was killed.
    Tests on virtual time have the program's own limits, and so have those that are about them.
    """
    is_about_them = request.node.get_closest_marker("impatient")
    if not is_about_them and "autojump_clock" not in request.fixturenames:
        monkeypatch.setattr(carriers, "_KILL_TIMEOUT", GUARD)
        monkeypatch.setattr(descriptors, "_PATIENCE", GUARD)
        monkeypatch.setattr(crew, "_START_PATIENCE", GUARD)
        monkeypatch.setattr(crew, "START_LIMIT", 2 * GUARD)


@pytest.fixture(autouse=True)
def no_young_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no thread close files on virtual time, which would pass before the thread's."""
    if "autojump_clock" in request.fixturenames:
        monkeypatch.setattr(descriptors, "_WRITTEN_OUT", -math.inf)


@pytest.fixture
def nobody_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the kernel's caches answer where they can.

    While anything on the machine is renamed or mounted they may say "don't know" of anything, and
    a helper is asked: what tests count would depend on others.
    """
    openat2: Callable[[int, bytes, int, int], int] = kernel.openat2

    def asked_again(directory: int, path: bytes, flags: int, resolve: int) -> int:
        for _ in range(100 if resolve & kernel.RESOLVE_CACHED else 0):
            with contextlib.suppress(BlockingIOError):
                return openat2(directory, path, flags, resolve)
        return openat2(directory, path, flags, resolve)

    monkeypatch.setattr(kernel, "openat2", asked_again)
