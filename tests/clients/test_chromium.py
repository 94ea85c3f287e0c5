"""What a browser makes of our answers: pages, videos, reloads, routes, origins, and listings."""

import hashlib
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import brotli  # type: ignore[import-untyped]
import pytest

from tests.rig import ServerProcess, needs, running_server
from trio_amped.semantics.look import shown

from . import pages
from .browser import FETCH, LOAD, PHONE, SEEK, Browser, needs_chromium
from .support import DEBUG

pytestmark = needs_chromium

AS_TEXT = ("--media-type", "*: text/plain")  # a click on it shows it


def wait_for(server: ServerProcess, path: str, status: int) -> None:
    """Wait for the line of this request in the log."""
    server.wait_for_log(rf"GET {path} HTTP/1\.1 {status}\b")


# ---------------------------------------------------------------- pages


def test_a_page_and_its_parts(browser: Browser, site: Path) -> None:
    files = pages.fill_with_page(site)
    with running_server(*DEBUG, root=site) as server:
        browser.open(server.url)
        pages.assert_page_works(browser)
        for path, data in files.items():
            status, _, digest, _ = browser.run(FETCH, path, {"cache": "no-store"})
            assert (status, digest) == (200, hashlib.sha256(data).hexdigest()), path
            wait_for(server, path, 200)


def test_a_page_whose_parts_are_precompressed(browser: Browser, site: Path) -> None:
    files = pages.fill_with_page(site)
    packed = {path: brotli.compress(files[path]) for path in ("/style.css", f"/{pages.HASHED}")}
    for path, data in packed.items():
        (site / f"{path[1:]}.br").write_bytes(data)
    with running_server(*DEBUG, root=site) as server:
        browser.open(server.url + "/index.html")
        pages.assert_page_works(browser)
        seen = {each.url.removeprefix(server.url): each for each in browser.responses()}
        assert {path for path in files if "content-encoding" in seen[path].fields} == set(packed)
        for path, data in packed.items():
            assert seen[path].fields["content-encoding"] == "br"
            assert seen[path].fields["content-length"] == str(len(data))
            _, fields, digest, _ = browser.run(FETCH, path, {"cache": "no-store"})
            assert fields["content-encoding"] == "br"
            assert digest == hashlib.sha256(files[path]).hexdigest()


def test_a_reload_asks_whether_parts_have_changed(browser: Browser, site: Path) -> None:
    files = pages.fill_with_page(site)
    (site / "style.css.br").write_bytes(brotli.compress(files["/style.css"]))
    with running_server(*DEBUG, "--header", "*: Cache-Control: no-cache", root=site) as server:
        browser.open(f"{server.url}/index.html")
        pages.assert_page_works(browser)
        browser.driver.refresh()
        pages.assert_page_works(browser)
        for path in files:
            wait_for(server, path, 304)
        (site / "style.css.br").write_bytes(brotli.compress(b"#text { color: rgb(3, 2, 1) }"))
        browser.driver.refresh()
        assert browser.run("return getComputedStyle(text).color") == "rgb(3, 2, 1)"


def test_a_reload_does_not_ask_for_what_is_immutable(browser: Browser, site: Path) -> None:
    pages.fill_with_page(site)
    with running_server(*DEBUG, "--immutable", root=site) as server:
        browser.open(f"{server.url}/index.html")
        browser.driver.refresh()
        pages.assert_page_works(browser)
        wait_for(server, "/index.html", 304)
        browser.run(FETCH, "/style.css?last", {"cache": "no-store"})
        wait_for(server, r"/style\.css\?last", 200)
        assert sum(f"/{pages.HASHED}" in line for line in server.log) == 1


# ---------------------------------------------------------------- videos


