"""A map whose tiles are parts of one file: `python examples/tiles`, then look at it in a browser.

The page asks for the parts that it shows by Range requests (page/pmtiles.js). The file, a PMTiles
archive, is made first (archive.py). Nothing else is needed: no tile server, no library.
"""

import shutil
import tempfile
from pathlib import Path

import trio
from archive import archive

import trio_amped

PAGE = Path(__file__).parent / "page"


async def main(folder: Path) -> None:
    async with trio.open_nursery() as nursery:
        config = trio_amped.Config(root=folder, port=0)
        [(host, port)] = await nursery.start(trio_amped.serve, config)
        print(f"map at http://{host}:{port}/", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        try:
            print("making the map ...", flush=True)
            shutil.copytree(PAGE, folder, dirs_exist_ok=True)
            (folder / "primes.pmtiles").write_bytes(archive())
            trio.run(main, folder)
        except* KeyboardInterrupt:
            print("stopped")
