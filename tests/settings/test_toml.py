"""The settings that hold, written as TOML: what is read again is what they were."""

from pathlib import Path

import pytest
from hypothesis import given

from tests.settings.support import configs, processes
from trio_amped.config import Config, Process, Site
from trio_amped.description import settings_of
from trio_amped.settings.effective import Effective, effective
from trio_amped.settings.given import SETTINGS, Given
from trio_amped.settings.toml import as_toml


def read_again(text: str, path: Path) -> tuple[Config, Process]:
    path.write_text(text, encoding="utf-8")
    found = effective({"config": Given(str(path), "--config", "command line")}, {})
    return found.config, found.process


@given(configs(), processes())
def test_what_is_written_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, config: Config, process: Process
) -> None:
    path = tmp_path_factory.getbasetemp() / "again.toml"
    text = as_toml(Effective(config, process, {}, [{} for _ in config.sites]))
    same, of_process = read_again(text, path)
    assert same == config
    assert {**_values(of_process), "config": None} == {**_values(process), "config": None}
    assert all(line.isprintable() for line in text.splitlines())


def _values(process: Process) -> dict[str, object]:
    return {name: getattr(process, name) for name in settings_of(Process)}


def test_each_says_where_it_was_given() -> None:
    given = {
        "port": Given(80, "--port", "command line"),
        "host": Given("h", "TRIO_AMPED_HOST", "TRIO_AMPED_HOST"),
        "cors": Given(("*",), "", "a\n\x1b.toml, line 3"),
        "config": Given("a.toml", "--config", "command line"),
    }
    config = Config(port=80, host="h", cors=("*",))
    lines = as_toml(Effective(config, Process(config="a.toml"), given, [])).splitlines()
    for line in (
        "port = 80  # command line",
        'host = "h"  # TRIO_AMPED_HOST',
        'cors = ["*"]  # a\\n\\x1b.toml, line 3',
        '# config = "a.toml"  # command line',
        "# fallback = none  # default",
        'root = "."  # default',
        "listing = false  # default",
        "head_timeout = 10.0  # default",
    ):
        assert line in lines
    assert len(lines) == 1 + len(SETTINGS)


def test_several_sites_are_tables() -> None:
    config = Config(sites=(Site("a"), Site(Path("b"), prefix="/b/")))
    given = [{"root": Given("a", "", "x.toml, line 2")}, {}]
    text = as_toml(Effective(config, Process(), {}, given))
    server, one, two = text.split("\n\n[[site]]\n")
    assert "root = " not in server
    assert one.startswith('root = "a"  # x.toml, line 2\nprefix = "/"  # default\n')
    assert two.startswith('root = "b"  # default\nprefix = "/b/"  # default\n')


def test_a_string_that_is_no_utf_8_has_no_toml() -> None:
    with pytest.raises(ValueError, match=r"^root cannot be written as TOML: it is not UTF-8$"):
        as_toml(Effective(Config(root="a\udcff"), Process(), {}, []))
