"""A target whose executions are counted, and whose failures are kept with what was drawn.

The choices of Hypothesis (what its strategies drew, in order) are the one form of an example that
can be kept for any target, and that can be run again and shrunk. Hypothesis gives them to nobody,
so this is the one module that looks into it.
"""

import base64
import dataclasses
import pprint
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import hypothesis
from hypothesis import Phase, reject, reproduce_failure, settings
from hypothesis.control import current_build_context
from hypothesis.core import decode_failure, encode_failure
from hypothesis.database import (
    ExampleDatabase,
    InMemoryExampleDatabase,
    choices_from_bytes,
    choices_to_bytes,
)
from hypothesis.errors import DidNotReproduce, Unsatisfiable, UnsatisfiedAssumption

from fuzz.campaign.failures import Failure, described, formatted, identify, kind_of
from fuzz.campaign.profiles import CAMPAIGN
from fuzz.target import Target

Test = Callable[[], None]

_MOST_OF_A_KIND: Final = 8  # failures: one defect may change the answers of every status


class Over(BaseException):
    """The worker is to end. Raised between two examples, so that none is cut in two."""


@dataclass(frozen=True)
class Found:
    """One failing example."""

    error: Exception
    example: dict[str, Any]
    choices: str
    size: int


class Observer:
    """Is told of every execution."""

    def before(self, drawn: bytes) -> None:
        """What was drawn for it, as Hypothesis's databases have it."""

    def after(self) -> None:
        """However it has ended, unless the process did."""


class Watch:
    """Wraps the check of a target. `passed` is called with the choices of examples that do."""

    def __init__(
        self,
        target: Target,
        observer: Observer | None = None,
        passed: Callable[[str], None] | None = None,
    ) -> None:
        self.target = target
        self._observer = observer or Observer()
        self._passed = passed
        self.executions = 0
        self.first: dict[str, Found] = {}
        self.best: dict[str, Found] = {}
        self.passed_over: frozenset[str] = frozenset()  # failures that are known well enough
        self.again: Counter[str] = Counter()  # how often they were passed over
        self.only: str | None = None  # the one failure that is looked for

    def test(self, profile: settings = CAMPAIGN) -> Test:
        """A Hypothesis test of the target, with the target's name as its key in databases."""
        test = profile(dataclasses.replace(self.target, check=self.check).as_test())
        test._hypothesis_internal_database_key = key(self.target.name)  # type: ignore[attr-defined]
        return test

    def check(self, **example: Any) -> None:
        self._observer.before(choices_to_bytes(_drawn()))
        self.executions += 1
        try:
            self.target.check(**example)
        except UnsatisfiedAssumption:
            raise
        except Exception as error:
            name, _ = identify(self.target.name, error)
            if self._is_passed_over(name):
                self.again[name] += 1
                reject()
            self._keep(name, error, example)
            raise
        finally:
            self._observer.after()
        if self._passed is not None:
            self._passed(encode_failure(_drawn()).decode())

    def _is_passed_over(self, name: str) -> bool:
        """Known well enough; or there are enough of its kind; or something else is looked for."""
        if self.only is not None:
            return name != self.only
        known = self.passed_over | self.best.keys()
        alike = {each for each in known if kind_of(each) == kind_of(name)}
        return name in self.passed_over or (name not in alike and len(alike) >= _MOST_OF_A_KIND)

    def _keep(self, name: str, error: Exception, example: dict[str, Any]) -> None:
        choices = _drawn()
        found = Found(error, example, encode_failure(choices).decode(), len(choices))
        self.first.setdefault(name, found)
        best = self.best.get(name)
        if best is None or found.size <= best.size:
            self.best[name] = found

    def failures(self, engine: str, seed: int, module: str) -> list[Failure]:
        return [self._failure(name, engine, seed, module) for name in self.best]

    def _failure(self, name: str, engine: str, seed: int, module: str) -> Failure:
        best, first = self.best[name], self.first[name]
        return Failure(
            id=name,
            target=self.target.name,
            module=module,
            engine=engine,
            seed=seed,
            error=described(best.error),
            where=identify(self.target.name, best.error)[1],
            traceback=formatted(best.error),
            example=shown(self.target, best.example),
            choices=best.choices,
            size=best.size,
            first_example=shown(self.target, first.example),
            first_choices=first.choices,
            raw=raw(best.example),
        )


