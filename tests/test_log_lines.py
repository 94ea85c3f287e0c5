"""All that the log can be told: how loudly, in which words, and of what, in one table.

Whoever runs a server reads these lines, and has programs read them. Which of them come at which
event is for the tests of each room. What others have written, a target or the name of a file, goes
there by `printable` alone (tests/conftest.py looks at what is told in all tests).
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.rig import REPOSITORY

PACKAGE: Final = REPOSITORY / "trio_amped"
SILENT: Final = ("isEnabledFor", "addHandler", "removeHandler")
"""Methods of a logger that say nothing."""

LINES: Final[Mapping[str, Sequence[str]]] = {
    "access_log.py": (
        "error: 'the access log cannot be opened anew: %s; the old file is written', why",
        "error: 'the access log is not written fast enough: lines are lost'",
        "error: 'the access log does not take its last %d bytes', self._given - self._taken",
        "error: 'the access log cannot be written: %s; lines are lost', error.strerror",
        "error: '%d lines of the access log were lost', unwanted + unwritten",
    ),
    "alone.py": (
        "info: DRAINING, cause, self.fresh.config.drain_timeout",
        "info: 'SIGHUP: the new settings hold'",
        "warning: _TOO_MANY, GENERATIONS, timeout",
    ),
    "asgi.py": (
        "info: 'serving %s', printable(os.fspath(site.root))",
        "exception: 'a bug: the disk is closed until the next request'",
    ),
    "certificates.py": (
        "error: 'the certificate stays what it was: %s', printable(str(error))",
        "exception: 'a bug: the certificate stays what it was'",
        "info: 'new connections get the new certificate in %s', printable(self.certificate)",
    ),
    "cli.py": (
        "info: 'stopped; %s', _summary(alone.stats)",
        "info: 'stopped; %s%s', _summary(supervisor.stats), dead",
    ),
    "disk/carriers.py": (
        "exception: 'a disk helper thread failed'",
        "error: 'cannot start a disk helper: %s', error",
        "error: 'cannot start a disk helper: %s', error",
        "error: 'cannot watch a disk helper: %s', error",
        "error: 'cannot watch a disk helper: %s', error",
    ),
    "disk/crew.py": (
        "warning: 'a disk helper ended: another one takes its place'",
        "error: 'cannot start a disk helper: %s', error",
        "error: 'a disk helper has not started in %g s', START_LIMIT",
    ),
    "disk/descriptors.py": (
        "warning: 'closing a descriptor failed: %s', error",
        "error: 'files are closed later: %s', error",
    ),
    "disk/paths.py": (
        "warning: '%s: %s; serving what it was', printable(self._path), error",
        "info: '%s is another directory now', printable(self._path)",
    ),
    "disk/pool.py": ("error: '%s has ended %d disk helpers: given up', job.order, job.deaths",),
    "privileges.py": (
        "warning: 'as root it can read every file; --user NAME serves as somebody else'",
    ),
    "reloading.py": (
        "warning: 'SIGHUP: only a restart can change %s', ', '.join(fixed)",
        "error: 'SIGHUP: %s; the old settings stay', printable(why)",
    ),
    "serving/acceptor.py": (
        "error: 'a listener cannot be watched: %s', error.strerror",
        "error: 'accepting a connection failed: %s', error.strerror",
        "error: 'accepting a connection failed: %s', error.strerror",
        "error: 'a connection cannot be watched: %s', error.strerror",
    ),
    "serving/answer.py": (
        "log: level, '%s for %s: %s', error.status, name, error.detail, exc_info=error.__cause__",
    ),
    "serving/connection.py": (
        "debug: 'a client is gone: %s', gone",
        "warning: '%s: the file changed while it was sent', self._target()",
        "warning: '%s: reading failed while it was sent: %s', self._target(), error",
        "exception: 'a bug: %s', self._target()",
        "debug: '%s: %s', error.status, error.detail",
        "exception: 'a bug in the answer for a bug'",
    ),
    "serving/exchange.py": ("error: 'the application failed: %s', target, exc_info=error",),
    "listening.py": (
        "warning: 'systemd has passed sockets (%s) that nobody serves: --bind systemd', names",
    ),
    "serving/lane.py": (
        "error: 'the connections cannot be watched: %s', error.strerror",
        "error: 'a connection cannot be watched: %s', error.strerror",
        "exception: 'a bug in the fast lane'",
        "exception: 'a bug in the fast lane'",
        "debug: 'a handshake has failed: %s', error",
        "exception: 'a bug in the fast lane'",
        "debug: 'a client is gone: %s', error",
    ),
    "notify.py": ("warning: 'the service manager cannot be told %s: %s', state, error.strerror",),
    "serving/proxies.py": (
        "warning: 'a connection of %s is ended: %s; %d so far', peer, why, self._ended",
    ),
    "serving/request_log.py": (
        "debug: '%s %d %s', printable(line), status, shown",
        "exception: 'on_request failed'",
    ),
    "serving/resources.py": ("warning: '%s', line",),
    "serving/room.py": (
        "warning: '%s has %d connections: %d refused so far', guest, self._most, refused",
    ),
    "serving/router.py": ("info: '%s', line",),
    "serving/server.py": (
        "info: 'serving %s at %s', printable(roots), printable(self._urls(listener))",
        "warning: '%d connections at most: %s', most, why",
        "error: 'a connection cannot be served: %s', error.strerror",
    ),
    "supervisor.py": (
        "info: '%d workers serve', count",
        "info: DRAINING, signal.Signals(number).name, self._now.config.drain_timeout",
        "error: 'worker %d: %s', seat.number, end",
        "error: 'worker %d: %s', seat.number, end",
        "error: '%d workers in a row ended at once: given up', self._failures",
        "error: 'worker %d: %s; the next one in %g s', seat.number, end, seat.delay",
        "info: 'SIGHUP: starting the workers anew, one by one'",
        "info: 'all workers are new'",
        "error: 'worker %d is not renewed: its successor does not serve', seat.number",
        "warning: _TOO_MANY, seat.number, GENERATIONS, timeout",
    ),
    "worker.py": (
        "info: 'serving as %s, uid %d, gid %d', settings.user.name, os.getuid(), os.getgid()",
        "info: 'confined to what is served, by Landlock %d', landlock_version()",
        "info: 'the certificate is renewed by SIGHUP alone: a worker may not read its files'",
        "debug: 'the supervisor is gone: %s', error",
        "warning: 'the supervisor has ended: finishing what is being sent'",
    ),
    "worker_process.py": ("error: 'a worker cannot be heard or told: %s', error",),
}


def _calls(path: Path) -> Iterator[ast.Call]:
    """What is said to a log in a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name("log" | "access_log"), attr=level)):
                if level not in SILENT:
                    yield node


def _line(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Attribute)
    more = [f"{each.arg}={ast.unparse(each.value)}" for each in call.keywords]
    return f"{call.func.attr}: {', '.join([*map(ast.unparse, call.args), *more])}"


def test_every_line_of_the_log_is_in_the_table() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        calls = sorted(_calls(path), key=lambda call: call.lineno)
        if calls:
            found[name] = tuple(map(_line, calls))
    assert found == LINES
