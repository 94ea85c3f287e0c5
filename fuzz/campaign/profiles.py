"""Hypothesis's settings: dev and ci for the tests, campaign for `python -m fuzz`."""

from typing import Final

from hypothesis import HealthCheck, Phase, settings

# Properties are not timed: a slow machine is no failure.
DEV: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CI: Final = settings(DEV, derandomize=True, max_examples=200, print_blob=True)
# A batch: a seed decides all of it, whatever was found before, so nothing is read from a database.
CAMPAIGN: Final = settings(
    DEV,
    max_examples=100,
    database=None,
    derandomize=False,
    phases=[Phase.generate, Phase.target, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


def register() -> None:
    for name, profile in (("dev", DEV), ("ci", CI), ("campaign", CAMPAIGN)):
        settings.register_profile(name, profile)