def key(target: str) -> bytes:
    return b"trio_amped.fuzz." + target.encode()


def _drawn() -> tuple[Any, ...]:
    """What the example that runs now was made of."""
    choices: tuple[Any, ...] = current_build_context().data.choices
    return choices


def as_saved(choices: str) -> bytes:
    """As Hypothesis's databases have them."""
    return choices_to_bytes(decode_failure(choices.encode()))


def as_blob(saved: bytes) -> str:
    """The other way round."""
    return encode_failure(choices_from_bytes(saved) or ()).decode()


def is_readable(choices: str) -> bool:
    """Whether Hypothesis can make anything of it."""
    try:
        decode_failure(choices.encode())
    except Exception:  # it says InvalidArgument, and whatever else junk leads to
        return False
    return True


def shown(target: Target, example: dict[str, Any]) -> str:
    arguments = "".join(
        f"    {name}={pprint.pformat(value, width=90).replace(chr(10), chr(10) + '    ')},\n"
        for name, value in example.items()
    )
    return f"{target.check.__name__}(\n{arguments})"


def raw(example: dict[str, Any]) -> dict[str, str]:
    """Each argument that is bytes, or has a wire that is."""
    found = {name: getattr(value, "wire", value) for name, value in example.items()}
    return {
        name: base64.b64encode(value).decode()
        for name, value in found.items()
        if isinstance(value, bytes)
    }


# ------------------------------------------------------------------ one example, once more


def replay(watch: Watch, choices: str) -> bool:
    """Run this example; False if the target's strategies draw something else by now."""
    test = watch.test(settings(CAMPAIGN, verbosity=hypothesis.Verbosity.quiet))
    try:
        reproduce_failure(hypothesis.__version__, choices.encode())(test)()
    except DidNotReproduce:
        return bool(watch.executions)
    except Exception:
        if not watch.best:
            raise
    return True


def example_of(target: Target, choices: str) -> dict[str, Any]:
    """What is drawn from these choices; nothing is checked."""
    found: dict[str, Any] = {}
    watch = Watch(dataclasses.replace(target, check=lambda **example: found.update(example)))
    replay(watch, choices)
    return found


def reuse(watch: Watch, database: ExampleDatabase) -> None:
    """Run all examples that the database has for this target, and shrink those that fail."""
    _reuse(watch, database.fetch(key(watch.target.name)))


def shrink(watch: Watch, choices: str) -> None:
    """Look for smaller examples of the failure of this one."""
    _reuse(watch, [as_saved(choices)])


def _reuse(watch: Watch, examples: Iterable[bytes]) -> None:
    """By a database of its own, since Hypothesis removes from it what does not fail.

    What is under the key itself is taken for shrunk already; what is second is not.
    """
    database = InMemoryExampleDatabase()
    second = key(watch.target.name) + b".secondary"
    for example in examples:
        database.save(second, example)
    if not database.data:
        return  # to have no examples at all is a mistake to Hypothesis
    phases = [Phase.explicit, Phase.reuse, Phase.shrink]
    run(watch.test(settings(CAMPAIGN, database=database, phases=phases, max_examples=1000)), watch)


def run(test: Test, watch: Watch) -> None:
    """Failures of the target are in the watch afterwards; any other exception is raised."""
    try:
        test()
    except Unsatisfiable:
        if not watch.again:  # or else all examples that there are fail, as is known
            raise
    except Exception:
        if not watch.best:
            raise
