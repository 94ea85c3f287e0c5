"""The package as others get it: what is in it, what an index shows of it, and that it serves alone.

Nothing here asks the network: what builds the package is in the environment of the tests, and so is
what the package depends on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from html.parser import HTMLParser
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

import pytest
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from readme_renderer import markdown

import trio_amped
from tests.rig import GUARD, REPOSITORY, ServerProcess, needs

CHART: Final = "docs/benchmark.svg"
IMPORTS_ALL: Final = """
import pkgutil, trio_amped
for module in pkgutil.walk_packages(trio_amped.__path__, "trio_amped."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
print(trio_amped.__file__)
"""


def run(*argv: str | Path, cwd: Path = REPOSITORY) -> str:
    """What a program prints that ends with 0. Copies of the package are not measured."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(argv, cwd=cwd, env=known, capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


# ------------------------------------------------------------------ what is built


class Built(NamedTuple):
    """What `python -m build` makes: the wheel is that of the source distribution."""

    source: Path
    wheel: Path

    def files_of_source(self) -> set[str]:
        with tarfile.open(self.source) as archive:
            names = [PurePosixPath(x.name) for x in archive.getmembers() if x.isfile()]
        return {str(name.relative_to(name.parts[0])) for name in names}

    def files_of_wheel(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as archive:
            [name] = [x for x in archive.namelist() if x.endswith(".dist-info/METADATA")]
            return message_from_bytes(archive.read(name))

    def page(self) -> str:
        """The description that an index shows."""
        text = self.metadata().get_payload()
        assert isinstance(text, str)
        return text


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    place = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", place, REPOSITORY)
    [source], [wheel] = place.glob("*.tar.gz"), place.glob("*.whl")
    return Built(source, wheel)


@pytest.fixture
def sources(tmp_path: Path) -> set[str]:
    """The files of this tree that .gitignore does not name.

    An unpacked source distribution is no clone: there, a repository that is empty is asked.
    """
    git = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY)]
    if not (REPOSITORY / ".git").exists():
        run("git", "init", "-q", "--bare", tmp_path / "empty")
        git += [f"--git-dir={tmp_path / 'empty'}", f"--work-tree={REPOSITORY}"]
    listed = run(*git, "ls-files", "-z", "-co", "--exclude-per-directory=.gitignore")
    return {name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()}


@needs("git")
def test_the_source_distribution_is_the_whole_repository(built: Built, sources: set[str]) -> None:
    assert {"Makefile", ".ci/run", "tests/test_package.py", "fuzz/__main__.py"} <= sources
    assert built.files_of_source() == sources | {"PKG-INFO"}


def test_programs_of_the_source_distribution_can_be_run(built: Built) -> None:
    with tarfile.open(built.source) as archive:
        programs = {PurePosixPath(x.name).name for x in archive if x.isfile() and x.mode & 0o100}
    assert programs == {"run", "install"}


@needs("git")
def test_the_source_distribution_can_be_tested(built: Built, tmp_path: Path) -> None:
    """A few of its tests, one of which builds it once more: it has its files, and is no clone."""
    run("tar", "-xf", built.source, "-C", tmp_path)
    [unpacked] = tmp_path.iterdir()
    itself = test_the_source_distribution_is_the_whole_repository.__name__
    tests = (f"tests/test_package.py::{itself}", "tests/test_config.py", "tests/test_layers.py")
    run(sys.executable, "-m", "pytest", "-q", *tests, cwd=unpacked)


@needs("git")
def test_the_wheel_is_the_package_alone(built: Built, sources: set[str]) -> None:
    package = {name for name in sources if name.startswith("trio_amped/")}
    assert "trio_amped/py.typed" in package
    assert {x for x in built.files_of_wheel() if ".dist-info/" not in x} == package


def test_only_what_users_can_use_is_published(built: Built) -> None:
    """The wheel has neither tests nor fuzzer: an extra for them would be of use to nobody."""
    found = built.metadata()
    assert "Provides-Extra" not in found
    assert {Requirement(x).name for x in found.get_all("Requires-Dist", [])} == {"trio", "h11"}


