"""Every code block of the documentation is run, as a reader would; every name and test is there.

The blocks of a page are run from top to bottom, in a folder of its own. `python` ones run in this
process (under trio, where they await), but those that begin with the name of a file, which are
saved under it for the commands, as are `toml` ones. `sh` and `console` ones are run by bash,
command by command, and what `console` shows must be what came. A server that a command has started
is stopped by ^C before the next one, and at the end of the page.
"""

from __future__ import annotations

import ast
import inspect
import io
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import trio
from markdown_it import MarkdownIt

import trio_amped
import trio_amped.asgi
import trio_amped.disk
import trio_amped.testing
from fuzz.campaign import commands as commands_of_fuzz
from fuzz.targets import ALL
from tests.rig import GUARD, REPOSITORY, ServerProcess, needs

PAGES: Final = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
PUBLIC: Final = (trio_amped, trio_amped.asgi, trio_amped.disk, trio_amped.testing)

RUN: Final = {"python", "sh", "console", "toml"}
SHOWN: Final = {"text", "{toctree}", "{eval-rst}"}  # diagrams, output, and what Sphinx reads

# What is not run, and why. That the target or the option is there is checked all the same.
NOT_RUN: Final = {
    r"pip install \.": "it needs an index of packages; make does the same for each environment",
    r"make (check(-all)?|test(-long|-plain)?|fuzz|soak|inject|docs)\b.*": (
        "it takes long, or is what runs this test"
    ),
    r"make (bench(-cold|-listing|-asgi)?|experiments)\b.*": "it takes long",
    r"make packages": "it installs, as root",
    r"(certbot|lego)\b.*": "it asks Let's Encrypt; tests/clients/test_acme.py does not",
    r"python -m fuzz (run|repro|minimise|cover|report|mutants)\b.*": (
        "a campaign takes long, or there must have been one"
    ),
}

# What a page needs to be there before its first block.
PLANTED: Final = {
    "README.md": {
        "site/index.html": b"<!doctype html>",
        "srv/mirror/a.txt": b"a",
        "mirror/a.txt": b"a",
        "dist/index.html": b"<!doctype html>",
        "tiles/a.pmtiles": b"a",
        "docs/404.html": b"<!doctype html>",
        "planet.pmtiles": bytes(2_000_000),
    },
    "index.md": {"site/index.html": b"<!doctype html>"},
    "command-line.md": {"site/index.html": b"<!doctype html>"},
    "configuration.md": {
        "site/index.html": b"<!doctype html>",
        "media/a.mp4": b"a",
        "docs/404.html": b"<!doctype html>",
    },
    "https.md": {"site/index.html": b"<!doctype html>"},
    "embedding.md": {
        "site/index.html": b"<!doctype html>",
        "site/hello.txt": b"Hello.\n",
        "media/a.mp4": b"a",
        "docs/a.html": b"a",
        "planet.pmtiles": bytes(200_000),
    },
}

# Parts of an output that are never the same, and "..." for whatever else may differ.
VOLATILE: Final = "|".join(
    (
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}",
        r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT",
        r'(?:W/)?"[0-9a-f]+-[0-9a-f]+"',
        r"gate \w+: .* helpers",
        r"\.\.\.",
    )
)
SERVES: Final = re.compile(
    r"(python -m trio_amped|trio-amped(?! check| config)|make serve|python \w+\.py)\b"
)


SAYS_WHERE: Final = re.compile(r"--(port|bind)\b|(names|staff)\.toml")
"""A command that says where to listen, as these files do."""


class Block(NamedTuple):
    """A code block; `line` is that of its first line in the page."""

    line: int
    language: str
    text: str


class Command(NamedTuple):
    """A command for bash, and what it says."""

    text: str
    output: str


def blocks(page: Path) -> Iterator[Block]:
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            assert token.map
            yield Block(token.map[0] + 2, token.info, token.content)


def commands(block: Block) -> list[Command]:
    """Those of a `console` block begin with "$ "; each line of a `sh` block is one."""
    text = block.text.replace("\\\n", "\\\0")
    if block.language == "sh":
        return [Command(line.replace("\0", "\n"), "") for line in text.splitlines()]
    first, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not first, "output without a command"
    pairs = (part.split("\n", 1) for part in parts)
    return [Command(command.replace("\0", "\n"), output) for command, output in pairs]


