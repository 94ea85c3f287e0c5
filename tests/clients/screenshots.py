"""Screenshots of listings, for people to look at: python -m tests.clients.screenshots OUTDIR"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from tests.rig import public_directory, running_server

from .browser import photograph, running_browser
from .pages import fill_with_variety


def main(directory: Path) -> None:
    """Photograph a root, a folder far below, an empty one, and one of 5 000 names."""
    directory.mkdir(parents=True, exist_ok=True)
    with (
        public_directory() as site,
        tempfile.TemporaryDirectory() as profile,
        running_browser(Path(profile)) as browser,
        running_server("--listing", root=site) as server,
    ):
        deep = quote(str(fill_with_variety(site).relative_to(site))) + "/"
        (site / "many").mkdir()
        for number in range(5000):
            (site / f"many/photo-{number}.jpeg").touch()
        pages = {"root": "", "sorted": "?sort=size&order=desc", "deep": deep, "empty": "empty/"}
        pages |= {"many": "many/", "filtered": "many/?filter=499", "none": "many/?filter=zz"}
        for name, path in pages.items():
            for made in photograph(browser, f"{server.url}/{path}", directory, name):
                print(made)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
