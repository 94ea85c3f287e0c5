"""A worker process: runs what it was told to.

    python -m fuzz.campaign.worker ASSIGNMENT DESCRIPTOR

Its stdout and stderr are a log: targets may print, and faulthandler writes there why it died.
It ends between two examples when it gets SIGTERM, and it ignores ^C, which is for its parent.
"""

import contextlib
import faulthandler
import signal
import sys
from collections.abc import Callable

from fuzz.campaign.desk import Assignment, Desk
from fuzz.campaign.watch import Over


def main(arguments: list[str]) -> int:
    work = Assignment.from_argument(arguments[0])
    desk = Desk(work, int(arguments[1]))
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, desk.tell_over)
    with contextlib.suppress(Over):
        _engine(work.engine)(desk)
    desk.progress()
    desk.say("over")
    return 0


def _engine(name: str) -> Callable[[Desk], None]:
    if name == "atheris":
        from fuzz.campaign import by_atheris

        return by_atheris.fuzz
    from fuzz.campaign import by_hypothesis

    engines = {
        "hypothesis": by_hypothesis.fuzz,
        "measure": by_hypothesis.measure,  # what atheris has kept, with coverage
        "repeat": by_hypothesis.repeat,  # one example
    }
    return engines[name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
