"""A skipped test is a failure in CI: the rule of conftest.py, by a test run of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig import REPOSITORY

SKIPPING = {
    "a test": "import pytest\ndef test_it(): pytest.skip('no')\n",
    "a module": "import pytest\npytest.importorskip('no_such_module')\n",
    "nothing": "",
}


@pytest.mark.parametrize("in_ci", ["true", ""])
@pytest.mark.parametrize("what", SKIPPING)
def test_a_skip_fails_in_ci_alone(what: str, in_ci: str, tmp_path: Path) -> None:
    (tmp_path / "test_runs.py").write_text("def test_it(): pass\n")
    (tmp_path / "test_skips.py").write_text(SKIPPING[what])
    plugins = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-p", "no:trio")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "-c", os.devnull, str(tmp_path)],
        env=os.environ | {"CI": in_ci, "PYTHONPATH": str(REPOSITORY), "COVERAGE_PROCESS_START": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    is_failure = bool(in_ci) and what != "nothing"
    assert done.returncode == is_failure, done.stdout + done.stderr
    assert ("which is a failure" in done.stdout) == is_failure
