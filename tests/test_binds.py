"""What a bind can say, and how what none can be is refused."""

from typing import Final

import pytest

from trio_amped import Config, cli
from trio_amped.binds import Activated, Bind, Descriptor, Tcp, Unix, read_bind, read_binds

READ: Final = [
    ("127.0.0.1:8000", Tcp("127.0.0.1", 8000), {}),
    ("localhost:0", Tcp("localhost", 0), {}),
    ("*:80", Tcp("*", 80), {}),
    ("[::]:65535", Tcp("::", 65535), {}),
    ("[::]:80,ipv6only", Tcp("::", 80), {"ipv6_only": True}),
    ("[fe80::1%eth0]:80", Tcp("fe80::1%eth0", 80), {}),
    ("unix:/run/a.sock", Unix("/run/a.sock"), {}),
    ("unix:/run/a:b", Unix("/run/a:b"), {}),
    ("unix:/a,mode=660", Unix("/a"), {"mode": 0o660}),
    ("unix:/a,mode=0600", Unix("/a"), {"mode": 0o600}),
    ("unix:/a,owner=www:web,mode=666", Unix("/a"), {"owner": "www:web", "mode": 0o666}),
    ("unix:/a,owner=www", Unix("/a"), {"owner": "www"}),
    ("unix:/a,owner=:33", Unix("/a"), {"owner": ":33"}),
    ("unix:/" + "a" * 106, Unix("/" + "a" * 106), {}),
    ("a:80,proxy", Tcp("a", 80), {"proxy": True}),
    ("unix:/a,proxy,mode=660", Unix("/a"), {"proxy": True, "mode": 0o660}),
    ("a:80,plain", Tcp("a", 80), {"plain": True}),
    ("a:80,client-ca=/etc/ca.pem", Tcp("a", 80), {"client_ca": "/etc/ca.pem"}),
    ("fd:3", Descriptor(3), {}),
    ("systemd", Activated(""), {}),
    ("systemd:web", Activated("web"), {}),
]


@pytest.mark.parametrize(("text", "place", "more"), READ)
def test_what_a_bind_says(
    text: str, place: Tcp | Unix | Descriptor | Activated, more: dict[str, bool | int | str]
) -> None:
    assert read_bind(text) == Bind(text, place)._replace(**more)  # type: ignore[arg-type]