@needs("ffmpeg")
@pytest.mark.parametrize("kind", pages.CODECS)
def test_a_video_is_played_and_sought_in(browser: Browser, site: Path, kind: str) -> None:
    clip = pages.film(site / f"clip.{kind}")
    size = clip.stat().st_size
    (site / "index.html").write_text(f"<!doctype html><video muted src={clip.name}></video>")

    asked: list[tuple[int, int]] = []  # where parts begin and end

    def starts() -> list[float]:
        """Where the parts begin that were asked for since the last call; 1 is the end."""
        fields = [each.fields for each in browser.responses() if each.status == 206]
        parts = [re.match(r"bytes (\d+)-(\d+)/", each["content-range"]) for each in fields]
        new = [(int(part[1]), int(part[2])) for part in parts if part]
        asked.extend(new)
        return [first / size for first, _ in new]

    def play_until(condition: str) -> None:
        browser.run("await document.querySelector('video').play()")
        browser.wait(f"document.querySelector('video').{condition}")

    def seek(time: float) -> None:
        """The frame there is the right one, within a second."""
        at, red, green, blue, _ = browser.run(SEEK, time)
        assert at == time
        assert (
            red
            == green
            == blue
            == pytest.approx(255 * time / pages.SECONDS, abs=255 / pages.SECONDS)
        )

    with running_server(*DEBUG, root=site) as server:
        browser.open(server.url)
        play_until("currentTime > 0.3")
        assert starts()[0] == 0
        seek(40.05)
        assert any(0.6 < start < 0.7 for start in starts())
        play_until("currentTime > 40.5")
        seek(10.05)
        seek(57.05)
        assert any(0.9 < start < 1 for start in starts())
        seek(59.55)
        play_until("ended")
        starts()
        # The rest from there was sent to its end
        lengths = "|".join(str(last - first + 1) for first, last in asked if first)
        server.wait_for_log(rf"GET /{clip.name} HTTP/1\.1 206 ({lengths})$")
        assert browser.complaints() == []


# ---------------------------------------------------------------- an application of a single page


def test_routes_are_the_application_and_missing_parts_are_missing(
    browser: Browser, site: Path
) -> None:
    pages.fill_with_application(site)
    with running_server(*DEBUG, "--fallback", "/index.html", root=site) as server:
        for path in ("/", "/some/route", "/some/route/", "/other.v2?x=1"):
            browser.open(server.url + path)
            assert browser.texts("body") == [f"route {path.split('?')[0]}"]
        assert browser.run(FETCH, "/some/missing.js")[0] == 404
        assert browser.run(LOAD, "script", "/app.js") == "loaded"
        assert browser.run(LOAD, "script", "/some/missing.js") == "missing"
        assert browser.run(LOAD, "img", "/some/missing.png") == "missing"
        browser.open(f"{server.url}/some/missing.js")  # a user who types it
        assert browser.texts("body") == ["route /some/missing.js"]
        browser.driver.refresh()
        assert browser.texts("body") == ["route /some/missing.js"]
        wait_for(server, r"/some/missing\.js", 304)


# ---------------------------------------------------------------- other origins


def test_a_script_of_another_origin(browser: Browser, site: Path) -> None:
    (site / "page.html").write_text("<!doctype html>")
    (site / "data.bin").write_bytes(bytes(range(ord("A"), ord("Z") + 1)))
    with (
        running_server(root=site) as page,
        running_server(*DEBUG, "--cors", root=site) as for_all,
        running_server(*DEBUG, "--cors", page.url, root=site) as for_page,
        running_server(*DEBUG, "--cors", "https://example.org", root=site) as for_others,
        running_server(*DEBUG, root=site) as for_nobody,
    ):
        browser.open(f"{page.url}/page.html")
        for server in (for_all, for_page):
            url = f"{server.url}/data.bin"
            for asked, text, span in (("5-9", "FGHIJ", "5-9"), ("-2", "YZ", "24-25")):
                options = {"headers": {"Range": f"bytes={asked}"}, "cache": "no-store"}
                status, fields, _, body = browser.run(FETCH, url, options)
                assert (status, body) == (206, text)
                assert fields["content-range"] == f"bytes {span}/26"
                assert fields["etag"]
            server.wait_for_log(r"OPTIONS /data\.bin HTTP/1\.1 200")  # "-2" has to be allowed
            for _ in range(2):
                assert browser.run(FETCH, url, {"cache": "no-cache"})[0] == 200
            wait_for(server, r"/data\.bin", 304)
            assert browser.run(FETCH, f"{server.url}/missing")[0] == 404
        name = "return fetch(arguments[0]).then(() => 'read', error => error.name)"
        assert browser.run(name, f"{for_all.url}/data.bin") == "read"
        for server in (for_others, for_nobody):
            assert browser.run(name, f"{server.url}/data.bin") == "TypeError"
            wait_for(server, r"/data\.bin", 200)  # it was asked for: the browser has refused it


# ---------------------------------------------------------------- listings


@pytest.fixture
def listing(site: Path) -> Iterator[ServerProcess]:
    with running_server(*DEBUG, *AS_TEXT, "--listing", root=site) as server:
        yield server


def test_every_name_is_a_link_to_its_file(
    browser: Browser, site: Path, listing: ServerProcess
) -> None:
    texts = pages.fill_with_strange_names(site)
    browser.open(listing.url)
    assert set(browser.texts("tbody a")) == {unescape(shown(name)) for name in texts}
    assert browser.run("return [...document.links].every(link => link.origin == location.origin)")
    found = []
    for number in range(len(texts)):
        browser.click("tbody a", number)
        found += browser.texts("body")
        browser.driver.back()
    assert sorted(found) == sorted(texts.values())
    assert browser.run("return typeof hacked") == "undefined"
    assert not browser.has_alert()
    assert browser.complaints() == []


