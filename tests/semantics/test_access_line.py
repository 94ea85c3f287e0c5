"""Lines of the access log: the formats, their variables, and how text is escaped."""

import json
import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.access_line import (
    LONGEST,
    NAMED,
    VARIABLES,
    LogFormat,
    Moment,
    Record,
    as_json,
    as_text,
    moment,
)

NOW: Final = moment(2026, 11, 3, (8, 4, 20), 3600)
HEAD: Final = (
    b"GET /a?b=c HTTP/1.1\r\nHost: h.example:80\r\nuser-AGENT: \tcurl/8 \r\nReferer: http://r/\r\n"
    b"X-Forwarded-For: 192.0.2.1\r\nX-Request-ID: 7\r\n\r\n"
)
RECORD: Final = Record("::1", "TLSv1.3", HEAD, 206, 10, 300, "helper", 0.0126, 61.0004)
VALUES: Final = {
    "remote_addr": "::1",
    "remote_user": "-",
    "request": "GET /a?b=c HTTP/1.1",
    "request_method": "GET",
    "request_uri": "/a?b=c",
    "server_protocol": "HTTP/1.1",
    "ssl_protocol": "TLSv1.3",
    "scheme": "https",
    "host": "h.example",
    "http_host": "h.example:80",
    "http_referer": "http://r/",
    "http_user_agent": "curl/8",
    "http_x_forwarded_for": "192.0.2.1",
    "http_x_request_id": "7",
    "time_local": "03/Nov/2026:08:04:20 +0100",
    "time_iso8601": "2026-11-03T08:04:20+01:00",
    "status": "206",
    "body_bytes_sent": "10",
    "bytes_sent": "300",
    "request_time": "61.000",
    "gate": "helper",
    "gate_ms": "13",
}


def line(text: str, record: Record = RECORD) -> str:
    written = LogFormat(text).line(record, NOW).decode("ascii")
    assert written.endswith("\n")
    assert len(written) <= LONGEST
    return written[:-1]


def test_the_table_has_all_variables() -> None:
    assert set(VALUES) == set(VARIABLES)


@pytest.mark.parametrize("name", VALUES)
def test_a_variable(name: str) -> None:
    assert line(f"${name}") == VALUES[name]
    assert line(f"5% of ${{{name}}}x${name}") == f"5% of {VALUES[name]}x{VALUES[name]}"


def test_what_a_trusted_proxy_has_told() -> None:
    plain = RECORD._replace(tls="")
    assert line("$scheme $host", plain) == "http h.example"
    told = plain._replace(scheme="https", host=b"A.example:8443")
    assert line("$scheme $host $http_host", told) == "https a.example h.example:80"
    assert line("$scheme", RECORD._replace(scheme="http")) == "http"


def test_the_named_formats() -> None:
    common = '::1 - - [03/Nov/2026:08:04:20 +0100] "GET /a?b=c HTTP/1.1" 206 10'
    assert line("common") == common
    assert line("combined") == f'{common} "http://r/" "curl/8"'
    found = json.loads(line("json"))
    numbers = {"status": 206, "body_bytes_sent": 10, "bytes_sent": 300, "request_time": 61.0}
    assert found == {name: VALUES[name] for name in found} | numbers | {"gate_ms": 13}
    assert len(found) == 15


@pytest.mark.parametrize(
    ("head", "request_line", "words"),
    [
        (b"", "-", "- - -"),
        (b"GET /\r\n\r\n", "GET /", "- - -"),
        (b"GET / a b HTTP/1.0\r\n\r\n", "GET / a b HTTP/1.0", "GET / a b HTTP/1.0"),
        (b"G\xe9T /\x1b HTTP/1.1\r\n\r\n", "G\\xE9T /\\x1B HTTP/1.1", "G\\xE9T /\\x1B HTTP/1.1"),
    ],
)
def test_request_lines(head: bytes, request_line: str, words: str) -> None:
    record = RECORD._replace(head=head)
    assert line("$request", record) == request_line
    assert line("$request_method $request_uri $server_protocol", record) == words
    assert line("$http_referer", record) == "-"