def test_versions_agree(built: Built) -> None:
    headings = re.findall(r"^## (.*)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    newest = re.fullmatch(r"\[(\S+)\] - (unreleased|\d{4}-\d\d-\d\d)", headings[0])
    assert newest, "a version, and when it was released"
    assert newest[1] == trio_amped.__version__ == built.metadata()["Version"]


def test_the_oldest_python_is_the_first_of_the_classifiers(built: Built) -> None:
    pattern = r"Programming Language :: Python :: (3\.\d+)"
    found = [re.fullmatch(pattern, x) for x in built.metadata().get_all("Classifier", [])]
    assert next(x[1] for x in found if x) == built.metadata()["Requires-Python"].lstrip(">=")


# ------------------------------------------------------------------ what an index shows


class Links(HTMLParser):
    """Where the links and pictures of a page lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def relative(links: list[str]) -> list[str]:
    return [link for link in links if not re.match(r"https?://|#", link)]


def code(text: str) -> list[str]:
    return [x.content for x in MarkdownIt("commonmark").parse(text) if x.type == "fence"]


def test_an_index_can_show_the_page(built: Built) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *built)  # it does not render Markdown
    page = markdown.render(built.page())
    assert page is not None
    assert re.search("<h1[^>]*>trio_amped<", page)
    assert "<table>" in page
    links = Links(page).found
    assert "https://h11.readthedocs.io/" in links
    assert relative(links) == []


def test_the_page_of_an_index_is_the_readme(built: Built) -> None:
    """Nothing but links to files, and what is of no use without these, is left out."""
    shown, readme = built.page(), (REPOSITORY / "README.md").read_text()
    titles = re.findall(r"^##+ (.*)$", readme, re.MULTILINE)
    left_out = {"How fast", "Contributing"}
    assert [x for x in titles if x not in left_out] == re.findall(
        r"^##+ (.*)$", shown, re.MULTILINE
    )
    ours, theirs = "pip install .\n", "pip install trio-amped\n"
    assert theirs in shown
    assert ours not in shown
    assert set(code(shown)) < {block.replace(ours, theirs) for block in code(readme)}


def test_readers_of_the_repository_see_the_chart_and_every_file() -> None:
    page = MarkdownIt("gfm-like", {"linkify": False}).render((REPOSITORY / "README.md").read_text())
    leads_to = relative(Links(page).found)
    assert CHART in leads_to
    assert [link for link in leads_to if not (REPOSITORY / link).exists()] == []


# ------------------------------------------------------------------ alone


def needed(*requirements: str) -> Iterator[Distribution]:
    """What these need, as this environment has it."""
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found = distribution(requirement.name)
            yield found
            yield from needed(*(found.requires or ()))


@pytest.fixture(scope="module")
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which the wheel was installed, and what it says that it needs; no more.

    pip decides whether these are enough. They are copies, so that no index is asked.
    """
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    [packages] = place.glob("lib/python*/site-packages")
    for found in needed(*built.metadata().get_all("Requires-Dist", [])):
        for file in found.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), packages / file)
    pip = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check")
    run(*pip, "--python", place, "install", "-q", "--no-index", built.wheel)
    return place


def test_every_module_of_the_wheel_needs_only_what_it_says(environment: Path) -> None:
    python = environment / "bin/python"
    imported = run(python, "-I", "-W", "error", "-c", IMPORTS_ALL)
    assert Path(imported.strip()).is_relative_to(environment)


@pytest.mark.parametrize("program", ["trio-amped", "python -m trio_amped"])
def test_the_wheel_serves(environment: Path, tmp_path: Path, program: str) -> None:
    (tmp_path / "hello.txt").write_text("Hello.\n")
    command, *arguments = program.split()
    process = subprocess.Popen(
        [environment / "bin" / command, *arguments, "--root", tmp_path, "--port", "0"],
        cwd=tmp_path,
        env={"PYTHONWARNINGS": "error", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    server = ServerProcess(process)
    try:
        url = server.wait_for_log(r"http://\S+/")[0]
        with urllib.request.urlopen(f"{url}hello.txt", timeout=GUARD) as answer:
            assert answer.read() == b"Hello.\n"
        assert server.stop(timeout=GUARD) == 0
    finally:
        server.end()
