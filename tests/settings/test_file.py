"""What a file of TOML gives, and the file, line and key of what cannot be."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.settings.file import read_file
from trio_amped.settings.given import SETTINGS, Given


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.toml"


def test_what_it_gives(path: Path) -> None:
    path.write_text(
        '# a comment\nport = 80\n"listing" = true\nhead_timeout = 5\nlog_level = "INFO"\n'
        'headers = [\n  "*: A: b",\n  "*.x: C: d",\n]\n'
    )
    found = read_file(str(path))
    assert found.sites == []
    assert found.values == {
        name: Given(value, f"{path}, line {line}: {name}", f"{path}, line {line}")
        for name, value, line in [
            ("port", 80, 2),
            ("listing", True, 3),
            ("head_timeout", 5, 4),
            ("log_level", "info", 5),
            ("headers", ("*: A: b", "*.x: C: d"), 6),
        ]
    }


def test_several_sites(path: Path) -> None:
    path.write_text('port = 1\n[[site]]\nroot = "a"\n\n[[ site ]]\nhosts = ["h"]\nroot = "b"\n')
    found = read_file(str(path))
    assert [{name: each.value for name, each in site.items()} for site in found.sites] == [
        {"root": "a"},
        {"hosts": ("h",), "root": "b"},
    ]
    assert [site["root"].source for site in found.sites] == [f"{path}, line 3", f"{path}, line 7"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port = 1\nports = 2\n", ", line 2: ports is no setting; did you mean port?"),
        ("port = 'http'", ", line 1: port must be a whole number"),
        ("\n\nport = true", ", line 3: port must be a whole number"),
        ("port = 65536", ", line 1: port must be at most 65535"),
        ("port = 1979-05-27", ", line 1: port must be a whole number"),
        ("hsts = 1", ", line 1: hsts must be a string"),
        ("head_timeout = nan", ", line 1: head_timeout must be a number"),
        ("listing = 1", ", line 1: listing must be true or false"),
        ("gate = 'lies'", ", line 1: gate must be one of auto, mincore, nowait, always, never"),
        ("headers = 'a'", ", line 1: headers must be a list of strings, not one string"),
        ("headers = [1]", ", line 1: headers must be a list of strings"),
        ("header = ['a']", ", line 1: header is no setting; did you mean headers?"),
        ("config = 'b.toml'", ", line 1: config is no setting"),
        ("on_request = 1", ", line 1: on_request is no setting"),
        ("sites = []", ", line 1: sites is no setting; did you mean site?"),
        ("port = 1\n[sit]\na = 1", ", line 2: sit is no setting; did you mean site?"),
        ("a.b = 1", ", line 1: a is no setting"),
        ("site = 5", ", line 1: site must be tables: [[site]]"),
        ("port = 1\n[site]\nroot = 'a'", ", line 2: site must be tables: [[site]]"),
        ("[[site]]\nport = 1\nroot = 'a'", ", line 2: port is no setting"),
        ("[[site]]\nroot = 'a'\n[[site]]\nrot = 'b'", ", line 4: rot is no setting; did you mean "),
        ("[[site]]\nroot = 'a'\n[[site]]\nlisting = 0", ", line 4: listing must be true or false"),
        ("[[site]]\nroot = 'a'\n[[site]]\n", ", line 3: a [[site]] must have a root"),
        ("site = [{root = 'a', x = 1}]", ": x is no setting"),
        ("", " is empty: it must give a setting, such as root"),
        ("# root = 'a'\n", " is empty: it must give a setting, such as root"),
        ("site = []", " is empty: it must give a setting, such as root"),
        ("port = ", " is no TOML: Invalid value (at end of document)"),
        ("port = 1\nport = 2", " is no TOML: Cannot overwrite a value (at end of document)"),
        ("a = " + "[" * 100_000, " is no TOML: "),
    ],
)
def test_what_cannot_be(text: str, says: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.toml") as caught:
        read_file(str(path))
    assert str(caught.value).startswith(f"{path}{says}")


_WORDS = st.sampled_from(['"a"', "1", "-1", "1.5", "inf", "true", "[]", '["a"]', "[1]", "{}", "x"])
_KEYS = st.sampled_from([*SETTINGS, "site", "a.b", "'q'", "[site]", "[[site]]", "#", "é"])


@given(st.lists(st.builds("{} = {}".format, _KEYS, _WORDS) | _KEYS | st.text(max_size=9)))
def test_any_file_gives_settings_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    said, names = str(path), set[str]()
    try:
        names = set(read_file(str(path)).values)
    except ValueError as error:
        said = str(error)
    assert said.startswith(str(path))
    assert names <= SETTINGS.keys() - {"config"}


@pytest.mark.parametrize("key", ["hsts", "max_connections_per_address"])
def test_none_is_not_asked_for(key: str, path: Path) -> None:
    """TOML has none."""
    path.write_text(f"{key} = []")
    with pytest.raises(ValueError, match=r": \w+ must be a (string|whole number)$"):
        read_file(str(path))


def test_a_file_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.toml cannot be read: No such file or directory$"):
        read_file(str(path))
    with pytest.raises(ValueError, match=r" cannot be read: Is a directory$"):
        read_file(str(path.parent))
    path.write_bytes(b"root = '\xff'")
    with pytest.raises(ValueError, match=r"a\.toml is no TOML: it is not UTF-8$"):
        read_file(str(path))