@pytest.mark.parametrize(
    ("fields", "agent"),
    [
        (b"User-Agent:\r\n", "-"),
        (b"User-Agent: \t \r\n", "-"),
        (b"User-Agent: a\r\nUser-Agent: b\r\n", "a"),
        (b"X-User-Agent: a\r\n", "-"),
        (b"A: User-Agent: a\r\n", "-"),
        (b'User-Agent: \xc3\xa9"\\\x7f\t\r\n', "\\xC3\\xA9\\x22\\x5C\\x7F"),
    ],
)
def test_request_fields(fields: bytes, agent: str) -> None:
    record = RECORD._replace(head=b"GET / HTTP/1.1\r\n" + fields + b"\r\n")
    assert line("$http_user_agent", record) == agent


def test_a_target_is_no_field() -> None:
    record = RECORD._replace(head=b"GET /Referer:a HTTP/1.1\r\n\r\n")
    assert line("$http_referer", record) == "-"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "$remote_adr",
            "must not name $remote_adr, which is no variable; the nearest is $remote_addr",
        ),
        ("${Status}", "must not name $Status, which is no variable; the nearest is $status"),
        ("$request $", "must not name $, which is no variable; there are: remote_addr, "),
        ("$hosts", "must not name $hosts, which is no variable; the nearest is $host"),
        ("$qqq", "must not name $qqq, which is no variable; there are: remote_addr, "),
        ("combind", "or be a name; the nearest is combined"),
        ("%h %l", "must have a variable, such as $request, or be a name: common, combined, json"),
        ("", "must have a variable"),
        ("$status\n", "must be one line"),
        ("$request" * 30, f"must make lines of at most {LONGEST} bytes"),
        ("$status " + "x" * LONGEST, f"must make lines of at most {LONGEST} bytes"),
    ],
)
def test_what_is_no_format(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        LogFormat(text)


@pytest.mark.parametrize("text", NAMED)
def test_texts_are_cut_where_the_line_would_be_too_long(text: str) -> None:
    huge = b"GET /" + b"\x01" * 9000 + b" HTTP/1.1\r\nReferer: " + b"\xff" * 9000 + b"\r\n\r\n"
    written = line(text, RECORD._replace(head=huge))
    assert written.count("...") == (1 if text == "common" else 2)
    assert "206" in written


def test_long_texts_stay_where_there_is_room() -> None:
    head = b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n\r\n"
    assert "a" * 3000 in line("combined", RECORD._replace(head=head))


@given(st.binary())
def test_text_is_printable_and_nothing_is_lost(value: bytes) -> None:
    escaped = as_text(value).decode("ascii")
    assert escaped.isprintable()
    assert '"' not in escaped
    if value:
        assert escaped.encode().decode("unicode_escape").encode("latin-1") == value


@given(st.binary() | st.text().map(str.encode))
def test_json_is_what_was_said(value: bytes) -> None:
    escaped = as_json(value).decode("ascii")
    assert escaped.isprintable()
    assert json.loads(f'"{escaped}"') == value.decode("utf-8", "backslashreplace")


@given(head=st.binary(max_size=200), text=st.sampled_from(sorted(NAMED)))
def test_whatever_comes_is_one_line(head: bytes, text: str) -> None:
    written = line(text, RECORD._replace(head=b"GET /\r\nReferer:" + head + b"\r\n\r\n"))
    assert written.isprintable()
    if text == "json":
        assert json.loads(written)["status"] == 206


def test_times_in_the_west() -> None:
    assert moment(2027, 1, 9, (0, 0, 0), -12600) == Moment(
        b"09/Jan/2027:00:00:00 -0330", b"2027-01-09T00:00:00-03:30"
    )
