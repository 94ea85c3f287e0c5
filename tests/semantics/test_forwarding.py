"""Who has asked, where proxies pass a request on: only what trusted ones have written counts."""

import re
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped import Config
from trio_amped.semantics.forwarding import NOBODY, ForwardedFields, Forwarding, Origin

TRUSTED: Final = ("10.0.0.0/8", "fd00::/8")


def forwarding(fields: ForwardedFields = "x-forwarded") -> Forwarding:
    found = Config(trust=TRUSTED, forwarded_fields=fields).forwarding
    assert found is not None
    return found


def head(*lines: str) -> bytes:
    return "\r\n".join(["GET / HTTP/1.1", "Host: there", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("\t192.0.2.1 ", "192.0.2.1"),
        # Of several, the last one that is no proxy of ours.
        ("198.51.100.1, 192.0.2.1", "192.0.2.1"),
        ("198.51.100.1, 192.0.2.1, 10.0.0.1", "192.0.2.1"),
        ("198.51.100.1, 192.0.2.1, fd00::1, 10.0.0.1", "192.0.2.1"),
        ("10.0.0.2, 10.0.0.1", "10.0.0.2"),
        ("::ffff:10.0.0.2, 10.0.0.1", "10.0.0.2"),
        (",192.0.2.1,, ,", "192.0.2.1"),
        # What cannot be read ends the list: the proxy before is the last that is known.
        ("unknown", ""),
        ("", ""),
        ("192.0.2.1, unknown", ""),
        ("192.0.2.1, nonsense, 10.0.0.1", "10.0.0.1"),
        ("192.0.2.256, 10.0.0.1", "10.0.0.1"),
        ("192.0.2.1%eth0, 10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", ""),
        ("192.0.2.1 198.51.100.1", ""),
        ('"192.0.2.1"', ""),
        ("3232235777", ""),
        ("192.0.2.1\r\n 198.51.100.1", ""),  # a folded line
        ("192.0.2.1\r\n , 198.51.100.1", "198.51.100.1"),
    ],
)
def test_x_forwarded_for(value: str, address: str) -> None:
    assert forwarding().origin(head(f"X-Forwarded-For: {value}")).address == address


@pytest.mark.parametrize(
    ("value", "origin"),
    [
        ("for=192.0.2.1", Origin("192.0.2.1")),
        ("For=192.0.2.1;Proto=HTTPS", Origin("192.0.2.1", "https")),
        ('for="192.0.2.1:80";by=10.0.0.9;host=a.example', Origin("192.0.2.1", host=b"a.example")),
        ('for="[2001:db8::1]:80"; host="a:80"', Origin("2001:db8::1", host=b"a:80")),
        ("for=192.0.2.1:80", Origin("192.0.2.1")),  # quotes are missing, and nothing else
        ("for=[2001:db8::1]", Origin("2001:db8::1")),
        (r'for="192.0.2.\1"', Origin("192.0.2.1")),
        ("for=198.51.100.1, for=192.0.2.1", Origin("192.0.2.1")),
        (
            'for=198.51.100.1;proto=http, for=192.0.2.1;proto=https;host="a", for=10.0.0.1;host=b',
            Origin("192.0.2.1", "https", b"a"),
        ),
        ('for=192.0.2.1;x="a, b;for=1", for=10.0.0.1', Origin("192.0.2.1")),
        (", for=192.0.2.1, ,", Origin("192.0.2.1")),
        # A client that leaves a quote open hides nothing.
        ('for="198.51.100.1, for=192.0.2.1', Origin("192.0.2.1")),
        ('for="198.51.100.1;x=, for="[2001:db8::1]"', Origin("2001:db8::1")),
        # One that cannot be read, or hides (RFC 7239 6.2, 6.3), ends the list.
        ("for=unknown", NOBODY),
        ("for=_hidden;proto=https", Origin(scheme="https")),
        ("for=192.0.2.1, for=_hidden, for=10.0.0.1;proto=https", Origin("10.0.0.1", "https")),
        ("for=192.0.2.1;for=198.51.100.1", NOBODY),
        ("for = 192.0.2.1", NOBODY),
        ('for="192.0.2.1', NOBODY),
        ("192.0.2.1", NOBODY),
        ("for=192.0.2.1;proto=ftp;host=a/b", Origin("192.0.2.1")),
        ("", NOBODY),
    ],
)
def test_forwarded(value: str, origin: Origin) -> None:
    assert forwarding("forwarded").origin(head(f"Forwarded: {value}")) == origin


