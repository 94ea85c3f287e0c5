"""What a request is, and which requests are refused before their target is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.errors import Headers, HttpError
from trio_amped.semantics.request import Request, check_request

HOST = (b"host", b"example.com")


def request(*headers: tuple[bytes, bytes], method: bytes = b"GET", v: bytes = b"1.1") -> Request:
    return Request(method, b"/", v, headers)


def status(*headers: tuple[bytes, bytes], method: bytes = b"GET", v: bytes = b"1.1") -> int | None:
    try:
        check_request(request(*headers, method=method, v=v))
    except HttpError as error:
        return error.status
    return None


def test_fields() -> None:
    it = request((b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b""))
    assert [it.count(name) for name in (b"a", b"b", b"c", b"d")] == [2, 1, 1, 0]
    assert [it.field(name) for name in (b"a", b"b", b"c", b"d")] == [None, b"2", b"", None]
    assert [it.combined(name) for name in (b"a", b"b", b"c", b"d")] == [b"1, 3", b"2", b"", None]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param((), False, id="neither"),
        pytest.param(((b"content-length", b"0"),), False, id="zero"),
        pytest.param(((b"content-length", b"000"),), False, id="zeros"),
        pytest.param(((b"content-length", b"1"),), True, id="one"),
        pytest.param(((b"content-length", b"10"),), True, id="ten"),
        pytest.param(((b"content-length", b""),), True, id="in doubt: empty"),
        pytest.param(((b"content-length", b"0"), (b"content-length", b"1")), True, id="two"),
        pytest.param(((b"transfer-encoding", b"chunked"),), True, id="chunked"),
        pytest.param(((b"transfer-encoding", b""),), True, id="in doubt: no coding"),
    ],
)
def test_has_body(headers: Headers, expected: bool) -> None:
    assert request(*headers).has_body is expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [(b"1.1", None), (b"1.0", None), (b"1.2", None), (b"0.9", 505), (b"2.0", 505), (b"5.1", 505)],
    ids=repr,
)
def test_version(version: bytes, expected: int | None) -> None:
    assert status(HOST, v=version) == expected


def test_two_delimitations_of_content() -> None:
    length, coding = (b"content-length", b"0"), (b"transfer-encoding", b"chunked")
    assert status(HOST, length, coding) == 400
    assert status(HOST, length) is None
    assert status(HOST, coding) is None


@pytest.mark.parametrize(
    ("hosts", "old", "new"),
    [
        pytest.param((), None, 400, id="none"),
        pytest.param((b"a",), None, None, id="one"),
        pytest.param((b"a", b"a"), 400, 400, id="two"),
        pytest.param((b"",), 400, 400, id="empty"),
        pytest.param((b"a b",), 400, 400, id="malformed"),
    ],
)
def test_host_is_given_once(hosts: tuple[bytes, ...], old: int | None, new: int | None) -> None:
    headers = [(b"host", host) for host in hosts]
    assert status(*headers, v=b"1.0") == old
    assert status(*headers, v=b"1.1") == new


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_methods_that_are_served(method: bytes) -> None:
    assert status(HOST, method=method) is None


@pytest.mark.parametrize("method", b"POST PUT DELETE PATCH CONNECT TRACE".split())
def test_methods_that_are_not_allowed(method: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        check_request(request(HOST, method=method))
    assert caught.value.status == 405
    assert caught.value.headers == ((b"Allow", b"GET, HEAD, OPTIONS"),)


@pytest.mark.parametrize("method", [b"get", b"Get", b"post", b"PROPFIND", b"QUERY", b"GETS", b"!"])
def test_methods_that_are_unknown(method: bytes) -> None:
    assert status(HOST, method=method) == 501


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param((), None, id="none"),
        pytest.param((b"100-continue",), None, id="continue"),
        pytest.param((b"100-CONTINUE",), None, id="any case"),
        pytest.param((b"100-continue", b"100-continue"), None, id="twice"),
        pytest.param((b"100-continue,",), None, id="empty member"),
        pytest.param((b"",), None, id="empty"),
        pytest.param((b"200-ok",), 417, id="other"),
        pytest.param((b"100-continue, 200-ok",), 417, id="other member"),
        pytest.param((b"100-continue", b"200-ok"), 417, id="other line"),
        pytest.param((b"100-continue=1",), 417, id="parameter"),
    ],
)
def test_expect(values: tuple[bytes, ...], expected: int | None) -> None:
    headers = [(b"expect", value) for value in values]
    assert status(HOST, *headers) == expected
    assert status(HOST, *headers, v=b"1.0") is None


def test_order_of_the_checks() -> None:
    """From a request with every fault, mend one after the other."""
    length, coding = (b"content-length", b"5"), (b"transfer-encoding", b"chunked")
    bad_host, expect = (b"host", b"/"), (b"expect", b"x")
    assert status(length, coding, bad_host, expect, method=b"POST", v=b"2.0") == 505
    assert status(length, coding, bad_host, expect, method=b"POST") == 400
    assert status(length, bad_host, expect, method=b"POST") == 400
    assert status(length, HOST, expect, method=b"POST") == 405
    assert status(length, HOST, expect) == 417
    assert status(length, HOST) is None


NAMES = st.sampled_from(
    [b"host", b"expect", b"content-length", b"transfer-encoding", b"range", b"x"]
)


@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=20))).map(tuple),
    st.sampled_from([b"GET", b"POST", b"get"]) | st.binary(),
    st.sampled_from([b"1.1", b"1.0", b"2.0"]),
)
def test_only_expected_errors(headers: Headers, method: bytes, version: bytes) -> None:
    expected = {None, 400, 405, 417, 501, 505}
    assert status(*headers, method=method, v=version) in expected
