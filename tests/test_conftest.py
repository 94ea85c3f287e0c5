"""The rules of conftest.py, by test runs of their own: skipped tests in CI, and tests that spin."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig import REPOSITORY

# What a spinning test is limited to here; that of a real one is in conftest.py.
LIMITED = "from tests import conftest\nconftest.CPU_LIMIT = 0.5\n"
SPINNING = {
    "test_a_task.py": "import trio\nasync def spin():\n"
    "    while True: await trio.lowlevel.checkpoint()\n"
    "def test_it(): trio.run(spin)\n",
    "test_an_example.py": "from hypothesis import given, strategies as st\n"
    "@given(st.integers())\ndef test_it(number):\n    while True: pass\n",
}
SKIPPING = {
    "test_a_test.py": "import pytest\ndef test_it(): pytest.skip('no')\n",
    "test_a_module.py": "import pytest\npytest.importorskip('no_such_module')\n",
}


@pytest.mark.parametrize(
    ("in_ci", "skips", "is_failure"),
    [("true", True, True), ("true", False, False), ("", True, False)],
)
def test_a_skip_fails_in_ci_alone(
    in_ci: str, skips: bool, is_failure: bool, tmp_path: Path
) -> None:
    (tmp_path / "test_runs.py").write_text("def test_it(): pass\n")
    for name, text in SKIPPING.items() if skips else ():
        (tmp_path / name).write_text(text)
    done = run_tests(tmp_path, in_ci)
    assert done.returncode == is_failure, done.stdout + done.stderr
    _, is_told, skipped = done.stdout.partition("which is a failure")
    assert bool(is_told) == is_failure
    assert all(name in skipped for name in SKIPPING if is_failure)


def test_what_spins_fails_by_its_cpu_time(tmp_path: Path) -> None:
    for name, text in SPINNING.items():
        (tmp_path / name).write_text(LIMITED + text)
    done = run_tests(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    _, *failures, _ = re.split(r"^_+ test_it _+$|^=+ short test summary", done.stdout, flags=re.M)
    for name, failure in zip(SPINNING, failures, strict=True):
        assert "it did not end in 0.5 s of CPU time" in failure
        shown = re.search(rf"^{re.escape(name)}:\d+: ", failure, re.MULTILINE)
        assert shown, "it does not show where"
    assert "2 failed" in done.stdout


def run_tests(folder: Path, in_ci: str = "") -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder by pytest, with conftest.py and nothing else of this repository."""
    plugins = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-p", "no:trio")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "-c", os.devnull, str(folder)],
        env=os.environ | {"CI": in_ci, "PYTHONPATH": str(REPOSITORY)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
