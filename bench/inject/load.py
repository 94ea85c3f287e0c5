"""The files that are served, and a client that asks for all of them in all ways. Blocks."""

import contextlib
import http.client
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

PATIENCE: Final = 10.0  # seconds for one answer
_ROUNDS: Final = 4  # of a visit, in which everything is asked for
_ENTRIES: Final = 30  # of the folder that is listed


class Site:
    """The served files, and what is in them."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self._new = base / "new"
        self.bodies: dict[str, bytes] = {}
        (self.root / "folder").mkdir(parents=True)
        rng = random.Random(1)
        sizes = {"small.txt": 100, "page.html": 20_000, "large.bin": 700_000, "replaced.txt": 5_000}
        sizes |= {f"late-{number}.bin": 150_000 for number in range(2 * _ROUNDS)}
        for name, size in sizes.items():
            self._write(name, rng.randbytes(size))
        for number in range(_ENTRIES):
            (self.root / "folder" / f"entry-{number:02}").touch()

    def _write(self, name: str, content: bytes) -> None:
        """By rename: the server keeps the old one until it finds the new one, and closes it."""
        self._new.write_bytes(content)
        self._new.rename(self.root / name)
        self.bodies[name] = content

    def replace(self) -> None:
        self._write("replaced.txt", self.bodies["replaced.txt"][::-1])

    def change_folder(self, number: int) -> None:
        """Have the next who asks for the listing wait for a new one."""
        (self.root / "folder" / f"new-{number}").touch()
        (self.root / "folder" / f"new-{number}").unlink()

    def evict(self, name: str) -> None:
        """Have the next who asks for a file wait for the disk."""
        with (self.root / name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Ask(NamedTuple):
    """A request, and the answer that is right."""

    path: str
    body: bytes | None = None  # None: of a listing, in which the last entry must be
    status: int = 200
    method: str = "GET"
    fields: dict[str, str] = {}  # noqa: RUF012 (it is never changed)
    closes: bool = False  # the connection, before the answer is read


class Tally:
    """What became of requests."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.failed = self.hung = 0
        self.wrong: list[str] = []  # answers that say they are right, and are not
        self.reasons: list[str] = []


class Client:
    """One kept connection, made anew after a failure; each visit makes others besides."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._port = port
        self._tally = tally
        self._kept = self._connection()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)

    def close(self) -> None:
        self._kept.close()

    def visit(self, site: Site) -> bool:
        """Ask for everything, in all ways; return whether all answers were right."""
        before = self._tally.failed
        for number, ask in enumerate(_asks(site)):
            if number % 4 == 3:
                with contextlib.closing(self._connection()) as connection:
                    self._ask(connection, ask)
            elif not self._ask(self._kept, ask):
                self._kept.close()
        return self._tally.failed == before

    def _ask(self, connection: http.client.HTTPConnection, ask: Ask) -> bool:
        try:
            connection.request(ask.method, f"/{ask.path}", headers=ask.fields)
            if ask.closes:
                connection.close()
                return True
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._tally.hung += isinstance(error, TimeoutError)
            return self._fail(ask, repr(error))
        if answer.status != ask.status:
            return self._fail(ask, f"{answer.status}")
        is_right = b"entry-29" in body if ask.body is None else body == ask.body
        if not is_right:
            self._tally.wrong.append(f"{ask.method} {ask.path}: {len(body)} bytes, not the right")
        return is_right

    def _fail(self, ask: Ask, why: str) -> bool:
        self._tally.failed += 1
        self._tally.reasons.append(f"{ask.method} {ask.path}: {why}")
        return False


def _asks(site: Site) -> Iterator[Ask]:
    """Requests of all kinds; files are evicted and replaced between them."""
    small, large = site.bodies["small.txt"], site.bodies["large.bin"]
    for number in range(_ROUNDS):
        yield Ask("small.txt", small)
        yield Ask("page.html", site.bodies["page.html"])
        for late in (f"late-{number}.bin", f"late-{number + _ROUNDS}.bin"):
            site.evict(late)
            yield Ask(late, site.bodies[late])
        span = slice(number * 100_000, number * 100_000 + 40_000)
        fields = {"Range": f"bytes={span.start}-{span.stop - 1}"}
        yield Ask("large.bin", large[span], 206, fields=fields)
        site.change_folder(number)
        yield Ask("folder/", None, fields={"Accept": ("text/html", "application/json")[number % 2]})
        yield Ask("large.bin", large, closes=number == 1)
        yield Ask("small.txt", b"", method="HEAD")
        yield Ask("no-such-file", b"", 404, method="HEAD")
        if number == 0:
            site.replace()
        yield Ask("replaced.txt", site.bodies["replaced.txt"])
