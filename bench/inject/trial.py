"""One case: a server under load, a call of it that fails, and what can be seen of it. Blocks."""

import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from bench.inject.load import Client, Site, Tally
from bench.inject.outcome import Case, Seen, is_harm, judge
from bench.inject.roles import Role, children, restart, until
from bench.soak.processes import Process
from tests.rig import ServerProcess, public_directory, running_server

RECOVERY: Final = 30.0  # seconds, after which it must answer everything again
# Seconds for what is let go of: listings end by their age, and the thread that closes them is idle
# for ten before it ends.
_GIVEN_BACK: Final = 20.0
_END: Final = 20.0  # seconds
_DETACHED: Final = 3.0  # seconds
_OPTIONS: Final = ("--listing", "--disk-timeout", "5", "--drain-timeout", "5")
# The kernel closes and unmaps even where it says that something was wrong; a call that is made to
# fail is not made at all.
_WAKING: Final = "_wakeup_socketpair.py"  # in a traceback
_NOT_DONE: Final = ("close", "munmap")


class Trace:
    """strace, attached to a process or a thread."""

    def __init__(self, process: "subprocess.Popen[str]", output: Path) -> None:
        self._process = process
        self._output = output

    def text(self) -> str:
        return self._output.read_text(errors="replace")

    def has_injected(self) -> bool:
        return "(INJECTED)" in self.text()

    def stop(self) -> None:
        """Detach; once more does nothing.

        strace cannot let go of a process that waits for its vfork(2): where strace is no more, the
        kernel does.
        """
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=_DETACHED)
            self._process.kill()
            self._process.communicate()


