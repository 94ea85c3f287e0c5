"""HTTP/2 without a proxy, by the command of docs/deploy.md."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.deploy.ports import listens, reserved_port
from tests.deploy.proxies import HOST, certify
from tests.real.support import MIB, content, curl, eventually, put
from tests.rig import GUARD, REPOSITORY, needs

BODY: Final = content(MIB)


@needs("curl")
def test_hypercorn_speaks_http_2(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/deploy.md").read_text()
    found = re.search(r"^hypercorn (.*\\\n.*)$", text, re.MULTILINE)
    assert found
    put(tmp_path / "root/large", BODY)
    root = str(tmp_path / "root")
    program = f"from trio_amped.asgi import StaticFiles\napp = StaticFiles({root!r})\n"
    (tmp_path / "files.py").write_text(program)
    certify(tmp_path)
    with reserved_port() as port:
        words = found[1].replace("\\\n", "").replace("[::]:443", f"127.0.0.1:{port}")
        argv = [sys.executable, "-m", "hypercorn", *shlex.split(words)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        with subprocess.Popen(argv, cwd=tmp_path, env=environment) as process:
            try:
                eventually(lambda: listens(port) or process.poll() is not None)
                options = ["--http2", "--cacert", f"{tmp_path}/authority.pem", "-w%{http_version}"]
                here = ["--resolve", f"{HOST}:{port}:127.0.0.1", f"-o{tmp_path}/received"]
                done = curl(*options, *here, f"https://{HOST}:{port}/large")
                assert done.stdout == b"2"
                assert (tmp_path / "received").read_bytes() == BODY
            finally:
                process.terminate()
        assert process.wait(GUARD) == 0
