"""What can be fuzzed: a property, and how its examples are made up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st


@dataclass(frozen=True)
class Target:
    """`check` raises on an example that should not be. It is synchronous and calls `trio.run`
    itself, so that any fuzzer can drive it. `is_live`: it needs programs or sockets of the system.
    `found`: the examples of failures that have been mended, which the tests try first.
    """

    name: str
    check: Callable[..., None]
    examples: dict[str, st.SearchStrategy[Any]] = field(repr=False)
    is_live: bool = False
    found: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def help(self) -> str:
        return (self.check.__doc__ or "").partition("\n")[0]

    def as_test(self) -> Callable[[], None]:
        """A new Hypothesis test of it each time, so that nobody's settings get in the way."""

        def test(**drawn: Any) -> None:
            self.check(**drawn)

        test.__name__ = test.__qualname__ = self.check.__name__
        property_of = given(**self.examples)(test)
        for each in self.found:
            property_of = example(**each)(property_of)
        return property_of