@contextmanager
def traced(role: Role, tid: int, *options: str) -> Iterator[Trace]:
    with tempfile.NamedTemporaryFile(prefix="inject-") as output:
        command = ["strace", "-o", output.name, *(["-f"] if role.follows else []), *options]
        process = subprocess.Popen(
            [*command, "-p", str(tid)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        trace = Trace(process, Path(output.name))
        try:
            assert process.stderr is not None
            if "attached" not in (said := process.stderr.readline()):
                raise RuntimeError(f"strace: {said.strip()}")
            yield trace
        finally:
            trace.stop()


@contextmanager
def warm_server(role: Role) -> Iterator["Trial"]:
    """A server that has answered everything once; its clients are gone."""
    with public_directory() as base:
        site, tally = Site(base), Tally()
        with (
            running_server(*_OPTIONS, *role.options, root=site.root) as server,
            closing(Client(server.port, tally)) as client,
        ):
            trial = Trial(role, site, server, client, tally)
            if not until(lambda: client.visit(site)):
                raise RuntimeError(f"it does not answer, unharmed: {tally.reasons[-3:]}")
            client.close()
            yield trial


def calls_of(role: Role) -> dict[str, int]:
    """Return how often at most a role makes each system call in one trial."""
    with (
        warm_server(role) as trial,
        traced(role, trial.tracee(), "-c", "-U", "name,calls") as trace,
    ):
        trial.stir()
        trace.stop()
        found = re.findall(r"^ *(\w+) +(\d+)$", trace.text(), re.MULTILINE)
    return {name: int(count) * role.times for name, count in found if name != "total"}


def outcomes_of(role: Role, cases: list[Case]) -> Iterator[tuple[Case, str, list[str]]]:
    """Try cases on one server, for as long as it is unharmed.

    Yields each case with its outcome and what was said. What is harm, or what the server was like
    when it did not end well, is found out by a server for each case alone.
    """
    found = []
    with warm_server(role) as trial:
        for case in cases:
            seen = trial.tried(case)
            found.append((case, judge(seen), trial.said()))
            if is_harm(found[-1][1]) or seen.was_replaced or seen.ended is not None:
                break
        status = trial.end()
        is_trios = trial.is_trios()
    if len(found) == 1:
        case, outcome, said = found[0]
        ended = judge(Seen(status=status, is_trios=is_trios))
        yield case, ended if status != 0 and not is_harm(outcome) else outcome, said
        return
    for case, outcome, said in found:
        if status != 0 or is_harm(outcome):
            yield from outcomes_of(role, [case])
        else:
            yield case, outcome, said


def _process_of(tid: int) -> int:
    status = Path(f"/proc/{tid}/status").read_text()
    return int(re.findall(r"^Tgid:\s+(\d+)", status, re.MULTILINE)[0])


class Trial:
    """A server, and what is tried with it."""

    def __init__(
        self, role: Role, site: Site, server: ServerProcess, client: Client, tally: Tally
    ) -> None:
        self._role = role
        self._site = site
        self._server = server
        self._client = client
        self._tally = tally
        self._lines = 0  # of the log, before this case

    def tracee(self) -> int:
        """The thread or process whose calls are looked at."""
        return self._role.find(self._server)

    def stir(self) -> None:
        self._role.stir(self._server, self._client, self._site)

    def said(self) -> list[str]:
        """Why requests have failed, and the end of the log."""
        return [*self._tally.reasons[-5:], *self._server.log[self._lines :][-30:]]

    def tried(self, case: Case) -> Seen:
        """Make a call fail, and see what is left of the server when nothing fails any more."""
        self._tally.clear()
        self._lines = len(self._server.log)
        tracee = self.tracee()
        pids = {self._server.pid, _process_of(tracee)}
        before = {pid: Process.of(pid, self._site.root) for pid in pids}
        was_reached = self._fail(case, tracee)
        answers = until(lambda: self._has_ended() or self._client.visit(self._site), RECOVERY)
        self._client.close()
        if self._has_ended():
            return Seen(ended=self._server.process.returncode, is_trios=self.is_trios())
        supervises = "--workers" not in self._role.options or restart(self._server)
        return Seen(
            was_reached=was_reached,
            was_repeated=self._role.follows,
            answers=answers,
            supervises=supervises,
            failed=self._tally.failed,
            hung=self._tally.hung,
            wrong="; ".join(self._tally.wrong[:1]),
            left=self._what_is_left(before, 1 if case.call in _NOT_DONE else 0),
            was_replaced=any(not Path(f"/proc/{pid}").exists() for pid in before),
            # That of a helper process whose interpreter cannot start is none of ours.
            traceback="" if self._role.follows else _traceback(self._server.log[self._lines :]),
        )

    def is_trios(self) -> bool:
        """Return whether it was trio that has ended, for want of the socket that wakes its loop."""
        return any(_WAKING in line for line in self._server.log)

    def end(self) -> int | None:
        """End the server by SIGTERM; return its exit status, None: it did not end."""
        try:
            return self._server.stop(signal.SIGTERM, _END)
        except subprocess.TimeoutExpired:
            return None

    def _has_ended(self) -> bool:
        return self._server.process.poll() is not None

    def _fail(self, case: Case, tracee: int) -> bool:
        """Have the call fail while the server is busy; return whether it was made."""
        action = f"inject={case.call}:error={case.error}:when={case.when}"
        with traced(self._role, tracee, "-e", f"trace={case.call}", "-e", action) as trace:
            has_injected = False
            for _ in range(self._role.times):
                self.stir()
                if has_injected := trace.has_injected():
                    break
        return has_injected

    def _what_is_left(self, before: dict[int, Process], allowed: int) -> str:
        """What processes still hold, after a while, that they did not hold before."""
        left = ""

        def is_nothing_left() -> bool:
            nonlocal left
            left = _excess(before, self._site.root, allowed, self._role.most_children)
            return not left

        until(is_nothing_left, _GIVEN_BACK)
        return left


def _excess(before: dict[int, Process], root: Path, allowed: int, most_children: int) -> str:
    """What processes that live hold more of than before.

    Helpers are started when there is work for them, and some may have been missing before: each of
    them has its two sockets.
    """
    for pid, old in before.items():
        with suppress(OSError):
            new, count = Process.of(pid, root), len(children(pid))
            of_more = 2 * max(0, count - old.children)
            excess = {
                "descriptors": surplus(new.links, root) - surplus(old.links, root) - allowed,
                "sockets of helpers": new.helper_links - old.helper_links - of_more - allowed,
                "mappings": new.files - old.files - allowed,
                "threads": new.threads - old.threads,
                "children": count - max(old.children, most_children),
            }
            if more := [f"{count} {name}" for name, count in excess.items() if count > 0]:
                return ", ".join(more)
    return ""


def surplus(links: list[str], root: Path) -> int:
    """Return how many descriptors there are beside those that a server keeps open for answers.

    Those are one of each file and folder, and listings, of which old ones end by their age.
    """
    counts = Counter(link for link in links if not link.startswith("/memfd:listing"))
    kept = {link for link in counts if link.startswith(str(root)) and "(deleted)" not in link}
    return sum(counts.values()) - len(kept)


def _traceback(log: list[str]) -> str:
    """The last line of the first traceback in a log."""
    lines = iter(log)
    for line in lines:
        if "Traceback (most recent call last)" in line:
            return next((each for each in lines if re.match(r"[A-Za-z]", each)), line)
    return ""
