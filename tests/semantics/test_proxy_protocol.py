"""PROXY protocol headers: by tables from the specification, and whatever else may come."""

import ipaddress
import struct
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped import Config
from trio_amped.semantics.networks import read_network
from trio_amped.semantics.proxy_protocol import MOST, Header, Preface, read_header

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"


def binary(command: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    """A header of the second version."""
    size = len(rest) if length is None else length
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", size) + rest


FOUR: Final = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 40000, 443)
SIX: Final = (
    ipaddress.ip_address("2001:db8::7").packed
    + ipaddress.ip_address("2001:db8::1").packed
    + struct.pack("!HH", 40000, 443)
)
MAPPED: Final = ipaddress.ip_address("::ffff:192.0.2.7").packed + SIX[16:]
TLVS: Final = b"\x03\x00\x04abcd" + b"\x20\x00\x05" + bytes(5)
CLIENT: Final = ("192.0.2.7", 40000)

READ: Final = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n", CLIENT),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 0 0\r\n", ("192.0.2.7", 0)),
    (b"PROXY TCP6 2001:DB8::7 ::1 40000 443\r\n", ("2001:db8::7", 40000)),
    (
        b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n",
        ("ffff:" * 7 + "ffff", 65535),
    ),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 40000 443\r\n", CLIENT),
    (b"PROXY TCP6 ::FFFF:c000:207 ::1 40000 443\r\n", CLIENT),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n", None),
    (b"PROXY UNKNOWN whatever\x00it is\r\n", None),
    (binary(0x21, 0x11, FOUR), CLIENT),
    (binary(0x21, 0x11, FOUR + TLVS), CLIENT),
    (binary(0x21, 0x21, SIX), ("2001:db8::7", 40000)),
    (binary(0x21, 0x21, SIX + TLVS), ("2001:db8::7", 40000)),
    (binary(0x21, 0x21, MAPPED), CLIENT),
    (binary(0x21, 0x12, FOUR), None),  # UDP
    (binary(0x21, 0x31, bytes(216)), None),  # UNIX
    (binary(0x21, 0x00, b""), None),
    (binary(0x21, 0x00, TLVS), None),
    (binary(0x20, 0x00, b""), None),  # LOCAL: HAProxy looks whether we live
    (binary(0x20, 0x11, FOUR), None),
    (binary(0x20, 0xFF, b"abc"), None),  # whose family is ignored
    (binary(0x21, 0x11, FOUR + bytes(MOST - 16 - 12)), CLIENT),
]
assert max(len(header) for header, _ in READ if header.startswith(b"PROXY")) <= 107


@pytest.mark.parametrize(("header", "source"), READ)
def test_a_header(header: bytes, source: tuple[str, int] | None) -> None:
    """However it is cut, and whatever follows."""
    assert read_header(header) == Header(len(header), source)
    assert read_header(header + b"GET / HTTP/1.1\r\n\r\n" + header) == Header(len(header), source)
    for length in range(len(header)):
        assert read_header(header[:length]) is None


NONE: Final = [
    *(b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"proxy TCP4", b"PROXZ", b"\r\n\r\n\0\r\nQUIP"),
    *(b"\r\n\r\nGET", b" PROXY", b"\n"),
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY tcp4 192.0.2.7 198.51.100.1 1 2\r\n",
    b"PROXY TCP5 192.0.2.7 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
    b"PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 02\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n",
    b"PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 localhost 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY TCP6 \xb2::1 ::1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n\r\n",
    b"PROXY UNKNOWN" + b"x" * 94,  # 107 bytes, and no end
    b"PROXY UNKNOWN" + b"x" * 93 + b"\r\n",  # 108
    binary(0x11, 0x11, FOUR),
    binary(0x31, 0x11, FOUR),
    binary(0x22, 0x11, FOUR),
    binary(0x21, 0x13, FOUR),
    binary(0x21, 0x41, FOUR),
    binary(0x21, 0x11, FOUR[:-1]),
    binary(0x21, 0x21, SIX[:-1]),
    binary(0x21, 0x31, bytes(215)),
    binary(0x21, 0x11, FOUR, MOST - 15),
    binary(0x20, 0x00, b"", 65535),
]


@pytest.mark.parametrize("data", NONE)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(ValueError, match="PROXY protocol header"):
        read_header(data)


# ---------------------------------------------------------------- in pieces


def received(preface: Preface, stream: bytes, cuts: list[int]) -> bytes:
    """What is left of a stream, which comes in pieces that end at these cuts."""
    here, taken = 0, 0
    for here in [*sorted(cuts), len(stream)]:
        while not preface.is_complete and taken < here:
            seen = stream[taken : min(here, taken + preface.room)]
            count = preface.feed(seen)
            assert 0 <= count <= len(seen)
            taken += count
            if not preface.is_complete:
                assert count == len(seen), "else the kernel would tell of it again and again"
    return preface.rest + stream[taken:]


