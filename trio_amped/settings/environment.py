"""The settings in the environment: TRIO_AMPED_PORT=80. Pure."""

from collections.abc import Mapping
from typing import Final

from .given import SETTINGS, Given, nearest, read_text

PREFIX: Final = "TRIO_AMPED_"
VARIABLES: Final = {PREFIX + name.upper(): each for name, each in SETTINGS.items()}
"""The settings by the names of their variables."""


def read_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    """Return what the environment gives, by the names of settings.

    A variable that begins like ours and is none is an error: a name that was misspelled must not
    be served without. Raises ValueError, a sentence for the user.
    """
    given = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        if variable not in VARIABLES:
            raise ValueError(f"{variable} is no setting{nearest(variable, VARIABLES)}")
        setting = VARIABLES[variable]
        given[setting.name] = read_text(setting, text, variable, variable)
    return given
