"""Which of several sources holds, how errors name it, and what a worker is given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.settings.support import configs, processes
from trio_amped.config import Config, Process, Site
from trio_amped.settings.effective import effective, packed, unpacked
from trio_amped.settings.options import Parser


def settings(
    *options: str, environment: dict[str, str] | None = None, file: Path | None = None
) -> Any:
    given = Parser("0").read([*options, *(["--config", str(file)] if file else [])])
    return effective(given, environment or {})


def test_nothing_is_said() -> None:
    found = settings()
    assert (found.config, found.process, found.given) == (Config(), Process(), {})


def test_the_command_line_before_the_environment_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('port = 1\nhost = "h1"\nroot = "r1"\ncharset = "ascii"\nworkers = 2\n')
    environment = {"TRIO_AMPED_PORT": "2", "TRIO_AMPED_HOST": "h2", "TRIO_AMPED_LISTING": "true"}
    found = settings("--port", "3", "--no-listing", environment=environment, file=file)
    assert found.config == Config(port=3, host="h2", root="r1", charset="ascii")
    assert found.process == Process(workers=2, config=str(file))
    assert {name: each.source for name, each in found.given.items()} == {
        "config": "command line",
        "port": "command line",
        "listing": "command line",
        "host": "TRIO_AMPED_HOST",
        "root": f"{file}, line 3",
        "charset": f"{file}, line 4",
        "workers": f"{file}, line 5",
    }


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("port = 1")
    assert settings(environment={"TRIO_AMPED_CONFIG": str(file)}).config.port == 1


def test_a_list_is_given_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('cors = ["https://a"]\nprecompressed = ["br"]')
    assert settings("--cors", "https://b", file=file).config == Config(
        cors=("https://b",), precompressed=("br",)
    )


@pytest.mark.parametrize(
    ("text", "environment", "options", "expected"),
    [
        ("port = 80\nhost = 'h'", {}, ("--bind", "*:1"), Config(bind=["*:1"])),
        ("", {"PORT": "80"}, ("--bind", "*:1"), Config(bind=["*:1"])),
        ("port = 80", {"BIND": "*:1"}, (), Config(bind=["*:1"])),
        ("bind = ['*:1']", {}, ("--port", "80"), Config(port=80)),
        ("bind = ['*:1']", {"HOST": "h"}, (), Config(host="h")),
        ("host = 'h'", {"BIND": "*:1"}, ("--port", "80"), Config(host="h", port=80)),
        ("host = 'h'", {"PORT": "80"}, ("--port", "81"), Config(host="h", port=81)),
        ("bind = ['*:1']", {"PORT": "80"}, ("--bind", "*:2"), Config(bind=["*:2"])),
    ],
)
def test_where_to_listen_is_said_by_the_first_who_says_it(
    text: str,
    environment: dict[str, str],
    options: tuple[str, ...],
    expected: Config,
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text or "fast_lane = true")  # an empty one is refused
    variables = {f"TRIO_AMPED_{name}": value for name, value in environment.items()}
    found = settings(*options, environment=variables, file=file)
    assert found.config == replace(expected, bind=tuple(expected.bind))
    for name in ("bind", "host", "port"):
        assert (name in found.given) == (getattr(expected, name) != getattr(Config(), name))


def test_sites(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('port = 1\n[[site]]\nroot = "a"\n[[site]]\nroot = "b"\nprefix = "/b"\n')
    sites = (Site("a"), Site("b", prefix="/b"))
    assert settings("--host", "h", file=file).config == Config(port=1, host="h", sites=sites)


@pytest.mark.parametrize(
    ("text", "options", "environment", "says"),
    [
        ("port = 1", (), {"PORT": "70000"}, "TRIO_AMPED_PORT must be at most 65535"),
        ("", ("--bind", "*:1", "--port", "8000"), {}, "--bind must not be given beside host or"),
        ("", (), {"BIND": "*:1", "HOST": "h"}, "TRIO_AMPED_BIND must not be given beside host"),
        ("bind = ['*:1']\nport = 80", (), {}, "FILE, line 1: bind must not be given beside host"),
        ("", ("--charset", "a b"), {}, "--charset must be a character encoding such as utf-8, or"),
        (
            "charset = 'a b'",
            (),
            {},
            "FILE, line 1: charset must be a character encoding such as utf-8, ",
        ),
        ("\nheaders = ['a']", (), {}, "FILE, line 2: headers must be GLOB: Name: value, not 'a'"),
        ("", (), {"HEADERS": "a"}, "TRIO_AMPED_HEADERS must be GLOB: Name: value, not 'a'"),
        ("root = 5", (), {}, "FILE, line 1: root must be a path"),
        ("root = ''", (), {}, "FILE, line 1: root must not be empty"),
        ("fallback = 5", (), {}, "FILE, line 1: fallback must be the path of a page, or an async"),
        ("[[site]]\nroot = 'a'\ncors = ['x']", (), {}, "FILE, line 3: cors must be an origin"),
        ("[[site]]\nroot = 'a'", ("--root", "b"), {}, "--root must be given to the sites, not "),
        (
            "listing = true\n[[site]]\nroot = 'a'",
            (),
            {},
            "FILE, line 1: listing must be given to the sites, not beside them",
        ),
        (
            "[[site]]\nroot = 'a'\n[[site]]\nroot = 'b'",
            (),
            {},
            "FILE, line 4: prefix must not be that of two sites: /",
        ),
        (
            "[[site]]\nroot = 'a'\nprefix = '/p'\n[[site]]\nroot = 'b'\nprefix = '/p/'",
            (),
            {},
            "FILE, line 6: prefix must not be that of two sites: /p/",
        ),
    ],
)
def test_an_error_names_where_it_was_given(
    text: str, options: tuple[str, ...], environment: dict[str, str], says: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text or "fast_lane = true")  # an empty one is refused
    variables = {f"TRIO_AMPED_{name}": value for name, value in environment.items()}
    with pytest.raises(ValueError, match="must") as caught:
        settings(*options, environment=variables, file=file)
    assert str(caught.value).startswith(says.replace("FILE", str(file)))


@given(configs(), processes())
def test_what_is_packed_for_a_worker_is_what_it_was(config: Config, process: Process) -> None:
    assert unpacked(packed(config, process)) == (config, process)


@given(st.text() | st.sampled_from(["{}", "[]", "null", '{"config": {"a": 1}, "process": {}}']))
def test_what_was_not_packed_is_told(text: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        unpacked(text)
