"""Sites for a browser: a page with all kinds of parts, a video, a folder of strange names."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import zlib
from pathlib import Path

from .browser import Browser

HASHED = "script.3f2a9c1d.js"

SECONDS, FRAMES, WIDTH, HEIGHT = 60, 10, 320, 240  # of a video; FRAMES are those of a second

CODECS = {
    "webm": ("libvpx", "-deadline", "realtime", "-cpu-used", "16", "-b:v", "8M"),
    "mp4": ("libx264", "-preset", "ultrafast", "-qp", "20"),  # its index is at the end
}

STRANGE_NAMES = (
    b"\"double\" 'single'",
    b"<img src=x onerror=hacked=1>",
    b"<script>hacked=1<script>",
    b"' onmouseover='hacked=1",
    b'" onfocus="hacked=1" autofocus="',
    b"&amp;&lt;",
    b"  leading",
    b"trailing  ",
    b" ",
    b"#",
    b"a#b",
    b"100%",
    b"%41",
    b"%2e%2e",
    b"?sort=size&order=desc",
    b"line\nfeed",
    b"tab\there\x7f",
    b"invalid \xff\xfe utf-8",
    "na\u00efve \u20ac \U0001f600".encode(),
    "combining n\u0303".encode(),
    "\u202egpj.exe".encode(),
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 1".encode(),
    b"javascript:alert(1)",
    b"a:b",
    b"data:,hacked",
    b"\\\\host\\share",
    b"C:\\back\\slash",
    b"a;b=c+d",
    b"n" * 255,
)


def png(width: int, height: int) -> bytes:
    """An image, all of one grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def font() -> bytes:
    """Some font of this machine; Chromium needs one, too."""
    return min(Path("/usr/share/fonts").rglob("*.ttf")).read_bytes()


def fill_with_page(site: Path) -> dict[str, bytes]:
    """A page that needs all its parts, of 120 x 80 pixels one: what must come for each path."""
    files = {
        "index.html": f"""<!doctype html><title>page</title><link rel=stylesheet href=style.css>
            <script src={HASHED}></script><p id=text>text</p><img src=image.png>""".encode(),
        "style.css": b"""@font-face { font-family: Ours; src: url(font.ttf) }
            #text { color: rgb(1, 2, 3); font-family: Ours }"""
        + b"/* long */" * 1000,
        HASHED: b"document.documentElement.dataset.script = 6 * 7\n" + b"// long\n" * 1000,
        "image.png": png(120, 80),
        "font.ttf": font(),
    }
    for name, data in files.items():
        (site / name).write_bytes(data)
    return {f"/{name}": data for name, data in files.items()}


def assert_page_works(browser: Browser) -> None:
    """Each part of the page has had its effect, and the browser has nothing to complain of."""
    assert browser.run("return document.documentElement.dataset.script") == "42"
    assert browser.run("return getComputedStyle(text).color") == "rgb(1, 2, 3)"
    fonts = "await document.fonts.ready; return [...document.fonts].map(font => font.status)"
    assert browser.run(fonts) == ["loaded"]
    assert browser.run("return document.images[0].naturalWidth") == 120
    assert browser.complaints() == []


def fill_with_application(site: Path) -> None:
    """A page that says by which route it came."""
    (site / "index.html").write_text("<!doctype html><body><script src=/app.js></script>")
    (site / "app.js").write_text("document.body.textContent = `route ${location.pathname}`")


def fill_with_strange_names(directory: Path) -> dict[bytes, str]:
    """Files whose text is their name in hexadecimal digits, and one hidden file: the texts."""
    texts = {name: f"here: {name.hex()}" for name in STRANGE_NAMES}
    for name, text in texts.items():
        (directory / os.fsdecode(name)).write_text(text)
    (directory / ".hidden").write_text("hidden")
    return texts


def fill_with_variety(directory: Path) -> Path:
    """Folders, and files of many sizes and ages, for people to look at: a folder deep below."""
    deep = directory / "a folder" / "photos & films" / "2024 <summer>" / "raw"
    deep.mkdir(parents=True)
    for name in ("empty", "node_modules", "\u65e5\u672c\u8a9e", "folder-" + "long-" * 20 + "name"):
        (directory / name).mkdir()
    sizes = [0, 1, 999, 1000, 1023, 12_345, 999_499, 999_500, 12_345_678, 5 * 10**9, 7 * 10**12]
    names = ["empty.txt", "note", "page.html", "script.js", "style.css", "photo.jpeg", "song.flac"]
    names += ["film.webm", "archive.tar.gz", "disk image.iso", "all of it.zfs"]
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        for path in (directory / name, deep / name):
            with path.open("wb") as file:
                file.truncate(size)
            os.utime(path, (0, 1_700_000_000 - number**5 * 10_007))
    fill_with_strange_names(directory)
    return deep


def film(path: Path, seconds: int = SECONDS) -> Path:
    """A video, a minute of which is some 18 MB: grey that grows lighter above, noise below."""
    noise, half = random.Random(0).randbytes(1 << 20), WIDTH * HEIGHT // 2
    raw = ("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FRAMES))
    coded = ("-pix_fmt", "yuv420p", "-g", str(FRAMES), "-c:v", *CODECS[path.suffix[1:]])
    argv = ["ffmpeg", "-v", "error", *raw, "-i", "-", *coded, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as ffmpeg:
        assert ffmpeg.stdin
        for number in range(seconds * FRAMES):
            start = number * 7919 % (len(noise) - half)
            grey = 255 * number // (seconds * FRAMES)
            ffmpeg.stdin.write(bytes([grey]) * half + noise[start : start + half])
    assert ffmpeg.returncode == 0
    return path