@pytest.mark.parametrize(
    ("lines", "origin"),
    [
        ([], NOBODY),
        (["X-FORWARDED-for:192.0.2.1"], Origin("192.0.2.1")),
        (["X-Forwarded-For: 198.51.100.1", "x-forwarded-for: 192.0.2.1"], Origin("192.0.2.1")),
        (["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 10.0.0.1"], Origin("192.0.2.1")),
        (["X-Forwarded-Proto: HTTPS"], Origin(scheme="https")),
        (["X-Forwarded-Proto: http, https"], Origin(scheme="https")),  # the nearest proxy's
        (["X-Forwarded-Proto: ws"], NOBODY),
        (["X-Forwarded-Host: a, b.example:80"], Origin(host=b"b.example:80")),
        (["X-Forwarded-Host: a b"], NOBODY),
        (["X-Forwarded-Forx: 192.0.2.1", "XX-Forwarded-For: 192.0.2.1"], NOBODY),
        (["A: X-Forwarded-For: 192.0.2.1"], NOBODY),
    ],
)
def test_the_fields_of_a_head(lines: Sequence[str], origin: Origin) -> None:
    assert forwarding().origin(head(*lines)) == origin


def test_the_other_fields_are_a_client_s_own() -> None:
    both = head("X-Forwarded-For: 192.0.2.1", "Forwarded: for=198.51.100.1")
    assert forwarding("x-forwarded").origin(both).address == "192.0.2.1"
    assert forwarding("forwarded").origin(both).address == "198.51.100.1"
    assert forwarding("forwarded").origin(head("X-Forwarded-For: 192.0.2.1")) == NOBODY
    assert forwarding("x-forwarded").origin(head("Forwarded: for=192.0.2.1")) == NOBODY


def test_who_is_a_proxy() -> None:
    assert Config().forwarding is None
    assert forwarding().trusts(("10.0.0.1", 80))
    assert not forwarding().trusts(("192.0.2.1", 80))
    assert not forwarding().trusts("")
    by_unix = Config(trust=["unix"]).forwarding
    assert by_unix
    assert by_unix.trusts("")
    assert not by_unix.trusts(("10.0.0.1", 80))


ENTRIES: Final = st.text(alphabet='for=;,"\\ 10.2:[]a', max_size=40)


@pytest.mark.parametrize("fields", ["x-forwarded", "forwarded"])
@given(theirs=ENTRIES)
def test_what_a_client_writes_moves_nothing(fields: ForwardedFields, theirs: str) -> None:
    """A proxy adds whom it has seen; so whatever a client sends, that is who has asked."""
    reads, name = forwarding(fields), "Forwarded" if fields == "forwarded" else "X-Forwarded-For"
    for seen in ("192.0.2.1", "[2001:db8::1]"):
        added = f'for="{seen}"' if fields == "forwarded" else seen
        found = reads.origin(head(f"{name}: {theirs}, {added}"))
        assert found.address == seen.strip("[]")
        assert re.fullmatch(r"[0-9a-f.:]+", found.address)


@pytest.mark.parametrize("fields", ["x-forwarded", "forwarded"])
def test_many_proxies(fields: ForwardedFields) -> None:
    """There is an end to them, and to the time that it takes."""
    entry = "for=10.0.0.1" if fields == "forwarded" else "10.0.0.1"
    name = "Forwarded" if fields == "forwarded" else "X-Forwarded-For"
    client = entry.replace("10.0.0.1", "192.0.2.1")
    few, many = ", ".join([client, *[entry] * 20]), ", ".join([client, *[entry] * 1000])
    assert forwarding(fields).origin(head(f"{name}: {few}")).address == "192.0.2.1"
    assert forwarding(fields).origin(head(f"{name}: {many}")).address == "10.0.0.1"
