"""The command line: options to settings, signals to drain, errors to one line and exit 2."""

import argparse
import dataclasses
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

import trio

from . import __version__, logs
from .config import Config
from .privileges import User, check_confinement, check_user, find_user
from .semantics.printable import printable
from .serving.server import Server
from .stats import Stats
from .supervisor import DRAINING, Supervisor, usable_processors

log = logging.getLogger("trio_amped")

_UNUSABLE = 2
_FULL_COLLECTION = 1000  # of the next younger generation, see the gc module
_MOST_WORKERS = 1024
# The first words of the settings that few will touch: a group of their own in --help.
_LIMITS = ("max_connections", "max_open_files", "max_head", "max_target", "max_fields")
_DEADLINES = ("open_file_", "head_", "keep_", "send_", "disk_", "drain_", "retire_")
_LEVELS = ("debug", "info", "warning", "error")


class Settings(NamedTuple):
    """What a command line says."""

    config: Config
    workers: int
    log_level: str
    user: User | None  # whom the workers are to be, if that is another
    confined: Sequence[str] | None  # the folders, beside the roots, that workers can open

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor starts what serves: several workers, or one with fewer rights."""
        return self.workers > 1 or self.user is not None or self.confined is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server from the command line; returns the exit status."""
    options = list(sys.argv[1:] if arguments is None else arguments)
    settings = parse(options)
    config = settings.config
    try:
        _check_rights(settings)
    except ValueError as error:
        return _fail(str(error))
    _allow_descriptors()
    collect_rarely()
    try:
        with logs.to_stderr(settings.log_level):
            if settings.is_supervised:
                return trio.run(_run_workers, Supervisor(config, settings.workers, options))
            return trio.run(_run, config)
    except OSError as error:  # said out of the event loop: who does not read it can still end us
        return _fail(_explain(config, error))


def _check_rights(settings: Settings) -> None:
    """Raises ValueError, with a sentence for the user, where workers cannot give up what they are
    to give up."""
    if settings.user is not None:
        check_user(settings.user)
    if settings.confined is not None:
        check_confinement()


def _fail(why: str) -> int:
    print(f"trio-amped: error: {printable(why)}", file=sys.stderr)
    return _UNUSABLE


