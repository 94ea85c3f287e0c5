"""git clones and fetches over dumb HTTP: what it gets is whole, and the last commit."""

import os
import re
from pathlib import Path

import pytest

from tests.real.support import KIB, content, put
from tests.rig import needs, running_server

from .support import DEBUG, Exchange, plant, run, stop_and_count, tree

pytestmark = needs("git")

FILES = {
    **{f"folder {n % 7}/file {n}.txt": b"%d\n" % n * 100 * n for n in range(120)},
    **{f"random/{n}.bin": content(20 * KIB + n) for n in range(40)},
}


def git(directory: Path, *words: str | Path) -> str:
    done = run(
        directory,
        *("git", *words),
        GIT_CONFIG_NOSYSTEM="1",
        GIT_CONFIG_GLOBAL=os.devnull,
        GIT_TERMINAL_PROMPT="0",
        GIT_AUTHOR_NAME="nobody",
        GIT_AUTHOR_EMAIL="nobody@example.org",
        GIT_COMMITTER_NAME="nobody",
        GIT_COMMITTER_EMAIL="nobody@example.org",
    )
    return done.stdout.decode().strip()


class Project:
    """A working copy, and the repository of it that is served."""

    def __init__(self, work: Path, served: Path) -> None:
        self.work = work
        self.served = served
        work.mkdir()
        git(work, "init", "-q", "-b", "main")
        self.publish(FILES)
        git(served, "repack", "-adq")

    def publish(self, files: dict[str, bytes]) -> None:
        """Commit these files and send them to the served repository."""
        plant(self.work, files)
        git(self.work, "add", ".")
        git(self.work, "commit", "-q", "-m", "a commit")
        if not self.served.exists():
            git(self.work, "clone", "-q", "--bare", "--no-local", self.work, self.served)
        git(self.work, "push", "-q", self.served, "main")
        git(self.served, "update-server-info")

    def assert_same(self, copy: Path) -> None:
        """A clone is whole, and has what the working copy has."""
        git(copy, "fsck", "--full", "--strict")
        assert git(copy, "rev-parse", "HEAD") == git(self.work, "rev-parse", "HEAD")
        assert git(copy, "status", "--porcelain") == ""
        wanted, got = (
            {name: data for name, data in tree(place).items() if not name.startswith(".git/")}
            for place in (self.work, copy)
        )
        assert got == wanted


@pytest.fixture
def project(site: Path, tmp_path: Path) -> Project:
    return Project(tmp_path / "work", site / "our project.git")


def packs(requests: list[Exchange]) -> list[int]:
    """The statuses of packs."""
    return [request.status for request in requests if request.target.endswith(".pack")]


def test_a_clone_and_a_commit_later(project: Project, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with running_server(*DEBUG, root=project.served.parent) as server:
        git(tmp_path, "clone", "-q", f"{server.url}/our%20project.git", copy)
        project.assert_same(copy)
        project.publish({"new/file.txt": b"new", "random/0.bin": content(KIB)})
        git(copy, "pull", "-q", "--ff-only")
        project.assert_same(copy)
        requests = stop_and_count(server)
    assert packs(requests) == [200]
    new = [request for request in requests if re.search(r"/objects/../\w+$", request.target)]
    assert [request.status for request in new].count(200) == 6  # commit, trees, and files


def test_a_pack_that_was_cut_off(project: Project, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (pack,) = project.served.glob("objects/pack/*.pack")
    data = pack.read_bytes()
    with running_server(*DEBUG, root=project.served.parent) as server:
        copy.mkdir()
        git(copy, "init", "-q", "-b", "main")
        put(copy / f".git/objects/pack/{pack.name}.temp", data[: len(data) // 2])
        git(copy, "pull", "-q", f"{server.url}/our%20project.git", "main")
        project.assert_same(copy)
        requests = stop_and_count(server)
    assert packs(requests) == [206]
