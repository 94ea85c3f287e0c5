"""Makes the packed forms that stand beside files of this site, anew: python3 pack.py

Needs the package brotli, and the program zstd. A form must not be older than its file: the server
would leave it alone.
"""

import gzip
import subprocess
from pathlib import Path

import brotli  # type: ignore[import-untyped]

HERE = Path(__file__).resolve().parent
FILES = ("style.css", "ranges/ranges.js")


def main() -> None:
    for name in FILES:
        path = HERE / name
        data = path.read_bytes()
        Path(f"{path}.br").write_bytes(brotli.compress(data))
        Path(f"{path}.gz").write_bytes(gzip.compress(data, mtime=0))
        subprocess.run(["zstd", "-q", "-f", "-19", path, "-o", f"{path}.zst"], check=True)


if __name__ == "__main__":
    main()
