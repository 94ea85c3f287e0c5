"""The terminal that the program was started from. Its end is told by SIGHUP, which has another
meaning from whoever has changed the settings. Nothing here waits."""

import os


class Terminal:
    """The controlling terminal of this process, if there is one when this is made; tty(4)."""

    def __init__(self) -> None:
        self._was_there = _is_there()

    @property
    def has_gone(self) -> bool:
        """Whether there is none any more, and nobody who could press ^C."""
        return self._was_there and not _is_there()


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:  # ENXIO: none; EIO: it has hung up
        return False
    return True