REFUSED: Final = [
    ("", "an address is missing"),
    ("8000", "a port is missing"),
    ("localhost", "a port is missing"),
    ("[::1]", "a port is missing"),
    (":8000", "a host is missing: *:8000 is every address"),
    ("http://localhost:80/", "without http:// and a path"),
    ("::1:80", "an IPv6 address stands in brackets"),
    ("[localhost]:80", "brackets are for IPv6 addresses"),
    ("[::1:80", "an IPv6 address stands in brackets"),
    ("*.example:80", "'*.example' is no host"),
    ("a b:80", "'a b' is no host"),
    ("a\x1b:80", "control characters"),
    ("a:65536", "a port is a number from 0 (any free one) to 65535, not '65536'"),
    ("a:", "not ''"),
    ("a:http", "not 'http'"),
    ("a:-1", "not '-1'"),
    ("a:\u0661", "not '\u0661'"),
    ("a:80,ipv6only", "the option ipv6only is for [::]"),
    ("[::]:80,ipv6only=yes", "the option ipv6only takes no value"),
    ("[::]:80,ipv6only,ipv6only", "the option ipv6only is given twice"),
    ("a:80,tsl", "the option 'tsl' is none of"),
    ("a:80,proxy=v2", "the option proxy takes no value"),
    ("a:80,", "the option '' is none of"),
    ("a:80,plain=1", "the option plain takes no value"),
    ("a:80,client-ca", "the option client-ca needs a value"),
    ("a:80,client-ca=", "the option client-ca needs a file"),
    ("a:80,client-ca=a\0b", "the option client-ca needs a file"),
    ("a:80,client-ca=a,plain", "the option client-ca is for TLS, and plain is none"),
    ("a:80,mode=660", "the option mode is for unix:/PATH"),
    ("a:80,owner=a", "the option owner is for unix:/PATH"),
    ("unix:a.sock", "needs its whole path"),
    ("unix:", "needs its whole path"),
    ("unix:/a/", "ends without a slash"),
    ("unix:/" + "\u00e4" * 54, "at most 107 bytes"),
    ("unix:/a,mode", "the option mode needs a value"),
    ("unix:/a,mode=888", "three octal digits"),
    ("unix:/a,mode=4755", "three octal digits"),
    ("unix:/a,owner=", "an owner is USER, USER:GROUP or :GROUP, not ''"),
    ("unix:/a,owner=:", "an owner is"),
    ("unix:/a,owner=a:b:c", "an owner is"),
    ("unix:/a,owner=a\0b", "an owner has no control characters"),
    ("unix:/a,owner=a:b\x1b", "an owner has no control characters"),
    ("unix:/a,owner=4294967295", "the number of an owner is less than 4294967295"),
    ("unix:/a,owner=a:99999999999", "the number of an owner is less than 4294967295"),
    ("unix:/a,owner=:" + "9" * 5000, "the number of an owner is less than 4294967295"),
    ("fd:", "needs the number of a descriptor"),
    ("fd:-1", "needs the number of a descriptor"),
    ("systemd:", "systemd: needs a name"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_is_no_bind(text: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_bind(text)
    assert reason in str(caught.value)
    with pytest.raises(SystemExit, match="2"):
        cli.parse([f"--bind={text}"])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("trio-amped: error: --bind must not be ")


def test_a_place_is_bound_once() -> None:
    with pytest.raises(ValueError, match=r"'unix:/a,mode=600' twice"):
        read_binds(["unix:/a", "a:1", "unix:/a,mode=600"])
    assert len(read_binds(["a:0", "a:0", "a:1", "b:1"])) == 4


def test_host_and_port_are_short_for_a_bind() -> None:
    assert Config().binds == (Bind("127.0.0.1:8000", Tcp("127.0.0.1", 8000)),)
    assert Config(host="::1", port=0).binds == (Bind("[::1]:0", Tcp("::1", 0)),)
    assert [bind.text for bind in Config(bind=["*:1", "fd:3"]).binds] == ["*:1", "fd:3"]


@pytest.mark.parametrize("more", [["--host", "127.0.0.1"], ["--port", "8000"], ["--port", "1"]])
def test_both_ways_at_once_are_refused(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever they say."""
    with pytest.raises(SystemExit, match="2"):
        cli.parse(["--bind", "*:1", *more])
    assert "--bind must not be given beside host or port" in capsys.readouterr().err


def test_programs_cannot_give_both_either() -> None:
    with pytest.raises(ValueError, match="bind must not be given beside host or port"):
        Config(bind=["*:1"], port=1)
    with pytest.raises(ValueError, match="bind must be a list of strings, not one string"):
        Config(bind="*:1")


@pytest.mark.parametrize("bind", ["*:1,proxy", "fd:3,proxy", "systemd,proxy"])
def test_a_bind_behind_proxies_needs_to_know_them(
    bind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for a UNIX socket, whose file says who may connect."""
    with pytest.raises(SystemExit, match="2"):
        cli.parse(["--bind", bind])
    [line] = capsys.readouterr().err.splitlines()
    assert f"--bind must not be '{bind}' without a network of proxies: " in line
    config = cli.parse(["--bind", bind, "--trust", "10.0.0.0/8", "--trust", "::1"]).config
    assert config.trusted.cover(("::1", 1, 0, 0))
    assert cli.parse(["--bind", "unix:/a,proxy"]).config.binds[0].proxy


@pytest.mark.parametrize("network", ["10.0.0.1/8", "proxy.example", ""])
def test_what_cannot_be_trusted(network: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parse([f"--trust={network}"])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"trio-amped: error: --trust must not be {network!r}: ")