def reason_not_to_run(command: str) -> str | None:
    return next((why for what, why in NOT_RUN.items() if re.match(what, command)), None)


def as_pattern(output: str) -> str:
    """A regular expression for such an output, however it is wrapped."""
    parts = re.split(f"({VOLATILE})", " ".join(output.split()))
    escaped = (re.escape(part).replace(r"\ ", r"\s+") for part in parts[::2])
    spaces = (".*" if part == "..." else f"(?:{VOLATILE})" for part in parts[1::2])
    return "".join(x for pair in zip(escaped, [*spaces, ""], strict=True) for x in pair)


class Reader:
    """Does what a page says, in a folder; `port` is where its servers listen, instead of 8000."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.saved: set[str] = set()
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._server: ServerProcess | None = None
        self._may_be_interrupted = False
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        self._environment = os.environ | {
            "PATH": path,
            "HOME": str(folder),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "error",
            "LC_ALL": "C.UTF-8",
        }

    def do(self, page: Path, block: Block) -> None:
        if block.language == "toml":
            self._save(self._safe(block.text))
            return
        if block.language == "python":
            self._run_python(block.text, f"{page.name}:{block.line}")
            return
        for command in commands(block):
            if reason_not_to_run(command.text) is None:
                self._run_command(command)

    def _run_python(self, text: str, where: str) -> None:
        text = self._safe(text)
        if re.match(r"# \w+\.py\n", text):
            ast.parse(text, where)
            self._save(text)
            return
        code = compile(text, where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:

            async def main() -> None:
                with trio.fail_after(GUARD):
                    await eval(code, self._names)

            trio.run(main)
        else:
            exec(code, self._names)

    def _save(self, text: str) -> None:
        named = re.match(r"# (\w+\.\w+)\n", text)
        assert named, text
        (self.folder / named[1]).write_text(text)
        self.saved.add(named[1])

    def _run_command(self, command: Command) -> None:
        argv = ["bash", "-c", self._safe(command.text)]
        expected = as_pattern(self._safe(command.output))
        self.saved -= set(command.text.split())
        if SERVES.match(command.text):
            self.stop()
            self._start(["bash", "-c", f"exec {argv[-1]}"], command)
            return
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GUARD,
        )
        said = done.stdout.replace("\r\n", "\n").strip()
        assert done.returncode == 0, (command.text, said, done.stderr)
        assert not command.output or re.fullmatch(expected, said, re.DOTALL), (command, said)

    def _start(self, argv: list[str], command: Command) -> None:
        process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._server = ServerProcess(process)
        self._may_be_interrupted = bool(re.match(r"python \w+\.py|make", command.text))
        joined = re.sub(r"\n +", " ", self._safe(command.output)).strip()
        for line in joined.splitlines() or ["gate ..."]:
            self._server.wait_for_log(as_pattern(line))

    def stop(self) -> None:
        """^C, as a terminal sends it."""
        server, self._server = self._server, None
        if server is None:
            return
        try:
            os.killpg(server.pid, signal.SIGINT)
            status = server.process.wait(GUARD)
        finally:
            server.end()
        if status and self._may_be_interrupted:  # trio has it in a group, with status 1
            assert status == -signal.SIGINT or "KeyboardInterrupt" in server.log[-2], server.log
        else:
            assert status == 0, server.log

    def _safe(self, text: str) -> str:
        """The same on a free port, below the folder, and without making an environment."""
        text = re.sub(r"\b8000\b", str(self.port), text)
        text = text.replace("/srv/", f"{self.folder}/srv/")
        command, *comment = re.split(r"(?= +#)", text, maxsplit=1)
        if re.match(r"python -m trio_amped|trio-amped", text) and not SAYS_WHERE.search(text):
            command += f" --port {self.port}"
        if text.startswith("make serve"):
            tools = shlex.quote(str(Path(sys.executable).parent))
            given = f" -s -C {REPOSITORY} -o .venv/runtime BIN={tools} PORT={self.port}"
            command = command.replace("make", "make" + given, 1)
        return command + "".join(comment)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_known_language(page: Path) -> None:
    for block in blocks(page):
        assert block.language in RUN | SHOWN, (page.name, block.line)
        if block.language == "text":
            assert not re.search(r"^\$ ", block.text, re.MULTILINE), (page.name, block.line)


@pytest.fixture
def quiet_log() -> Iterator[None]:
    """What a page does to our logger is undone."""
    log = logging.getLogger("trio_amped")
    before, level = log.handlers[:], log.level
    yield
    log.handlers[:] = before
    log.setLevel(level)


@needs("curl", "make")
@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.language in RUN for block in blocks(page))],
    ids=lambda page: page.name,
)
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in PLANTED.get(page.name, {}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    with closing(socket.socket()) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server may listen there
        reserved.bind(("127.0.0.1", 0))
        reader = Reader(tmp_path, reserved.getsockname()[1])
        try:
            for block in blocks(page):
                if block.language in RUN:
                    reader.do(page, block)
        finally:
            reader.stop()
    assert reader.saved == set(), "programs that no command runs"


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_what_is_not_run_is_there(pattern: str) -> None:
    shell = [x for page in PAGES for x in blocks(page) if x.language in ("sh", "console")]
    texts = [each.text for block in shell for each in commands(block)]
    found = sorted({re.split(" +#", text)[0] for text in texts if re.match(pattern, text)})
    assert found, "nobody says so any more"
    for text in found:
        argv = shlex.split(text)
        if argv[0] == "make":
            subprocess.run(["make", "-n", *argv[1:]], cwd=REPOSITORY, check=True, timeout=GUARD)
        elif argv[:3] == ["python", "-m", "fuzz"]:
            options = help_of_fuzz(argv[3])
            assert [x for x in argv if x.startswith("--") and x not in options] == []


def help_of_fuzz(command: str) -> str:
    """What `python -m fuzz COMMAND --help` prints."""
    with redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit, match=r"^0$"):
        commands_of_fuzz.main([command, "--help"])
    return shown.getvalue()


def test_a_wrong_output_is_noticed() -> None:
    shown = "2026-01-01 00:00:00,000 INFO  a\n      b ... d"
    pattern = as_pattern(shown)
    assert re.fullmatch(pattern, "2027-12-31 23:59:59,999 INFO a b (c) d")
    assert not re.fullmatch(pattern, "2027-12-31 23:59:59,999 INFO a x (c) d")
    assert not re.fullmatch(pattern, "yesterday INFO a b (c) d")


def test_every_public_name_is_in_the_reference() -> None:
    text = (REPOSITORY / "docs/reference.md").read_text()
    listed = set(re.findall(r"^\.\. \S+:: (trio_amped\.[\w.]+)", text, re.MULTILINE))
    assert ":: __version__" in text
    listed.add("trio_amped.__version__")
    names = {f"{module.__name__}.{name}" for module in PUBLIC for name in module.__all__}
    assert listed - {module.__name__ for module in PUBLIC} == names


def test_every_promise_has_tests_and_a_figure() -> None:
    text = (REPOSITORY / "docs/reliability.md").read_text()
    tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert len(tests) > 50
    for path, name in tests:
        assert re.search(rf"^(async )?def {name}\(", (REPOSITORY / path).read_text(), re.MULTILINE)
    assert set(re.findall(r"`fuzz:([^`]+)`", text)) <= set(ALL)
    promises = re.findall(r"^- \*\*.*(?:\n  .*)*", text, re.MULTILINE)
    assert [x for x in promises if "`tests/" not in x and "`fuzz:" not in x] == []
    names_and_statuses = r"`[^`]*`|\b(?:304|4\d\d|50\d)\b(?! \d)"
    figures = [re.sub(names_and_statuses, "", x) for x in promises]
    assert [x for x in figures if not re.search(r"\d", x)] == [], "no figure was measured"


def test_every_page_is_in_the_contents() -> None:
    text = (REPOSITORY / "docs/index.md").read_text()
    listed = {
        x for block in re.findall(r"```\{toctree\}(.*?)```", text, re.DOTALL) for x in block.split()
    }
    assert {page.stem for page in PAGES[1:]} - {"index"} <= listed


def test_every_example_is_listed() -> None:
    text = (REPOSITORY / "README.md").read_text()
    examples = [path.name for path in (REPOSITORY / "examples").iterdir() if path.name[0] != "_"]
    assert [name for name in examples if f"](examples/{name}): " not in text] == []
