"""The files that are served, each with all the versions that it ever had. Blocks."""

import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LARGEST = 4 << 20
OLD = 1_000_000_000  # 2001: a date whose tags are strong
PLAIN, HOT, REWRITTEN, NAMES = "file-", "hot-", "rewritten-", "names/"


class Version(NamedTuple):
    """The content of a file between two changes: a part of the pool."""

    number: int
    size: int
    shift: int
    tag: str  # without W/


class Site:
    """Two releases of one site, with the same content, and a link to the one that is served.

    By the first part of their names: PLAIN files are replaced by renaming, REWRITTEN ones in place
    (by a fault); HOT ones are asked for all the time, and never change; NAMES is a folder.
    """

    def __init__(self, base: Path, rng: random.Random) -> None:
        self.base, self.root, self._new = base, base / "root", base / "new"
        self.releases = [base / "release-0", base / "release-1"]
        self.pool = rng.randbytes(2 * LARGEST)
        self.versions: dict[tuple[str, str], Version] = {}
        self.current: dict[str, Version] = {}
        self.listings: dict[str, bytes] = {}  # in JSON
        self.replaced = 0
        for number, release in enumerate(self.releases):
            release.mkdir()
            (release / "release").write_text(str(number))
        self.root.symlink_to(self.releases[0].name)
        for index in range(150):
            size = (0, 1, LARGEST)[index] if index < 3 else int(2 ** rng.uniform(0, 22))
            self.replace(f"{PLAIN}{index:03}", size, rng)
        for index in range(8):
            self.replace(f"{HOT}{index}", 1 << 2 * index, rng, age=OLD)
            self.replace(f"{REWRITTEN}{index}", 1 << 14 + index, rng, age=OLD)
        self.fill(self.releases, "", rng)

    def fill(
        self, folders: Sequence[Path], prefix: str, rng: random.Random, files: int = 0
    ) -> None:
        """Put `files` and the folder NAMES into these folders, which are served below `prefix`."""
        for index in range(files):
            name, size = f"{PLAIN}{index:03}", int(2 ** rng.uniform(0, 20))
            self.replace(prefix + name, size, rng, [folder / name for folder in folders], OLD)
        for folder in folders:
            (folder / NAMES).mkdir()
            for index in range(100):
                (folder / NAMES / f"{index:02}").touch()
                os.utime(folder / NAMES / f"{index:02}", (OLD, OLD))
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(OLD))
        entry = {"type": "file", "size": 0, "mtime": date}
        entries = [{"name": f"{i:02}", "href": f"{i:02}", **entry} for i in range(100)]
        lines = ",\n".join(map(json.dumps, entries))
        self.listings[prefix + NAMES] = f"[\n{lines}\n]\n".encode()

    def names(self, prefix: str) -> list[str]:
        return [name for name in (*self.current, *self.listings) if name.startswith(prefix)]

    def replace(
        self,
        name: str,
        size: int,
        rng: random.Random,
        paths: Sequence[Path] = (),
        age: float | None = None,
    ) -> None:
        """New content by renaming: clients may meet it before this returns, the old one not after.

        `paths`: of the copies, if not those in the releases; `age`: their mtime, or else now.
        """
        shift = rng.randrange(LARGEST)
        mtime = time.time_ns() if age is None else int(age * 1e9)
        version = self._note(name, size, shift, mtime)
        for path in paths or [release / name for release in self.releases]:
            new = path.with_name(".new")
            new.write_bytes(self.pool[shift : shift + size])
            os.utime(new, ns=(mtime, mtime))
            new.rename(path)
        self.current[name] = version
        self.replaced += 1

    def rewrite(self, name: str, rng: random.Random) -> None:
        """New content in place, after the old one was cut off somewhere."""
        size, shift, mtime = int(2 ** rng.uniform(0, 22)), rng.randrange(LARGEST), time.time_ns()
        version = self._note(name, size, shift, mtime)
        for release in self.releases:
            with (release / name).open("r+b") as file:
                file.truncate(rng.randrange(self.current[name].size + 1))
                file.write(self.pool[shift : shift + size])
                file.truncate()
            os.utime(release / name, ns=(mtime, mtime))
        self.current[name] = version

    def _note(self, name: str, size: int, shift: int, mtime: int) -> Version:
        number = self.current[name].number + 1 if name in self.current else 0
        version = Version(number, size, shift, f'"{mtime:x}-{size:x}"')
        self.versions[name, version.tag] = version
        return version

    def evict(self, name: str) -> None:
        """Have the kernel forget the pages of a file."""
        with (self.root / name).open("rb") as file:
            if name.startswith(PLAIN):  # others are on the disk already, or on one that may hang
                os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    @property
    def release(self) -> str:
        """The text of the file "release" where the link leads to."""
        return str(self.releases.index(self.root.resolve()))

    def switch(self) -> None:
        """Have the link lead to the other release."""
        other = self.releases[1 - int(self.release)]
        self._new.symlink_to(other.name)
        self._new.rename(self.root)