_CUTS: Final = st.lists(st.integers(0, 200), max_size=6)
_HEADERS: Final = st.sampled_from([header for header, _ in READ])
_NEXT: Final = st.binary(max_size=40) | _HEADERS


@given(_HEADERS, _NEXT, _CUTS)
def test_a_header_is_taken_exactly(header: bytes, after: bytes, cuts: list[int]) -> None:
    stream = header + after
    preface = Preface(is_trusted=True)
    assert received(preface, stream, [min(cut, len(stream)) for cut in cuts]) == after
    assert preface.is_complete
    assert preface.source == dict(READ)[header]


@given(st.binary(max_size=150) | _NEXT, _CUTS)
def test_nothing_is_taken_of_whom_is_not_trusted(stream: bytes, cuts: list[int]) -> None:
    preface = Preface(is_trusted=False)
    begins_one = stream.startswith((b"PROXY ", SIGNATURE))
    cuts = [min(cut, len(stream)) for cut in cuts]
    if begins_one:
        with pytest.raises(ValueError, match="not trusted"):
            received(preface, stream, cuts)
    else:
        assert received(preface, stream, cuts) == stream
        assert preface.source is None


_PIECES: Final = st.sampled_from(
    [
        *(b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"192.0.2.7 ", b"::1 ", b"1 ", b"65535"),
        *(b"\r\n", b"\r", b" ", b"\xff", SIGNATURE, b"\x21\x11", b"\x20\x00", b"\x00\x0c", FOUR),
    ]
)
_ANYTHING: Final = st.lists(_PIECES | st.binary(max_size=20), max_size=12).map(b"".join)


@given(_ANYTHING, _CUTS)
def test_whatever_comes_is_read_the_same_in_pieces(stream: bytes, cuts: list[int]) -> None:
    """And all that is read is an address, within the limits."""

    def read(cuts: list[int]) -> tuple[object, ...]:
        preface = Preface(is_trusted=True)
        try:
            rest = received(preface, stream, cuts)
        except ValueError:
            return ("refused",)
        return preface.is_complete, preface.source, rest

    whole = read([])
    assert read([min(cut, len(stream)) for cut in cuts]) == whole
    if whole[0] is True:
        _, source, rest = whole
        assert isinstance(rest, bytes)
        length = len(stream) - len(rest)
        assert length <= (107 if stream.startswith(b"PROXY") else MOST)
        if source is not None:
            assert isinstance(source, tuple)
            host, port = source
            assert str(ipaddress.ip_address(host)) == host
            assert 0 <= port <= 65535


def test_who_ends_before_a_header_is_refused() -> None:
    for is_trusted in (True, False):
        with pytest.raises(ValueError, match="ended before"):
            Preface(is_trusted).feed(b"")


# ---------------------------------------------------------------- who is trusted


@pytest.mark.parametrize(
    ("networks", "name", "covered"),
    [
        (["10.0.0.0/8"], ("10.255.0.1", 1), True),
        (["10.0.0.0/8"], ("11.0.0.1", 1), False),
        (["10.0.0.0/8"], ("::ffff:10.0.0.1", 1, 0, 0), True),
        (["192.0.2.1", "2001:db8::/32"], ("2001:db8:1::1", 1, 0, 0), True),
        (["192.0.2.1", "2001:db8::/32"], ("192.0.2.1", 1), True),
        (["192.0.2.1", "2001:db8::/32"], ("192.0.2.2", 1), False),
        (["fe80::/10"], ("fe80::1%eth0", 1, 0, 2), True),
        (["0.0.0.0/0"], ("::1", 1, 0, 0), False),
        ([], ("127.0.0.1", 1), False),
        (["0.0.0.0/0"], "", False),  # a UNIX socket, which must be named
        (["unix"], "", True),
        (["unix"], b"\0name", True),
        (["unix"], ("127.0.0.1", 1), False),
        (["unix"], None, False),
        (["0.0.0.0/0"], None, False),  # the client is gone
        (["0.0.0.0/0"], ("nonsense", 1), False),
    ],
)
def test_who_is_in_a_network(networks: list[str], name: object, covered: bool) -> None:
    assert Config(trust=networks).trusted.cover(name) is covered


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.0.1/8", "the network is 10.0.0.0/8"),
        ("example.org", "a network is such as"),
        ("", "a network is such as"),
        ("10.0.0.0/33", "a network is such as"),
        ("10.0.0.0/8,::1", "a network is such as"),
    ],
)
def test_what_is_no_network(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_network(text)
