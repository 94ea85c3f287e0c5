"""The command line: options to settings, and errors to one line and exit 2."""

import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import trio

from . import __version__, certificates, logs
from .access_log import STDOUT
from .alone import Alone
from .checking import look, oddities, oddities_of_start
from .config import ROOTS, Config, LogShape, Process
from .init import leave_process_1
from .privileges import User, become, check_confinement, check_log, check_user, find_user
from .reloading import Fresh, Reader, explain
from .semantics.printable import printable
from .settings.effective import Effective, effective
from .settings.environment import VARIABLES
from .settings.given import Given, renamed
from .settings.options import UNUSABLE, Parser
from .settings.toml import as_toml
from .stats import Stats
from .supervisor import Supervisor, usable_processors
from .worker_process import REOPEN

log = logging.getLogger("trio_amped")

_FULL_COLLECTION = 1000  # of the next younger generation, see the gc module
_MOST_WORKERS = 1024
COMMANDS = ("check", "config")  # a folder of that name is ./check


class Settings(NamedTuple):
    """The settings that hold; `user`: whom the workers are to be, if that is another."""

    config: Config
    process: Process
    user: User | None

    @property
    def workers(self) -> int:
        """How many processes serve."""
        if self.process.workers == "auto":
            return min(usable_processors(), _MOST_WORKERS)
        return self.process.workers

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor starts what serves: several workers, or one with fewer rights."""
        return self.workers > 1 or self.user is not None or bool(self.process.confine)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program of the command line; returns the exit status."""
    try:
        leave_process_1()
    except OSError as error:
        return fail(f"process 1 cannot start another: {error.strerror}; allow more, --pids-limit")
    signal.signal(REOPEN, signal.SIG_IGN)  # it ends a process, until and after we listen to it
    options = list(sys.argv[1:] if arguments is None else arguments)
    parser = Parser(__version__)
    if not options and not any(each in VARIABLES for each in os.environ):
        parser.end_with_usage()
    command = options.pop(0) if options[:1] and options[0] in COMMANDS else ""
    given = parser.read(options)
    try:
        found, user = _settled(given, os.environ)
    except ValueError as error:
        parser.error(str(error))
    if command == "config":
        return _show(found)
    settings = Settings(found.config, found.process, user)
    shape = "text" if command else found.process.log_format
    try:
        fresh = _checked(settings)
    except (ValueError, certificates.CertificateError) as error:
        return fail(str(error), shape)
    try:
        return _check(settings, fresh) if command == "check" else _serve(settings, fresh, given)
    except OSError as error:  # said out of the event loop: who does not read it can still end us
        return fail(explain(settings.config, error), shape)


def _show(found: Effective) -> int:
    """Write the settings that hold to stdout, as a file for --config."""
    try:
        return _say(as_toml(found))
    except ValueError as error:
        return fail(str(error))


def _check(settings: Settings, fresh: Fresh) -> int:
    """Say on stdout what would be served; 1: something is odd. Raises OSError about a root."""
    odd = list(oddities_of_start(settings.config))  # with the rights that a supervisor has
    if fresh.certificates is not None:
        odd += fresh.certificates.oddities(settings.config, time.time())
    if settings.user is not None:
        become(settings.user)
    served, of_sites = trio.run(look, settings.config)
    odd += of_sites
    for site in settings.config.all_sites:
        odd += oddities(settings.config, site)
    lines = [*served, *(f"odd: {line}" for line in odd)]
    return _say("".join(f"{line}\n" for line in lines), status=1 if odd else 0)


def _say(text: str, status: int = 0) -> int:
    """Write to stdout, without the buffer that the interpreter would write at its end once more;
    returns the exit status."""
    rest = text.encode("utf-8", "backslashreplace")
    try:
        while rest and sys.stdout is not None:  # None: it was closed when we started
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
    except OSError as error:  # nobody reads on, or no space
        return fail(f"cannot write to stdout: {error.strerror}")
    return status