def parse(arguments: Sequence[str]) -> Settings:
    """The settings; exits with one line on stderr if they cannot be."""
    parser = _parser()
    for each in arguments:
        if each.startswith("--") and each.endswith("=--"):  # argparse makes an empty list of it
            parser.error(f"argument {each[:-3]}: '--' is not a value")
    given = vars(parser.parse_args(arguments))
    options = {name: value for name, value in given.items() if value is not None}
    workers: int = options.pop("workers")
    level: str = options.pop("log_level")
    user, confined = options.pop("user", None), options.pop("confine", None)
    try:
        return Settings(Config(**options), workers, level, user, confined)
    except ValueError as error:
        parser.error(_with_option(str(error)))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, and not the whole usage before it."""
        self.exit(_UNUSABLE, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="trio-amped",
        description="Serve a folder over HTTP, and never let the disk stop the event loop.",
        epilog="^C or SIGTERM: stop accepting, finish what is being sent, exit 0; twice: at once.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"trio_amped {__version__}")
    parser.add_argument(
        "--log-level",
        choices=_LEVELS,
        default="info",
        help="how much to say on stderr; debug shows every request (default: info)",
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        default=1,
        metavar="N|auto",
        help="processes that serve, each with helpers, limits and caches of its own; auto: one for "
        "each processor; more than one, or one with --user or --confine, are replaced, one by one, "
        "on SIGHUP (default: 1)",
    )
    rights = parser.add_argument_group("least privilege")
    rights.add_argument(
        "--user",
        type=_user,
        metavar="NAME[:GROUP]",
        help="serve as this user, without any right of root; a supervisor keeps those, and opens "
        "the port",
    )
    rights.add_argument(
        "--confine",
        action="append",
        nargs="?",
        const="",
        type=_folder,
        metavar="FOLDER",
        help="open nothing but what is served, and write nothing (Landlock); FOLDER: nor what is "
        "below it, for a root that a link is switched to; may be given again",
    )
    everyday = parser.add_argument_group("what to serve, and how")
    limits = parser.add_argument_group("limits and deadlines")
    types = get_type_hints(Config)
    for field in _options():
        group = limits if field.name.startswith(_LIMITS + _DEADLINES) else everyday
        group.add_argument(_option(field), dest=field.name, **_argument(field, types[field.name]))
    return parser


def _options() -> list["dataclasses.Field[Any]"]:
    """The settings that have an option, as they are shown: where, and then what and how."""
    fields = [each for each in dataclasses.fields(Config) if each.metadata.get("option", True)]
    return sorted(fields, key=lambda field: field.name not in ("root", "host", "port"))


def _option(field: "dataclasses.Field[Any]") -> str:
    name = str(field.metadata.get("option", field.name.replace("_", "-")))
    return f"--no-{name}" if field.default is True else f"--{name}"


def _argument(field: "dataclasses.Field[Any]", kind: Any) -> dict[str, Any]:
    """The option of a setting of this type, for argparse."""
    metadata, default = field.metadata, field.default
    metavar = metadata.get("metavar", field.name.upper())
    if kind is bool and default:
        return {"action": "store_false", "help": f"do not {metadata['help']}"}
    if kind is bool:
        return {"action": "store_true", "help": metadata["help"]}
    if separator := metadata.get("separator"):
        shown = f"{metadata['help']} (default: {separator.join(default)})"
        return {"type": _separated(separator), "metavar": metavar, "help": shown}
    if get_origin(kind) is Sequence:
        argument = {"action": "append", "metavar": metavar}
        if bare := metadata.get("bare"):
            argument |= {"nargs": "?", "const": bare}
        return {**argument, "help": f"{metadata['help']}; may be given again"}
    argument = {"help": metadata["help"], "metavar": metavar}
    if default is not None:
        argument["help"] += f" (default: {default})"
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind), "help": argument["help"]}
    if kind is float:
        argument |= {"type": float, "metavar": "SECONDS"}
    elif kind in (int, int | None):
        argument |= {"type": int, "metavar": "N"}
    return argument


def _workers(value: str) -> int:
    if value == "auto":
        return min(usable_processors(), _MOST_WORKERS)
    if not value.isdecimal() or not 1 <= int(value) <= _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"must be 1 to {_MOST_WORKERS}, or auto, not {value!r}")
    return int(value)


def _user(value: str) -> User:
    try:
        return find_user(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _folder(value: str) -> str:
    if value and not os.path.isdir(value):
        raise argparse.ArgumentTypeError(f"{value!r} is no folder")
    return value


def _separated(separator: str) -> Callable[[str], tuple[str, ...]]:
    def parse(value: str) -> tuple[str, ...]:
        values = (each.strip() for each in value.split(separator))
        return () if value == "none" else tuple(each for each in values if each)

    return parse


def _with_option(message: str) -> str:
    """A ValueError of Config, with the option's name instead of the setting's."""
    name, _, rest = message.partition(" ")
    options = {field.name: _option(field) for field in _options()}
    return f"{options[name]} {rest}"


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


async def _run(config: Config) -> int:
    """Serve until a signal ends it; the exit status. Raises OSError like Server.serve."""
    server = Server(config)
    unusable: OSError | None = None
    async with trio.open_nursery() as around:
        await around.start(_stop_on_signals, server, around.cancel_scope)
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(server.serve)
            except OSError as error:
                unusable = error
            else:
                warn_of_root()
        around.cancel_scope.cancel()
    if unusable:
        raise unusable
    log.info("stopped; %s", _summary(server.stats))
    return 0


def warn_of_root() -> None:
    """Say whose rights a server has that is root, and how to have others."""
    if os.geteuid() == 0:
        log.warning("as root it can read every file; --user NAME serves as somebody else")


async def _run_workers(supervisor: Supervisor) -> int:
    """The same for workers, like Supervisor.run."""
    status = await supervisor.run()
    dead = f"; not counted: {supervisor.uncounted} dead workers" if supervisor.uncounted else ""
    log.info("stopped; %s%s", _summary(supervisor.stats), dead)
    return status


async def _stop_on_signals(
    server: Server,
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    numbers = {signal.SIGINT, signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup(1): a terminal may go away
        numbers.add(signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        task_status.started()
        async for number in signals:
            log.info(DRAINING, signal.Signals(number).name, server.config.drain_timeout)
            server.drain()
            break
        async for number in signals:
            if number != signal.SIGHUP:  # a terminal that goes away may send another one
                everything.cancel()


def _summary(stats: Stats) -> str:
    return (
        f"{stats.requests} requests, {stats.bytes_sent} bytes, {stats.resident} resident "
        f"windows, {stats.misses} misses, {stats.jobs} jobs for helpers"
    )


def _explain(config: Config, error: OSError) -> str:
    """What is wrong, and how to mend it."""
    root = os.fspath(config.root)
    if error.errno == errno.EAGAIN:
        return f"cannot serve {root}: {error.strerror}; allow more processes, see ulimit -u"
    if error.filename is not None:
        return f"cannot serve {root}: {error.strerror}; give a readable folder with --root"
    place = f"{config.host} port {config.port}"
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {config.host}: {error.strerror}; give an address with --host"
    if error.errno == errno.EADDRINUSE:
        return f"{place} is in use; choose another with --port, or stop who has it"
    if error.errno == errno.EACCES:
        return f"may not listen on {place}; choose one above 1023 with --port"
    return f"cannot listen on {place}: {error.strerror or error}; see --host and --port"
