"""What can be fuzzed: each a property and how its examples are made up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from fuzz.streams import STREAMS, check_all_ways, check_stream
from fuzz.texts import CUTS, HEAD_STREAMS, TARGETS, check_heads, check_target


@dataclass(frozen=True)
class Target:
    """`check` raises on an example that should not be."""

    name: str
    check: Callable[..., None]
    examples: dict[str, st.SearchStrategy[Any]] = field(repr=False)

    @property
    def help(self) -> str:
        return (self.check.__doc__ or "").partition("\n")[0]

    def as_test(self) -> Callable[[], None]:
        """A new Hypothesis test of it each time, so that nobody's settings get in the way."""

        def test(**example: Any) -> None:
            self.check(**example)

        test.__name__ = test.__qualname__ = self.check.__name__
        return given(**self.examples)(test)


ALL: Final = {
    target.name: target
    for target in (
        Target("streams", check_stream, {"stream": STREAMS, "seed": st.random_module()}),
        Target("lane", check_all_ways, {"stream": STREAMS}),
        Target("heads", check_heads, {"stream": HEAD_STREAMS, "cuts": CUTS}),
        Target("targets", check_target, {"target": TARGETS}),
    )
}
