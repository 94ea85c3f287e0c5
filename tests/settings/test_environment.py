"""What the environment gives, and what is no setting there."""

import pytest

from trio_amped.settings.environment import VARIABLES, read_environment
from trio_amped.settings.given import SETTINGS, Given


def test_there_is_a_variable_for_each_setting() -> None:
    assert {f"TRIO_AMPED_{name.upper()}" for name in SETTINGS} == set(VARIABLES)
    assert {"TRIO_AMPED_PORT", "TRIO_AMPED_HEADERS", "TRIO_AMPED_WORKERS"} < set(VARIABLES)


def test_what_it_gives() -> None:
    environment = {
        "PATH": "/bin",
        "TRIO_AMPED_PORT": "80",
        "TRIO_AMPED_LISTING": "true",
        "TRIO_AMPED_HEADERS": "*: A: b\n*.x: C: d",
        "TRIO_AMPED_PRECOMPRESSED": "none",
        "trio_amped_host": "nobody",
    }
    assert read_environment(environment) == {
        "port": Given(80, "TRIO_AMPED_PORT", "TRIO_AMPED_PORT"),
        "listing": Given(True, "TRIO_AMPED_LISTING", "TRIO_AMPED_LISTING"),
        "headers": Given(("*: A: b", "*.x: C: d"), "TRIO_AMPED_HEADERS", "TRIO_AMPED_HEADERS"),
        "precompressed": Given((), "TRIO_AMPED_PRECOMPRESSED", "TRIO_AMPED_PRECOMPRESSED"),
    }


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("PORT", "http", "TRIO_AMPED_PORT must be a whole number, not 'http'"),
        ("PORT", "tcp://10.0.0.1:80", "TRIO_AMPED_PORT must be a whole number, not 'tcp://10.0.0"),
        ("LISTING", "yes", "TRIO_AMPED_LISTING must be true or false, not 'yes'"),
        ("PORTS", "80", "TRIO_AMPED_PORTS is no setting; did you mean TRIO_AMPED_PORT?"),
        ("HEADER", "a", "TRIO_AMPED_HEADER is no setting; did you mean TRIO_AMPED_HEADERS?"),
        ("SITES", "a", "TRIO_AMPED_SITES is no setting"),
        ("", "a", "TRIO_AMPED_ is no setting"),
        ("port", "a", "TRIO_AMPED_port is no setting"),
    ],
)
def test_what_cannot_be(variable: str, text: str, says: str) -> None:
    with pytest.raises(ValueError, match="TRIO_AMPED_") as caught:
        read_environment({f"TRIO_AMPED_{variable}": text})
    assert str(caught.value).startswith(says)
