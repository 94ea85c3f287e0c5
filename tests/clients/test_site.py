"""examples/site, as `make serve` serves it: what it wants to show is to be seen there."""

import gzip
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urljoin

import brotli  # type: ignore[import-untyped]
import pytest

from tests.rig import GUARD, REPOSITORY, ServerProcess, needs

from .browser import PHONE, SEEK, Browser, needs_chromium
from .support import CODINGS, run

SITE = REPOSITORY / "examples/site"
PACKED = ("style.css", "ranges/ranges.js")
PAGES = ("", "ranges/", "films/", "downloads/", "about/")


def _unpack_zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-dc"], input=data, check=True, capture_output=True).stdout


UNPACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "br": brotli.decompress,
    "gzip": gzip.decompress,
    "zstd": _unpack_zstd,
}

pytestmark = needs("make")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where `make serve` serves, without its making an environment; it ends by ^C."""
    made = ("-o", ".venv/runtime", f"BIN={Path(sys.executable).parent}")
    process = subprocess.Popen(
        ["make", *made, "serve", "PORT=0"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    server = ServerProcess(process)
    try:
        yield server.wait_for_log(r"serving examples/site at (http://[^ ]+/)")[1]
        os.killpg(process.pid, signal.SIGINT)
        process.wait(GUARD)
        server.wait_for_log("stopped;")
    finally:
        server.end()


def fetch(url: str, **fields: str) -> tuple[int, bytes]:
    try:
        request = urllib.request.Request(url, headers=fields)
        with urllib.request.urlopen(request, timeout=GUARD) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_every_link_leads_somewhere(url: str) -> None:
    for page in PAGES:
        status, text = fetch(url + page)
        assert status == 200
        links = re.findall(r'(?:href|src)="([^"#?]+)"', text.decode())
        assert links
        for link in links:
            target = urljoin(url + page, link)
            assert target.startswith(url), "it asks for nothing from other sites"
            assert fetch(target)[0] == (404 if link == "no-such-page" else 200), target


@needs("zstd")
@pytest.mark.parametrize("coding", UNPACKERS)
@pytest.mark.parametrize("name", PACKED)
def test_a_form_is_that_of_its_file(url: str, name: str, coding: str) -> None:
    file, form = SITE / name, SITE / f"{name}{CODINGS[coding]}"
    unpacked = UNPACKERS[coding](form.read_bytes())
    assert unpacked == file.read_bytes(), "make it anew: python3 examples/site/pack.py"
    assert fetch(url + name, **{"Accept-Encoding": coding}) == (200, form.read_bytes())


@needs("ffmpeg")
def test_the_film_is_made_by_its_script(tmp_path: Path) -> None:
    script = tmp_path / "make_film.py"
    script.write_bytes((SITE / "films/make_film.py").read_bytes())
    run(tmp_path, sys.executable, script)
    sizes = [path.stat().st_size for path in (tmp_path / "sieve.webm", SITE / "films/sieve.webm")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.5)  # encoders differ
    assert sizes[1] < 100_000


@needs_chromium
def test_the_page_of_ranges(browser: Browser, url: str) -> None:
    browser.open(f"{url}ranges/")
    browser.wait("document.querySelectorAll('#packed dd').length === 2")
    sizes = [(SITE / f"{name}{end}").stat().st_size for name in PACKED for end in (".br", "")]
    assert browser.texts("#packed dd") == [
        f"br: {came:,} bytes for {has:,}" for came, has in (sizes[:2], sizes[2:])
    ]

    primes = (SITE / "downloads/primes.txt").read_bytes()
    browser.run("const to = document.querySelector('#where'); to.value = 1000;"
                "to.dispatchEvent(new Event('input'))")  # fmt: skip
    browser.wait("document.querySelector('#answer').textContent.includes('1999993')")
    last = f"bytes {len(primes) - 64}-{len(primes) - 1}/{len(primes)}"
    shown = browser.texts("#answer")[0]
    assert "206 Partial Content" in shown
    assert f"Content-Range: {last}" in shown
    assert shown.endswith(primes[-64:].decode().replace("\n", " "))

    # 289 = 17 * 17 is in the middle: it is there until the turn of 17, from the 24th second on.
    browser.run("await document.querySelector('video').play()")
    browser.wait("document.querySelector('video').currentTime > 0.3")
    for time, green in ((20.05, 150), (40.05, 48)):
        at, *color, _ = browser.run(SEEK, time)
        assert at == time
        assert color[1] == pytest.approx(green, abs=40)

    answers = browser.responses()
    assert {each.status for each in answers if each.url.endswith(".webm")} == {206}
    assert [each.url for each in answers if not each.url.startswith(url)] == []
    assert browser.complaints() == []


@needs_chromium
def test_a_folder_without_a_page(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.click("nav a", 2)
    assert browser.run("return location.href") == f"{url}films/"
    assert browser.texts("tbody a") == ["Parent folder", "make_film.py", "sieve.webm"]
    assert browser.complaints() == []


@needs_chromium
@pytest.mark.parametrize("page", PAGES)
def test_it_fits_on_a_phone(browser: Browser, url: str, page: str) -> None:
    with browser.shown_on(PHONE):
        browser.open(url + page)
        assert browser.run("return document.documentElement.scrollWidth") == PHONE.width
    assert browser.complaints() == []
