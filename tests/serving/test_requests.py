"""Requests of every kind, good and bad, and whether the connection lives on."""

import pytest
from trio.testing import MockClock

from tests.serving.cases import LARGE, PATIENT, TEXT, Case, get

ALLOW: dict[str, str | None] = {"allow": "GET, HEAD, OPTIONS"}
HTML = "text/html; charset=utf-8"
ROOT = b"<h1>root</h1>"

CASES = [
    # The methods
    Case("GET", get("/a.txt"), 200, b"0123456789", {"content-type": TEXT}),
    Case("HEAD", get("/a.txt", method="HEAD"), 200, b"", {"content-length": "10"}),
    Case("HEAD missing", get("/nope", method="HEAD"), 404, b"", {"content-length": "14"}),
    Case("OPTIONS", get("/a.txt", method="OPTIONS"), 200, b"", {"content-length": "0", **ALLOW}),
    Case("OPTIONS *", get("*", method="OPTIONS"), 200, b"", ALLOW),
    Case("POST", get("/a.txt", method="POST"), 405, headers=ALLOW),
    Case("TRACE", get("/a.txt", method="TRACE"), 405, headers=ALLOW),
    Case("CONNECT", get("a.example:80", method="CONNECT"), 405, headers=ALLOW, closes=True),
    Case("unknown", get("/a.txt", method="BREW"), 501, headers={"allow": None}),
    Case("lower-case", get("/a.txt", method="get"), 501),
    # The versions
    Case("1.0", b"GET /a.txt HTTP/1.0\r\n\r\n", 200, b"0123456789", closes=True),
    Case("1.0 keep-alive", get("/a.txt", "Connection: keep-alive", version="1.0"), 200,
         b"0123456789", closes=True),
    Case("1.0 is not asked to wait", get("/a.txt", "Expect: 200-ok", version="1.0"), 200,
         b"0123456789", closes=True),
    Case("1.2", get("/a.txt", version="1.2"), 200, b"0123456789"),
    Case("2.0", get("/a.txt", version="2.0"), 505),
    Case("1.10", get("/a.txt", version="1.10"), 400, closes=True),
    # The connection
    Case("close", get("/a.txt", "Connection: close"), 200, b"0123456789", closes=True),
    Case("keep-alive", get("/a.txt", "Connection: keep-alive"), 200, b"0123456789"),
    Case("CRLF before", b"\r\n\r\n" + get("/a.txt"), 200, b"0123456789"),
    # The targets
    Case("absolute form", get("http://other.example/a.txt"), 200, b"0123456789"),
    Case("absolute form of the root", get("http://other.example"), 200, ROOT),
    Case("query", get("/a.txt?b=c"), 200, b"0123456789"),
    Case("escaped", get("/a%20b%FF.bin"), 200, b"odd name"),
    Case("dot segments", get("/x/../folder/.././a.txt"), 200, b"0123456789"),
    Case("index of the root", get("/"), 200, ROOT, {"content-type": HTML}),
    Case("index of a folder", get("/folder/"), 200, b"<h1>folder</h1>"),
    Case("folder", get("/folder"), 301, headers={"location": "folder/"}),
    Case("folder with query", get("/folder?a=b&c"), 301, headers={"location": "folder/?a=b&c"}),
    Case("folder, HEAD", get("/folder", method="HEAD"), 301, b"", {"location": "folder/"}),
    Case("well-known", get("/.well-known/token"), 200, b"known"),
    Case("empty", get("/empty.txt"), 200, b"", {"content-length": "0"}),
    Case("large", get("/large.bin"), 200, LARGE, {"content-length": "200000"}),
    Case("OPTIONS without a slash", get("a.txt", method="OPTIONS"), 400),
    Case("OPTIONS above the root", get("/..", method="OPTIONS"), 400),
    # Not found
    Case("missing", get("/nope"), 404),
    Case("hidden", get("/.hidden"), 404),
    Case("hidden, escaped", get("/%2ehidden"), 404),
    Case("encoded slash", get("/folder%2Findex.html"), 404),
    Case("below a file", get("/a.txt/b"), 404),
    Case("no index", get("/bare/"), 404),
    Case("an index that is a folder", get("/strange/"), 404),
    Case("a pipe", get("/pipe"), 404),
    # Too deep
    Case("255 folders", get("/a" * 255, method="HEAD"), 404, b"", config=PATIENT),
    Case("256 folders", get("/a" * 256), 404, config=PATIENT),
    Case("256 folders, escaped", get("/%61" * 256), 404, config=PATIENT),
    Case("256 that are none", get("/." * 255 + "/a.txt"), 404, config=PATIENT),
    Case("254 that are none", get("/." * 254 + "/a.txt"), 200, b"0123456789", config=PATIENT),
    # Malformed
    Case("no slash", get("a.txt"), 400),
    Case("asterisk", get("*"), 400),
    Case("above the root", get("/../a.txt"), 400),
    Case("above the root, escaped", get("/%2e%2e/a.txt"), 400),
    Case("escaped NUL", get("/a%00"), 400),
    Case("bad escape", get("/a%2"), 400),
    Case("fragment", get("/a.txt#b"), 400),
    Case("high byte", get("/\xff"), 400, closes=True),
    Case("space", get("/a .txt"), 400, closes=True),
    Case("bare LF", b"GET /a.txt HTTP/1.1\nHost: a\n\n", 400, closes=True),
    Case("bare LF in a field", get("/a.txt", "A: b\nC: d"), 400, closes=True),
    Case("bare CR", get("/a.txt", "A: b\rc"), 400, closes=True),
    Case("NUL", get("/a.txt", "A: b\0"), 400, closes=True),
    Case("no colon", get("/a.txt", "nonsense"), 400, closes=True),
    Case("space before the colon", get("/a.txt", "A : b"), 400, closes=True),
    Case("no Host", b"GET /a.txt HTTP/1.1\r\n\r\n", 400, closes=True),
    Case("two Hosts", get("/a.txt", "Host: b"), 400, closes=True),
    Case("two Hosts, 1.0", get("/a.txt", "Host: b", version="1.0"), 400, closes=True),
    Case("bad Host", b"GET /a.txt HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    Case("empty Host", b"GET /a.txt HTTP/1.1\r\nHost:\r\n\r\n", 400),
    Case("not HTTP", b"nonsense\r\n\r\n", 400, closes=True),
    Case("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400, closes=True),
    # Limits
    Case("long target", get("/" + "a" * 200), 414, closes=True),
    Case("large head", get("/a.txt", "A: " + "b" * 600), 431, closes=True),
    Case("many fields", get("/a.txt", *["A: b"] * 8), 431, closes=True),
    Case("as many fields as may be", get("/a.txt", *["A: b"] * 7), 200, b"0123456789"),
    # Bodies are never read, so nothing that follows may be taken for a request
    Case("Content-Length", get("/a.txt", "Content-Length: 5") + b"GET /", 200, b"0123456789",
         closes=True),
    Case("chunked", get("/a.txt", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 200,
         b"0123456789", closes=True),
    Case("POST with a body", get("/a.txt", "Content-Length: 3", method="POST") + b"abc", 405,
         headers=ALLOW, closes=True),
    Case("body on a missing file", get("/nope", "Content-Length: 3") + b"abc", 404, closes=True),
    Case("no body", get("/a.txt", "Content-Length: 0"), 200, b"0123456789"),
    Case("no body, written oddly", get("/a.txt", "Content-Length: 00, 00"), 200, b"0123456789"),
    Case("both framings", get("/a.txt", "Content-Length: 3", "Transfer-Encoding: chunked"), 400,
         closes=True),
    Case("two lengths", get("/a.txt", "Content-Length: 3", "Content-Length: 4"), 400, closes=True),
    Case("negative length", get("/a.txt", "Content-Length: -1"), 400, closes=True),
    Case("endless length", get("/a.txt", "Content-Length: " + "1" * 300), 400, closes=True),
    Case("unknown coding", get("/a.txt", "Transfer-Encoding: gzip"), 501, closes=True),
    # Expectations
    Case("100-continue", get("/a.txt", "Expect: 100-continue", "Content-Length: 3"), 200,
         b"0123456789", closes=True),
    Case("100-continue without a body", get("/a.txt", "Expect: 100-continue"), 200, b"0123456789"),
    Case("unknown expectation", get("/a.txt", "Expect: a-miracle"), 417),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_request(case: Case, autojump_clock: MockClock) -> None:
    await case.run()


async def test_an_offer_of_another_protocol_is_declined_and_costs_nothing(
    autojump_clock: MockClock,
) -> None:
    fields = "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"
    await Case("upgrade", get("/a.txt", *fields), 200, b"0123456789").run()


async def test_a_refused_head_gets_no_body(autojump_clock: MockClock) -> None:
    await Case("HEAD", b"HEAD /a.txt HTTP/1.1\r\n\r\n", 400, b"", closes=True).run()