def _serve(settings: Settings, fresh: Fresh, given: Mapping[str, Given]) -> int:
    """Serve until a signal ends it; the exit status. Raises OSError like Server.serve."""

    def read() -> Fresh:
        found, user = _settled(given, os.environ)
        return _checked(Settings(found.config, found.process, user))

    _allow_descriptors()
    collect_rarely()
    with logs.to_stderr(settings.process.log_level, settings.process.log_format):
        read_again = Reader(read, settings.process)
        if settings.is_supervised:
            return trio.run(_run_workers, Supervisor(fresh, settings.workers, read_again))
        return trio.run(_run, Alone(fresh, read_again))


def _checked(settings: Settings) -> Fresh:
    """Check what can be checked before anything is opened. Waits for the disk.

    Raises ValueError, CertificateError.
    """
    _check_rights(settings)
    pair = certificates.load(settings.config)  # with the rights that a supervisor has
    return Fresh(settings.config, settings.process, pair)


def _check_rights(settings: Settings) -> None:
    """Raises ValueError, with a sentence for the user, where workers cannot give up what they are
    to give up."""
    if settings.user is not None:
        check_user(settings.user)
        place = settings.config.access_log
        if place is not None and place != STDOUT:
            check_log(settings.user, place)
    if settings.process.confine:
        check_confinement()


def fail(why: str, shape: LogShape = "text") -> int:
    """Say on stderr why it cannot serve, in the shape of the log; returns the exit status."""
    text = f"trio-amped: error: {printable(why)}"
    print(logs.error_as_json(why) if shape == "json" else text, file=sys.stderr)
    return UNUSABLE


def parse(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Settings:
    """The settings; exits with one line on stderr if they cannot be."""
    parser = Parser(__version__)
    try:
        found, user = _settled(parser.read(arguments), environment or {})
    except ValueError as error:
        parser.error(str(error))
    return Settings(found.config, found.process, user)


def _settled(
    given: Mapping[str, Given], environment: Mapping[str, str]
) -> tuple[Effective, User | None]:
    """Return the settings that hold, and the user of the workers. Reads the file, and waits for it.

    Raises ValueError, with a sentence for the user.
    """
    found = effective(given, environment)
    try:
        return found, look_up(found.process)
    except ValueError as error:
        raise renamed(error, found.given) from None


def look_up(process: Process) -> User | None:
    """Return the user that workers are to be, if that is another; look up the folders as well.

    Raises ValueError, with a sentence for the user.
    """
    for folder in process.confine:
        if folder != ROOTS and not os.path.isdir(folder):
            raise ValueError(f"confine must name folders, and {folder!r} is none")
    try:
        return None if process.user is None else find_user(process.user)
    except ValueError as error:
        raise ValueError(f"user cannot be used: {error}") from None


def _allow_descriptors() -> None:
    """Each connection needs some: take all that the administrator allows (getrlimit(2))."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def collect_rarely() -> None:
    """Have the garbage collector look at all objects a hundred times less often than by default.

    Such a look holds the event loop for 70 to 110 ms with 5 000 open files, and finds next to
    nothing: what the server lets go of has no cycles.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION)


async def _run(alone: Alone) -> int:
    """Serve until a signal ends it; the exit status. Raises OSError like Server.serve."""
    status = await alone.run()
    log.info("stopped; %s", _summary(alone.stats))
    return status


async def _run_workers(supervisor: Supervisor) -> int:
    """The same for workers, like Supervisor.run."""
    status = await supervisor.run()
    dead = f"; not counted: {supervisor.uncounted} dead workers" if supervisor.uncounted else ""
    log.info("stopped; %s%s", _summary(supervisor.stats), dead)
    return status


def _summary(stats: Stats) -> str:
    return (
        f"{stats.requests} requests, {stats.bytes_sent} bytes, {stats.resident} resident "
        f"windows, {stats.misses} misses, {stats.jobs} jobs for helpers"
    )
