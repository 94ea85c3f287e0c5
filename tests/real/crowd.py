"""Clients that go on asking while a server is restarted or reloaded."""

import threading

from tests.real.support import Client
from tests.rig import GUARD, ServerProcess


class Crowd:
    """Clients that ask again and again; what has gone wrong.

    Half of them on a new connection each time, the others on the same one for as long as they are
    not told that it ends.
    """

    path, expected = "/small", b"small"

    def __init__(self, server: ServerProcess, size: int = 4, expected: bytes | None = None) -> None:
        self.expected = self.expected if expected is None else expected
        self.answers: list[int] = []
        self.failures: list[str] = []
        self._server = server
        self._has_enough = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_again_and_again, args=(bool(number % 2),))
            for number in range(size)
        ]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_enough.set()
        for thread in self._threads:
            thread.join(GUARD)

    def _ask_again_and_again(self, stays: bool) -> None:
        while not self._has_enough.is_set():
            try:
                with Client(self._server) as client:
                    while not self._ask(client, stays):
                        pass
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))

    def _ask(self, client: Client, stays: bool) -> bool:
        """Ask once; return whether that was the last time."""
        is_last = not stays or self._has_enough.is_set()
        answer = client.get(self.path, *["Connection: close"] * is_last)
        assert answer.body == self.expected
        self.answers.append(answer.status)
        return answer.fields.get("connection") == "close"