def test_a_listing_lets_no_script_run(browser: Browser, listing: ServerProcess) -> None:
    """And what a policy stops is a complaint, for which other tests look."""
    browser.open(listing.url)
    assert browser.complaints() == []
    inline = "const part = document.createElement('script'); part.textContent = 'hacked = 1'"
    browser.run(f"{inline}; document.body.append(part)")
    assert browser.run("return typeof hacked") == "undefined"
    assert any("Content Security Policy" in line for line in browser.complaints())


def test_columns_are_sorted_by(browser: Browser, site: Path, listing: ServerProcess) -> None:
    for size, name in enumerate(("b", "c", "a")):
        (site / name).write_bytes(bytes(10**size))
    (site / "folder").mkdir()
    browser.open(listing.url)
    for number, orders in enumerate((("cba", "abc"), ("bca", "acb"))):
        for order in orders:
            browser.press("thead button", number)
            assert browser.texts("tbody a") == ["folder/", *order]
    assert browser.complaints() == []


def test_one_goes_down_and_up_again(browser: Browser, site: Path, listing: ServerProcess) -> None:
    names = ["a b", "<i>%2f", "javascript:alert(1)"]
    (site / Path(*names)).mkdir(parents=True)
    browser.open(f"{listing.url}//")
    paths = [browser.run("return location.pathname")]
    for name in names:
        assert browser.texts("tbody a")[-1] == f"{name}/"
        browser.click("tbody a", -1)
        paths.append(browser.run("return location.pathname"))
    for depth in (2, 1, 0):
        browser.press("h1 button", depth)
        assert browser.run("return location.pathname") == paths[depth]
        browser.driver.back()
    assert browser.texts("h1 bdi") == ["/", *names]
    browser.click("tbody a")
    assert browser.run("return location.pathname") == paths[2]
    assert browser.complaints() == []


def test_many_names_are_filtered(browser: Browser, site: Path, listing: ServerProcess) -> None:
    """By a form, without a script; what is filtered can be sorted, and shown whole again."""
    names = [f"img{number}.png" for number in range(1001)] + ['<b> "x"']
    for name in names:
        (site / name).touch()
    browser.open(listing.url)
    assert browser.texts("tbody a")[1:] == names[:-1]
    browser.driver.find_element("css selector", "input[type=search]").send_keys("G99")
    browser.press(".filter button")
    found = ["img99.png", *(f"img{number}.png" for number in range(990, 1000))]
    assert browser.texts("tbody a") == found
    browser.press("thead button")
    assert browser.texts("tbody a") == found[::-1]
    browser.press(".filter button", 1)
    assert len(browser.texts("tbody a")) == len(names)
    browser.driver.find_element("css selector", "input[type=search]").send_keys('<b> "')
    browser.press(".filter button")
    assert browser.texts("tbody a") == ['<b> "x"']
    assert browser.run("return document.querySelector('input[type=search]').value") == '<b> "'
    assert browser.complaints() == []


def test_a_script_gets_json(browser: Browser, site: Path, listing: ServerProcess) -> None:
    texts = pages.fill_with_strange_names(site)
    (site / "folder").mkdir()
    (site / "folder/page").write_text("page")
    browser.open(f"{listing.url}/folder/page")
    ask = "return await (await fetch(arguments[0], {headers: {Accept: arguments[1]}})).text()"
    follow = """
        const entries = await (await fetch("/", {headers: {Accept: "application/json"}})).json()
        return await Promise.all(entries.map(async ({name, href, type, size}) =>
            [name, type, size, await (await fetch(new URL(href, location.origin))).text()]))"""
    got = {tuple(entry) for entry in browser.run(follow) if entry[1] == "file"}
    names = {(name.decode("utf-8", "replace"), text) for name, text in texts.items()}
    assert got == {(name, "file", len(text), text) for name, text in names}
    assert browser.run(ask, "/", "text/html").startswith("<!doctype html>")  # not from the cache
    assert browser.run(ask, "/", "application/json").startswith("[")


@pytest.mark.parametrize("many", [0, 1001])
def test_a_listing_fits_on_a_phone(
    browser: Browser, site: Path, listing: ServerProcess, many: int
) -> None:
    pages.fill_with_strange_names(site)
    for number in range(many):
        (site / f"file-{number}").touch()
    with browser.shown_on(PHONE):
        browser.open(listing.url)
        assert browser.run("return document.documentElement.scrollWidth") == PHONE.width
