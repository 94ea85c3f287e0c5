"""The command line: what a user sees, and what a service manager does to it."""

import contextlib
import gc
import json
import math
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_amped
from tests.real.support import (
    KIB,
    MIB,
    Client,
    content,
    eventually,
    evict,
    helper_processes,
    ignores,
    put,
    watched,
)
from tests.rig import (
    GUARD,
    NOBODY,
    REPOSITORY,
    as_nobody,
    for_strangers,
    needs,
    public_directory,
    running_server,
)
from trio_amped import cli
from trio_amped.alone import Alone
from trio_amped.config import Config
from trio_amped.settings.given import SETTINGS
from trio_amped.settings.options import option_names

pytestmark = pytest.mark.measured

SIZE = 8 * MIB
HELPERS = ("thread", "process")
FINISHING = (
    r"SIG(INT|TERM|HUP): finishing what is being sent, at most 1000 s; once more stops at once"
)


@pytest.fixture
def place() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory


@pytest.fixture
def root(place: Path) -> Path:
    put(place / "root/big", content(SIZE))
    put(place / "root/small", b"small")
    return place / "root"


def run(
    *options: str, user: str = "", wrap: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command line that ends by itself."""
    argv = [sys.executable, "-m", "trio_amped", *options]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "80"}
    if user == "nobody":
        argv = as_nobody(argv)  # who may not write coverage's file
        environment = {k: v for k, v in environment.items() if not k.startswith("COVERAGE_")}
    argv = [*wrap, *argv]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=GUARD)


# ---------------------------------------------------------------- help


def test_nothing_said_is_answered_by_a_short_usage() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "usage: trio-amped [check | config] [ROOT] [options]\n\n"
        "Serve this folder: trio-amped .\n"
        "Say what would be served: trio-amped check .\n"
        "All options: trio-amped --help\n"
    )


def test_what_the_environment_says_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has no arguments."""
    monkeypatch.setenv("TRIO_AMPED_ROOT", "/no/such")
    monkeypatch.setenv("TRIO_AMPED_PORT", "0")
    assert only_line() == (
        "cannot serve /no/such: No such file or directory; give a readable folder with --root"
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"trio_amped {trio_amped.__version__}\n"


def test_help_lists_every_option_with_its_default_and_unit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "twice: at once" in text
    for setting in SETTINGS.values():
        options = ", ".join(option_names(setting))
        found = re.search(rf"^  {options}([^\n]*(?:\n {{10}}[^\n]*)?)", text, re.MULTILINE)
        assert found, options
        line = found[1]
        assert setting.help in line
        if setting.unit:
            assert line.split()[0] == setting.unit.upper()
        elif setting.kind is int:
            assert line.split()[0] == "N"
        if setting.default == () and not setting.separator:
            assert line.endswith("; may be given again")
        elif setting.default not in (None, ()):
            assert line.endswith(f"default: {setting.show(setting.default)})")
        if setting.most is not None:
            assert f"({setting.least} to {setting.most}" in line


def test_help_fits_a_terminal() -> None:
    done = run("--help")
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("value", ["None", "NONE", "none,br", "br;gzip"])
def test_none_is_one_word(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Spelled as the help spells it, and alone."""
    assert cli.parse(["--precompressed", "none"]).config.precompressed == ()
    with pytest.raises(SystemExit, match="2"):
        cli.parse(["--precompressed", value])
    assert "--precompressed must be among" in capsys.readouterr().err


def test_all_descriptors_that_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (1024, 4096)

    def set_limits(_: int, new: tuple[int, int]) -> None:
        nonlocal limits
        limits = new

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    cli._allow_descriptors()
    assert limits == (4096, 4096), "what the administrator has said stays"


@pytest.mark.parametrize("number", [1, 2, 1023, 1024])
def test_as_many_workers_as_can_be(number: int) -> None:
    assert cli.parse(["--workers", str(number)]).workers == number


# ---------------------------------------------------------------- what cannot be

BAD_OPTIONS: list[tuple[Sequence[str], str]] = [
    (["--port", "99999"], "--port must be at most 65535"),
    (["--port", "-1"], "--port must be at least 0"),
    (["--port", "http"], "--port must be a whole number, not 'http'"),
    (["--gate", "lies"], "--gate must be one of auto, mincore, nowait, always, never, not 'lies'"),
    (["--helpers", "elves"], "--helpers must be one of thread, process, not 'elves'"),
    (["--log-level", "loud"], "--log-level must be one of debug, info, warning, error, not 'loud'"),
    (["--workers", "0"], "--workers must be at least 1"),
    (["--workers", "-1"], "--workers must be at least 1"),
    (["--workers", "1025"], "--workers must be at most 1024"),
    (["--workers", "many"], "--workers must be a whole number, or auto, not 'many'"),
    (["--workers", "²"], "--workers must be a whole number, or auto, not '²'"),
    (["--workers"], "argument --workers: expected one argument"),
    (["--user", "no such"], "--user cannot be used: user 'no such' does not exist"),
    (["--user", "root"], "--user cannot be used: user root has all rights: name another one"),
    (["--user", "nobody:no such"], "--user cannot be used: the group 'no such' does not exist"),
    (["--user"], "argument --user: expected one argument"),
    (["--confine", "/no/such"], "--confine must name folders, and '/no/such' is none"),
    (["--max-helpers", "0"], "--max-helpers must be at least 1"),
    (["--max-helpers", "many"], "--max-helpers must be a whole number, not 'many'"),
    (["--max-connections", "0"], "--max-connections must be at least 1"),
    (["--head-timeout", "nan"], "--head-timeout must be a number of seconds, not 'nan'"),
    (["--disk-timeout", "-1"], "--disk-timeout must be at least 0.001"),
    (["--drain-timeout", "-0.5"], "--drain-timeout must be at least 0"),
    (["--retire-timeout", "-1"], "--retire-timeout must be at least 0"),
    (["--send-timeout", "soon"], "--send-timeout must be a number of seconds, not 'soon'"),
    (["--keep-alive-timeout=-inf"], "--keep-alive-timeout must be at least 0.001"),
    (["--max-help", "1"], "unrecognized arguments: --max-help; did you mean --max-helpers?"),
    (["--prot", "1"], "unrecognized arguments: --prot; did you mean --port?"),
    (["--no-gate"], "unrecognized arguments: --no-gate; did you mean --gate?"),
    (["--max-head=1_000"], "--max-head must be a whole number of bytes, not '1_000'"),
    (["--max-connections-per-address", "any"], "--max-connections-per-address must be a whole"),
    (["--drain-timeout=1h"], "--drain-timeout must be a number of seconds, not '1h'"),
    (["--port", "1", "--port=2"], "--port is given a second time, and can have one value"),
    (["--listing", "--listing"], "--listing is given a second time, and can have one value"),
    (["--fast-lane", "--no-fast-lane"], "--no-fast-lane is given a second time, and can have one"),
    (["one", "two"], "unrecognized arguments: two"),
    (["one", "--root", "two"], "the folder is given twice: one, and --root two"),
    (["--listing", ""], "ROOT must not be empty"),
    (["--host", "[::1]"], "--host must have no brackets, as in ::1, not '[::1]'"),
    (["--host", "[::1]:80"], "--host must have no brackets, as in ::1, not '[::1]:80'"),
    (["--host", "127.0.0.1:80"], "--host must have no port: 127.0.0.1 and port 80, not '127.0.0.1"),
    (["--host", "localhost:80"], "--host must have no port: localhost and port 80, not 'localhos"),
    (["--host", "http://a"], "--host must be an address or a name, not 'http://a'"),
    (["--host", "a b"], "--host must be an address or a name, not 'a b'"),
    (["--host", ""], "--host must not be empty; 0.0.0.0 is any address of IPv4, and :: of both"),
    (["--immutable", "[a"], "--immutable must close each [ of its pattern, not '[a'"),
    (["--cors", "--cors="], "--cors must be an origin (https://host), or *, not ''"),
    (["--max-connections", "9" * 20], "--max-connections must be at most 1048576"),
    (["--port"], "argument --port: expected one argument"),
    (["--precompressed", "br,lzma"], "--precompressed must be among br, zstd, gzip, not 'lzma'"),
    (["--precompressed", "none,br"], "--precompressed must be among br, zstd, gzip, not 'none'"),
    (["--precompressed"], "argument --precompressed: expected one argument"),
    (["--header", "*.js"], "--header must be GLOB: Name: value, not '*.js'"),
    (["--header", "*.js: no-store"], "--header must be GLOB: Name: value, not '*.js: no-store'"),
    (["--header", "*: A: b", "--header", "*: A"], "--header must be GLOB: Name: value, not '*: A'"),
    (
        ["--header", "*: A b: c"],
        "--header must have a name of letters, digits and -, not 'A b', in",
    ),
    (
        ["--header", "*: A: b\r\nSet-Cookie: c"],
        r"--header must have a value of visible ASCII, not 'b\r\nSet-Cookie: c', in '*: A: b\r",
    ),
    (
        ["--header", "*: A\r: b"],
        r"--header must have a name of letters, digits and -, not 'A\r', i",
    ),
    (
        ["--header", "*: Content-Length: 5"],
        "--header must not set Content-Length: the server itself",
    ),
    (["--immutable", ""], "--immutable must not have an empty pattern"),
    (["--cors", "example.com"], "--cors must be an origin (https://host), or *, not 'example.com'"),
    (["--cors", "https://a/"], "--cors must be an origin (https://host), or *, not 'https://a/'"),
    (
        ["--cors", "*", "--cors", "null"],
        "--cors must be an origin (https://host), or *, not 'null'",
    ),
    (["--media-type", "*.x"], "--media-type must be GLOB: TYPE/SUBTYPE, not '*.x'"),
    (["--media-type", "*.x: text"], "--media-type must be GLOB: TYPE/SUBTYPE, not '*.x: text'"),
    (["--charset", "utf 8"], "--charset must be a character encoding such as utf-8, or e"),
    (["--listing=yes"], "argument --listing/--no-listing: ignored explicit argument 'yes'"),
    (
        ["--fallback", "index.html"],
        "--fallback must be the path of a file below the root, as in a ",
    ),
    (
        ["--fallback", "/"],
        "--fallback must be the path of a file below the root, as in a URL, not '/'",
    ),
    (["--error-page", "/404.html"], "--error-page must be STATUS=/PAGE with a status from 400 to "),
    (["--error-page", "200=/a"], "--error-page must be STATUS=/PAGE with a status from 400 to 599"),
    (["--error-page", "404=a"], "--error-page must be the path of a file below the root, as in a "),
]


@pytest.mark.parametrize(("options", "says"), BAD_OPTIONS)
def test_a_bad_option_is_named(
    options: Sequence[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(options)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"trio-amped: error: {says}")
    assert line.endswith("; see trio-amped --help")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--charset=--"], "argument --charset: '--' is not a value"),
        (["--root=--", "--port=0"], "argument --root: '--' is not a value"),
        (["a", "\x1b[2J"], "unrecognized arguments: \\x1b[2J"),
        (["a", "a\nb"], "unrecognized arguments: a\\nb"),
    ],
)
def test_found_by_fuzzing(
    options: Sequence[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """argparse makes an empty list of "--" for a value, and prints what it was given."""
    with pytest.raises(SystemExit, match="2"):
        cli.parse(options)
    assert capsys.readouterr().err == f"trio-amped: error: {says}; see trio-amped --help\n"


@pytest.mark.parametrize("options", [["--port", "99999"], ["--gate", "lies"], ["a", "b"]])
def test_a_bad_option_is_one_line(options: Sequence[str]) -> None:
    done = run(*options)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "--help" in done.stderr


# ---------------------------------------------------------------- what can be


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["."], {}),
        (["folder"], {"root": "folder"}),
        (["--listing", "folder", "--charset", ""],
         {"root": "folder", "listing": True, "charset": ""}),
        (["--", "--port"], {"root": "--port"}),
        (["--root", "config"], {"root": "config"}),
        (["./check"], {"root": "./check"}),
        (["--precompressed", "none"], {"precompressed": ()}),
        (["--precompressed", ""], {"precompressed": ()}),
        (["--precompressed", "gzip"], {"precompressed": ("gzip",)}),
        (["--precompressed", " zstd , br,"], {"precompressed": ("zstd", "br")}),
        (["--header", "*: A: b"], {"headers": ("*: A: b",)}),
        (["--header", "*: A: b", "--header=*.x: C:"], {"headers": ("*: A: b", "*.x: C:",)}),
        (["--immutable"], {"immutable": ("hashed",)}),
        (["--immutable", "*.js"], {"immutable": ("*.js",)}),
        (["--immutable", "*.js", "--immutable"], {"immutable": ("*.js", "hashed",)}),
        (["--immutable", "--listing"], {"immutable": ("hashed",), "listing": True}),
        (["--cors"], {"cors": ("*",)}),
        (["--cors", "https://a"], {"cors": ("https://a",)}),
        (["--cors", "http://a:1", "--cors", "https://b"], {"cors": ("http://a:1", "https://b",)}),
        (["--media-type", "*.x: a/b"], {"media_types": ("*.x: a/b",)}),
        (["--charset", ""], {"charset": ""}),
        (["--charset", "latin-1"], {"charset": "latin-1"}),
        (["--listing"], {"listing": True}),
        (["--no-listing", "--no-fast-lane"], {"fast_lane": False}),
        (["--fast-lane", "--gate=ALWAYS"], {"gate": "always"}),
        (["--max-connections-per-address", "none"], {}),
        (["--max-connections-per-address", "+7"], {"max_connections_per_address": 7}),
        (["--drain-timeout", "inf", "--head-timeout", "1.5E1", "--disk-timeout", ".5"],
         {"drain_timeout": math.inf, "head_timeout": 15.0, "disk_timeout": 0.5}),
        (["--fallback", "/index.html"], {"fallback": "/index.html"}),
        (["--error-page", "404=/a", "--error-page", "500=/b"],
         {"error_pages": ("404=/a", "500=/b",)}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_an_option_is_a_setting(
    options: Sequence[str], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Config] = []

    def run(program: object, alone: Alone) -> int:
        given.append(alone.fresh.config)
        return 7

    monkeypatch.setattr(trio, "run", run)
    monkeypatch.setattr(cli, "_allow_descriptors", lambda: None)
    thresholds: list[tuple[int, ...]] = []
    monkeypatch.setattr(gc, "set_threshold", lambda *each: thresholds.append(each))
    assert cli.main(options) == 7
    assert given == [Config(**settings)]
    young, middle, _ = gc.get_threshold()
    assert thresholds == [(young, middle, 1000)], "full collections hold the loop"


def test_the_options_reach_the_answers(root: Path) -> None:
    """Each of them, of a server as a user starts it."""
    put(root / "app.3f2a9c1d.js", b"script")
    put(root / "app.3f2a9c1d.js.gz", b"zipped")
    put(root / "404.html", b"lost")
    put(root / "folder/a.x", b"x")
    options = ["--immutable", "--cors", "--listing", "--precompressed", "gzip", "--charset", ""]
    options += ["--header", "*.x: X-Mine: yes", "--media-type", "*.x: a/b"]
    options += ["--error-page", "404=/404.html", "--fallback", "/small"]
    with running_server(*options, root=root) as server, Client(server) as client:
        script = client.get("/app.3f2a9c1d.js", "Accept-Encoding: gzip, br").fields
        assert script["cache-control"] == "max-age=31536000, immutable"
        assert script["access-control-allow-origin"] == "*"
        assert script["content-encoding"] == "gzip"
        assert script["content-type"] == "text/javascript"
        mine = client.get("/folder/a.x").fields
        assert (mine["x-mine"], mine["content-type"]) == ("yes", "a/b")
        assert b'href="a.x"' in client.get("/folder/").body
        assert client.get("/nowhere").body == b"lost"
        assert client.get("/nowhere", "Accept: text/html").body == b"small"


def only_line(*options: str, user: str = "", wrap: Sequence[str] = ()) -> str:
    """The one line on stderr of a server that cannot start, without the program's name."""
    done = run(*options, user=user, wrap=wrap)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("trio-amped: error: ")
    return line.removeprefix("trio-amped: error: ")


def test_a_missing_root(place: Path) -> None:
    says = only_line("--port", "0", "--root", str(place / "missing"))
    assert says == (
        f"cannot serve {place}/missing: No such file or directory; "
        "give a readable folder with --root"
    )


@needs("nobody")
def test_a_stranger_cannot_have_somebody_else_serve() -> None:
    done = run("--port", "0", "--user", "daemon", user="nobody")
    assert (done.returncode, done.stdout) == (2, "")
    says = "--user: only root can have somebody else serve; start it as root"
    assert done.stderr == f"trio-amped: error: {says}\n"


def test_a_root_whose_name_is_two_lines(root: Path) -> None:
    """It is shown on one, by the error and by the log."""
    odd = root.with_name("a\n\x1bb")
    says = only_line("--port", "0", "--root", str(odd))
    assert says.startswith(f"cannot serve {root.parent}/a\\n\\x1bb: No such file or directory; ")
    root.rename(odd)
    with running_server(root=odd) as server:
        assert f"serving {root.parent}/a\\n\\x1bb at http" in server.log[0]


@pytest.mark.parametrize("name", ["site", "."])
def test_a_working_directory_that_is_gone(place: Path, name: str) -> None:
    gone = place / "gone"
    gone.mkdir()
    leave = ["sh", "-c", f'cd {gone} && rmdir {gone} && exec "$@"', "sh"]
    says = only_line("--port", "0", "--root", name, wrap=leave)
    assert says == (
        f"cannot serve {name}: the working directory is gone; give a readable folder with --root"
    )


def test_a_file_as_root(root: Path) -> None:
    says = only_line("--port", "0", "--root", str(root / "small"))
    assert says == f"cannot serve {root}/small: Not a directory; give a readable folder with --root"


@needs("nobody")
@pytest.mark.parametrize("inside", ["", "/folder"])
def test_an_unreadable_root(root: Path, inside: str) -> None:
    (root / "folder").mkdir()
    root.chmod(0o700)
    says = only_line("--port", "0", "--root", f"{root}{inside}", user="nobody")
    assert says == (
        f"cannot serve {root}{inside}: Permission denied; give a readable folder with --root"
    )


def test_a_port_in_use(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        says = only_line("--port", port, "--root", str(root))
    assert says == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; "
        "stop who has it, or choose another with --bind or --port"
    )


@needs("nobody")
def test_a_privileged_port(root: Path) -> None:
    """In a network of its own, since a container's may have no privileged ports."""
    options = ("--host", "0.0.0.0", "--port", "80", "--root", str(root))
    says = only_line(*options, user="nobody", wrap=["unshare", "--net"])
    assert says == (
        "cannot listen on 0.0.0.0:80: Permission denied; "
        "choose a port above 1023, or a folder in which you may write"
    )


def test_an_unknown_host(root: Path) -> None:
    says = only_line("--port", "0", "--host", "nowhere.invalid", "--root", str(root))
    assert says.startswith("cannot listen on nowhere.invalid:0: ")
    assert says.endswith("; choose another address with --bind, or --host and --port")


def test_a_host_that_is_no_name(root: Path) -> None:
    says = only_line("--port", "0", "--host", "\U0001f4a9", "--root", str(root))
    assert says.endswith(
        ":0: its host is no name; choose another address with --bind, or --host and --port"
    )


@needs("nobody")
@pytest.mark.parametrize("command", [(), ("check",)])
def test_a_log_whose_folder_is_the_workers(
    command: Sequence[str], root: Path, tmp_path: Path
) -> None:
    """Root, which opens the log, could be had to write to any file."""
    folder = tmp_path / "logs"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    options = ["--user", f"{NOBODY}:{NOBODY}", "--access-log", f"{folder}/log"]
    says = only_line(*command, "--root", str(root), *options, wrap=for_strangers([]))
    assert says.endswith("choose a folder that is root's alone, as those above are")
    assert os.listdir(folder) == []


@pytest.mark.parametrize("moment", ["_settled", "_summary"])
def test_the_signal_of_logrotate_ends_nothing(moment: str, root: Path) -> None:
    """Neither before the server listens to it nor after that."""
    program = f"""
import os, signal, sys
from trio_amped import alone, cli

def signalled(*arguments):
    os.kill(os.getpid(), signal.SIGUSR1)
    return original(*arguments)

async def serve(self, listeners, task_status):
    task_status.started()

original, cli.{moment} = cli.{moment}, signalled
alone.Server.serve = serve
sys.exit(cli.main(sys.argv[1:]))
"""
    argv = [sys.executable, "-c", program, "--root", str(root), "--port", "0"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "stopped; 0 requests" in done.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--root=lost\n"], "cannot serve lost\n: No such file or directory; give a readable"),
        (["--tls-cert=lost", "--tls-key=lost"], "lost"),
        (["--workers=2", "--root=lost"], "cannot serve lost: No such file or directory; give a "),
    ],
)
def test_why_it_cannot_start_as_json(options: list[str], why: str) -> None:
    done = run("--port=0", "--log-format=json", *options)
    assert (done.returncode, done.stdout) == (2, "")
    *_, last = map(json.loads, done.stderr.splitlines())
    assert last.keys() == {"time", "level", "logger", "message"}
    assert (last["level"], last["logger"]) == ("error", "trio_amped")
    assert why in last["message"]


def test_an_address_of_somebody_else(root: Path) -> None:
    says = only_line("--port", "0", "--host", "192.0.2.1", "--root", str(root))
    assert says == (
        "cannot listen on 192.0.2.1:0: Cannot assign requested address; "
        "choose another address with --bind, or --host and --port"
    )


# ---------------------------------------------------------------- other places for settings


def test_a_file_and_the_environment(place: Path, root: Path) -> None:
    """One process, then two: workers get what the supervisor has read."""
    file = place / "a.toml"
    file.write_text(
        f'root = "{root}"\nheaders = ["*: A: file", "*: B: file"]\nlog_level = "debug"\n'
    )
    variables = ["TRIO_AMPED_LOG_LEVEL=INFO", f"TRIO_AMPED_CONFIG={file}"]
    for workers in ("1", "2"):
        with running_server(
            f"--workers={workers}", wrap=lambda argv: ["env", *variables, *argv], root=root
        ) as server:
            file.rename(place / "b.toml")  # read once, also where the next worker has not begun
            if workers == "2":
                server.wait_for_log("2 workers serve")
            with Client(server) as client:
                fields = client.get("/small").fields
                assert (fields["a"], fields["b"]) == ("file", "file")
            assert server.stop() == 0
            assert not [line for line in server.log if "DEBUG" in line]
        (place / "b.toml").rename(file)


def test_several_sites_in_a_file(place: Path, root: Path) -> None:
    put(place / "other/small", b"other")
    file = place / "a.toml"
    file.write_text(f'[[site]]\nroot = "{root}"\n[[site]]\nroot = "{place}/other"\nprefix = "/o"\n')
    for workers in ("1", "2"):
        options = (f"--workers={workers}", f"--config={file}")
        with running_server(*options, root=None) as server, Client(server) as client:
            assert client.get("/small").body == b"small"
            assert client.get("/o/small").body == b"other"


@pytest.mark.parametrize("command", [["--workers=2"], ["--workers=1"], ["check"]])
def test_a_site_whose_root_is_missing(command: list[str], place: Path, root: Path) -> None:
    file = place / "a.toml"
    file.write_text(f'[[site]]\nroot = "{root}"\n[[site]]\nroot = "{place}/lost"\nprefix = "/o"\n')
    says = only_line(*command, "--port=0", f"--config={file}")
    assert says == f"cannot serve {place}/lost: No such file or directory; see its [[site]]"


def test_a_file_that_cannot_be(place: Path) -> None:
    file = place / "a\x1b.toml"
    file.write_text("port = 0\nlisting = 1\n")
    assert only_line("--config", str(file)) == (
        f"{place}/a\\x1b.toml, line 2: listing must be true or false; see trio-amped --help"
    )


# ---------------------------------------------------------------- config, check


def test_config_prints_a_file_that_gives_the_same(place: Path, root: Path) -> None:
    file = place / "a.toml"
    file.write_text(f'[[site]]\nroot = "{root}"\nheaders = ["*: A: \\"b\\""]\n')
    done = run("config", "--config", str(file), "--port", "0", "--disk-timeout", "inf")
    assert (done.returncode, done.stderr) == (0, "")
    assert f'headers = ["*: A: \\"b\\""]  # {file}, line 3\n' in done.stdout
    assert "disk_timeout = inf  # command line\n" in done.stdout
    assert 'host = "127.0.0.1"  # default\n' in done.stdout
    again = place / "b.toml"
    again.write_text(done.stdout)
    given = cli.parse([f"--config={file}", "--port=0", "--disk-timeout=inf"]).config
    assert cli.parse([f"--config={again}"]).config == given


def test_config_of_what_cannot_be() -> None:
    assert only_line("config", "--port", "x") == (
        "--port must be a whole number, not 'x'; see trio-amped --help"
    )
    assert only_line("config", "--root", "a\udcff") == (
        "root cannot be written as TOML: it is not UTF-8"
    )


@pytest.mark.parametrize("command", ["config", "check"])
def test_what_is_said_and_nobody_can_have(command: str, root: Path) -> None:
    says = "trio-amped: error: cannot write to stdout: No space left on device"
    full = ["sh", "-c", 'exec "$@" > /dev/full', "sh"]
    assert run(command, str(root), wrap=full).stderr == f"{says}\n"
    closed = ["sh", "-c", 'exec "$@" >&-', "sh"]
    assert run(command, str(root), "--listing", wrap=closed).stderr == ""


def test_config_is_utf_8_whatever_the_terminal_is(root: Path) -> None:
    ascii_only = ["env", "PYTHONIOENCODING=ascii"]
    assert 'root = "é"  #' in run("config", "é", wrap=ascii_only).stdout


def test_check_says_what_would_be_served(root: Path) -> None:
    done = run("check", "--root", str(root), "--error-page", "404=/lost.html")
    assert (done.returncode, done.stderr) == (1, "")
    where, gate, *odd = done.stdout.splitlines()
    assert where == f"{root} at http://127.0.0.1:8000/"
    assert gate.startswith("gate ")
    assert odd == [
        "odd: the page lost.html is not used: opening failed: No such file or directory",
        f"odd: {root} has no index.html, and no listing: its first page is 404",
    ]
    assert run("check", "--root", str(root), "--listing").returncode == 0
    assert only_line("check", "--root", f"{root}/small").startswith(f"cannot serve {root}/small: ")


# ---------------------------------------------------------------- what it says


def test_what_it_says_at_start_and_at_the_end(root: Path) -> None:
    with running_server(root=root) as server:
        server.wait_for_log("somebody else" if os.geteuid() == 0 else "gate ")
        address, gate, *warning = server.log
        assert address.endswith(f"INFO    serving {root} at http://127.0.0.1:{server.port}/")
        assert re.search(r"gate \w+: .+; files are opened .+; at most 16 thread helpers$", gate)
        with Client(server) as client:
            assert client.get("/small").body == b"small"
            assert client.get("/missing").status == 404
        assert server.stop() == 0
        *_, last = server.log
        assert re.search(
            r"stopped; 2 requests, \d+ bytes, 1 resident windows, 0 misses, \d+ jobs for helpers$",
            last,
        )
        assert len(server.log) == len(warning) + 4  # and the signal
        says = "WARNING as root it can read every file; --user NAME serves as somebody else"
        assert [each[-len(says) :] for each in warning] == [says] * (os.geteuid() == 0)


def test_log_levels(root: Path) -> None:
    with running_server("--log-level", "debug", root=root) as server:
        with Client(server) as client:
            client.get("/small?x=%20")
            client.get("/missing", method="HEAD")
        server.wait_for_log(r"DEBUG +GET /small\?x=%20 HTTP/1\.1 200 5$")
        server.wait_for_log(r"DEBUG +HEAD /missing HTTP/1\.1 404 0$")
    # Without the line with its address we learn the port from who listens on it.
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    argv = [sys.executable, "-m", "trio_amped", "--log-level", "error"]
    argv += ["--root", str(root), "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=environment) as process:
        eventually(lambda: _accepts(port))
        process.terminate()
        _, said = process.communicate(timeout=GUARD)
        assert process.returncode == 0
        assert said == ""


def _accepts(port: int) -> bool:
    try:
        with Client(port) as client:
            return client.get("/small").body == b"small"
    except ConnectionRefusedError:
        return False


def addresses_here() -> list[str]:
    """The addresses of this machine's loopback; many a container has no IPv6."""
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return ["127.0.0.1", "::1"]
    return ["127.0.0.1"]


@pytest.mark.parametrize("host", addresses_here())
def test_the_address_is_a_url(host: str, root: Path) -> None:
    with running_server("--host", host, root=root) as server:
        name = f"[{host}]" if ":" in host else host
        assert server.url == f"http://{name}:{server.port}"


# ---------------------------------------------------------------- signals


def refuses(port: int) -> bool:
    """Whether nobody listens there any more."""
    try:
        Client(port).socket.close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # closed at this very moment
        return False
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_idle_connections_and_exits_0(root: Path, number: signal.Signals) -> None:
    with running_server(root=root) as server, Client(server) as fresh, Client(server) as used:
        assert used.get("/small").body == b"small"
        server.process.send_signal(number)
        assert fresh.has_ended()
        assert used.has_ended()
        assert server.process.wait(GUARD) == 0
        server.wait_for_log(FINISHING)


@pytest.mark.parametrize("helpers", HELPERS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_transfer_under_way_is_finished(root: Path, number: signal.Signals, helpers: str) -> None:
    evict(root / "big")
    with running_server("--helpers", helpers, root=root) as server:
        with Client(server, receive_buffer=16 * KIB) as slow:
            slow.ask("/big")
            assert slow.head().status == 200
            first = slow.take(1)
            server.process.send_signal(number)
            server.wait_for_log(FINISHING)
            eventually(lambda: refuses(server.port))
            assert first + slow.take(SIZE - 1) == content(SIZE)
            assert slow.has_ended()
        assert server.process.wait(GUARD) == 0
        server.wait_for_log(r"stopped; 1 requests")


def test_a_request_that_was_sent_before_is_answered_and_told_to_close(root: Path) -> None:
    """Pipelined behind a transfer: it was asked in time."""
    with running_server(root=root) as server, Client(server, receive_buffer=16 * KIB) as client:
        client.ask("/big")
        client.ask("/small")
        client.ask("/small")
        assert client.head().status == 200
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log(FINISHING)
        assert client.take(SIZE) == content(SIZE)
        reply = client.answer()
        assert (reply.body, reply.fields["connection"]) == (b"small", "close")
        assert client.has_ended()
        client.socket.close()
        assert server.process.wait(GUARD) == 0


@pytest.mark.parametrize("helpers", HELPERS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(root: Path, number: signal.Signals, helpers: str) -> None:
    """With status 0, like nginx's quick stop: it was asked for, and nothing went wrong."""
    with running_server("--helpers", helpers, "--drain-timeout", "1000", root=root) as server:
        with Client(server, receive_buffer=16 * KIB) as slow:
            slow.ask("/big")
            assert slow.head().status == 200
            server.process.send_signal(number)
            server.wait_for_log("finishing what is being sent, at most 1000 s")
            assert server.stop(number, GUARD) == 0
            assert len(slow.take(SIZE)) < SIZE
            assert slow.has_ended()
        assert "Traceback" not in "\n".join(server.log)


def test_nohup_is_obeyed(root: Path) -> None:
    """A terminal that goes away does not end what was started so that it stays."""
    with running_server(root=root, wrap=lambda argv: ["nohup", *argv]) as server:
        assert ignores(server.pid, signal.SIGHUP)
        assert server.stop(signal.SIGTERM) == 0


def test_a_second_signal_does_not_swallow_the_summary(root: Path) -> None:
    with running_server("--drain-timeout", "1000", root=root) as server:
        with Client(server, receive_buffer=16 * KIB) as slow:
            slow.ask("/big")
            assert slow.head().status == 200
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_log("finishing")
            assert server.stop(signal.SIGTERM, GUARD) == 0
        server.wait_for_log(r"stopped\b.*1 requests")


def test_the_drain_deadline(root: Path) -> None:
    with running_server("--drain-timeout", "0.2", root=root) as server:
        with Client(server, receive_buffer=16 * KIB) as slow:
            slow.ask("/big")
            assert slow.head().status == 200
            assert server.stop(signal.SIGTERM, GUARD) == 0
            assert len(slow.take(SIZE)) < SIZE
            assert slow.has_ended()
        server.wait_for_log(r"stopped; 1 requests")


# ---------------------------------------------------------------- helper processes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_helper_process_outlives_the_server(root: Path, number: signal.Signals) -> None:
    evict(root / "big")
    with running_server("--helpers", "process", root=root) as server:
        with Client(server) as client:
            assert client.get("/big").body == content(SIZE)
        with watched(helper_processes(server)) as have_ended:
            assert server.stop(number) == (0 if number == signal.SIGTERM else -number)
            assert have_ended()


def test_control_c_reaches_the_helpers_and_does_not_end_them(root: Path) -> None:
    """A terminal sends it to the whole process group; they have a transfer to finish."""
    evict(root / "big")
    options = ("--helpers", "process", "--gate", "always")
    with running_server(*options, root=root) as server:
        with Client(server, receive_buffer=16 * KIB) as slow:
            slow.ask("/big")
            assert slow.head().status == 200
            assert helper_processes(server)
            os.killpg(server.pid, signal.SIGINT)
            server.wait_for_log(FINISHING)
            assert slow.take(SIZE) == content(SIZE)
            assert slow.has_ended()
        assert server.process.wait(GUARD) == 0
        assert not [line for line in server.log if "a disk helper ended" in line]
        assert "Traceback" not in "\n".join(server.log)


def test_a_helper_that_is_killed_is_replaced(root: Path) -> None:
    options = ("--helpers", "process", "--gate", "always")
    with running_server(*options, root=root) as server, Client(server) as client:
        assert client.get("/big").body == content(SIZE)
        for pid in helper_processes(server):
            os.kill(pid, signal.SIGKILL)
        assert client.get("/big").body == content(SIZE)
        server.wait_for_log("a disk helper ended: another one takes its place")
        assert server.stop() == 0
