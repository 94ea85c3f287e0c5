"""Headless Chromium: what a page is and does in it. Blocks.

Programs of Debian are used, and nothing is downloaded: `needs_chromium` skips where they are
missing.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from selenium import webdriver
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from tests.rig import GUARD, needs
from tests.rig.tools import tool

_OPTIONS = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
)

FETCH = """
const [url, options] = arguments
const answer = await fetch(url, options || {})
const fields = Object.fromEntries(answer.headers)
const bytes = await answer.arrayBuffer()
const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))
const hex = [...digest].map(byte => byte.toString(16).padStart(2, "0")).join("")
return [answer.status, fields, hex, new TextDecoder().decode(bytes)]
"""
"""`Browser.run` it with a URL and options of fetch(): the status, fields, SHA-256, and text."""

LOAD = """
const [tag, url] = arguments
return await new Promise(done => {
    const part = document.createElement(tag)
    part.onload = () => done("loaded")
    part.onerror = () => done("missing")
    part.src = url
    document.head.append(part)
})
"""
"""`Browser.run` it with the tag and URL of a part of the page: whether it is there."""

SEEK = """
const video = document.querySelector("video")
video.pause()
const seeked = new Promise(done => video.addEventListener("seeked", done, {once: true}))
video.currentTime = arguments[0]
await seeked
const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight).getContext("2d")
canvas.drawImage(video, 0, 0)
return [video.currentTime, ...canvas.getImageData(video.videoWidth / 2, 20, 1, 1).data]
"""
"""`Browser.run` it with a time of the video: the time then, and a pixel above in the middle."""


needs_chromium = needs("chromium", "chromedriver", "font")


class Response(NamedTuple):
    """A response that the browser got; the names of `fields` are lower-case."""

    url: str
    status: int
    fields: dict[str, str]


class Screen(NamedTuple):
    """What a page is shown on; `width` and `height` in CSS pixels."""

    width: int
    height: int
    scale: float = 1
    is_mobile: bool = False


DESKTOP = Screen(1600, 1000)
PHONE = Screen(390, 844, 2, True)


class Browser:
    """A window of Chromium. See `running_browser`."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Go to a page and wait for all that it loads."""
        self.driver.get(url)

    def run(self, body: str, *arguments: object) -> Any:
        """What an async function in the page returns; its arguments are `arguments[0]`..."""
        return self.driver.execute_script(f"return (async () => {{{body}}})()", *arguments)

    def wait(self, expression: str) -> Any:
        """Wait until this holds in whatever page is shown; what it was."""
        script = f"return {expression}"
        waiting = WebDriverWait(self.driver, GUARD, poll_frequency=0.02)
        return waiting.until(lambda driver: driver.execute_script(script), f"never: {expression}")

    def click(self, selector: str, number: int = 0) -> None:
        """Click the `number`th element as a user would: it must be there to be seen."""
        self.driver.find_elements("css selector", selector)[number].click()

    def press(self, selector: str, number: int = 0) -> None:
        """Click a button of a form, and wait for the page that it leads to."""
        self.run("window.isBefore = true")
        self.click(selector, number)
        self.wait("!window.isBefore && document.readyState == 'complete'")

    def texts(self, selector: str) -> list[str]:
        """The text in each of these elements, with all its spaces."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        found: list[str] = self.driver.execute_script(script, selector)
        return found

    def complaints(self) -> list[str]:
        """The browser's console since the last call: errors, and what a policy has stopped.

        Without the icon that it asks each site for.
        """
        lines = [f"{entry['source']}: {entry['message']}" for entry in self._log("browser")]
        return [line for line in lines if "/favicon.ico - Failed to load" not in line]

    def responses(self) -> list[Response]:
        """The responses since the last call, in their order."""
        found = []
        for entry in self._log("performance"):
            event = json.loads(entry["message"])["message"]
            response = event["params"].get("response", {})
            if event["method"] == "Network.responseReceived" and response["url"][:4] == "http":
                fields = {name.lower(): value for name, value in response["headers"].items()}
                found.append(Response(response["url"], response["status"], fields))
        return found

    def has_alert(self) -> bool:
        """Whether a page has opened a dialog."""
        with suppress(NoAlertPresentException):
            self.driver.switch_to.alert.dismiss()
            return True
        return False

    def forget(self) -> None:
        """Leave the page, empty the cache and the logs: the next test begins with nothing."""
        self.has_alert()
        self.open("about:blank")
        self._command("Network.clearBrowserCache")
        self.complaints()
        self.responses()

    @contextmanager
    def shown_on(self, screen: Screen, scheme: str = "light") -> Iterator[None]:
        """Pages look as they do on this screen, to who prefers this color scheme."""
        width, height, scale, is_mobile = screen
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=is_mobile,
        )
        preference = {"name": "prefers-color-scheme", "value": scheme}
        self._command("Emulation.setEmulatedMedia", features=[preference])
        try:
            yield
        finally:
            self._command("Emulation.setEmulatedMedia", features=[])
            self._command("Emulation.clearDeviceMetricsOverride")

    def screenshot(self) -> bytes:
        """The whole page, also what one would have to scroll to, as a PNG."""
        shot = self._command("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _command(self, name: str, **parameters: object) -> dict[str, Any]:
        """A command of the DevTools protocol."""
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(name, parameters)
        return answer

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries


@contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """A browser of our own, which keeps all that it has to keep in `profile`."""
    chromium, driver_program = tool("chromium"), tool("chromedriver")
    assert chromium
    assert driver_program
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    service = Service(driver_program, env=os.environ | {"HOME": str(profile), "NO_PROXY": "*"})
    driver = webdriver.Chrome(options, service)
    try:
        driver.set_page_load_timeout(GUARD)
        driver.set_script_timeout(GUARD)
        yield Browser(driver)
    finally:
        driver.quit()


def photograph(browser: Browser, url: str, directory: Path, name: str) -> list[Path]:
    """Screenshots of a page, light and dark, on a phone and on a desktop."""
    made = []
    for kind, screen in (("desktop", DESKTOP), ("phone", PHONE)):
        for scheme in ("light", "dark"):
            with browser.shown_on(screen, scheme):
                browser.open(url)
                path = directory / f"{name}-{kind}-{scheme}.png"
                path.write_bytes(browser.screenshot())
                made.append(path)
    return made
