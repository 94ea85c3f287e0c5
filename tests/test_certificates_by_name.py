"""Which certificate a client is shown, by the name that it asks for; and who has to show one."""

import datetime
import logging
import ssl
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from tests.test_certificates import AUTHORITY, BAD, Files, issued
from trio_amped import cli
from trio_amped.certificates import CertificateError, Certificates
from trio_amped.config import Config, Site

CLIENTS: Final = trustme.CA(key_type=trustme.KeyType.ECDSA)
VERSIONS: Final = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Files]:
    """A pair for each of some names, and what signs clients."""
    CLIENTS.cert_pem.write_to_path(tmp_path / "clients.pem")
    found = {}
    for name in ("default.example", "a.example", "*.a.example", "any.example"):
        folder = tmp_path / name.replace("*", "_")
        folder.mkdir()
        found[name] = Files(folder)
        found[name].put(issued(name))
    return found


def site(files: Files, *hosts: str, **more: Any) -> Site:
    return Site("/", hosts=hosts, tls_cert=files.certificate, tls_key=files.key, **more)


def config(pairs: dict[str, Files], **more: Any) -> Config:
    default = pairs["default.example"]
    sites = [
        site(pairs["a.example"], "a.example"),
        site(pairs["*.a.example"], "*.a.example"),
        Site("/", hosts=["without.example"]),
    ]
    return Config(tls_cert=default.certificate, tls_key=default.key, sites=sites, **more)


class Shaken:
    """Both ends of a handshake in memory."""

    def __init__(
        self,
        of_server: ssl.SSLContext,
        of_client: ssl.SSLContext,
        name: str | None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = of_client.wrap_bio(back, there, server_hostname=name, session=session)
        self.server = of_server.wrap_bio(there, back, server_side=True)
        ends = [self.client, self.server]
        while ends:
            end = ends.pop(0)
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                ends.append(end)
        self.server.write(b"hello")  # what follows the handshake is received with it: tickets
        assert self.client.read(5) == b"hello"

    @property
    def shown(self) -> object:
        """The name in the certificate of the server."""
        certificate: Any = self.client.getpeercert()
        [(_, name)] = certificate["subjectAltName"]
        return name


def client(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *, has_one: bool = False) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    AUTHORITY.configure_trust(context)
    if has_one:
        CLIENTS.issue_cert("me@a.example", key_type=trustme.KeyType.ECDSA).configure_cert(context)
    return context


# ------------------------------------------------------------------ by name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.example", "a.example"),
        ("A.Example", "a.example"),
        ("x.a.example", "*.a.example"),
        ("y.x.a.example", "default.example"),
        ("without.example", "default.example"),
        ("other.example", "default.example"),
        ("127.0.0.1", "default.example"),  # no name at all: RFC 6066 3
        (None, "default.example"),
    ],
)
def test_a_client_is_shown_the_certificate_of_a_name(
    name: str | None, shown: str, version: ssl.TLSVersion, pairs: dict[str, Files]
) -> None:
    context = Certificates(config(pairs)).context()
    shaken = Shaken(context, client(version), name)
    assert shaken.shown == shown
    assert shaken.server.version() == version.name.replace("v1_", "v1.")


def test_the_first_certificate_is_for_all_others(pairs: dict[str, Files]) -> None:
    sites = [site(pairs["a.example"], "a.example"), site(pairs["any.example"], "b.example")]
    for each, shown in ((sites, "a.example"), (sites[::-1], "any.example")):
        context = Certificates(Config(sites=each)).context()
        assert Shaken(context, client(), None).shown == shown
        assert Shaken(context, client(), "b.example").shown == "any.example"


def test_a_site_of_all_hosts_has_one_for_all_names(pairs: dict[str, Files]) -> None:
    sites = [site(pairs["a.example"], "a.example"), site(pairs["any.example"])]
    context = Certificates(Config(sites=sites)).context()
    names = {"a.example": "a.example", "b.example": "any.example", None: "a.example"}
    for name, shown in names.items():
        assert Shaken(context, client(), name).shown == shown


def test_two_sites_of_one_host_have_one_certificate(pairs: dict[str, Files]) -> None:
    first, second = pairs["a.example"], pairs["any.example"]
    with pytest.raises(ValueError, match=r"^tls_cert must be one for a\.example$"):
        Config(sites=[site(first, "a.example"), site(second, "A.example", prefix="/b")])
    Config(sites=[site(first, "a.example"), site(first, "a.example", prefix="/b")])


def test_who_has_one_certificate_is_not_asked_for_names(pairs: dict[str, Files]) -> None:
    """It would be a call from OpenSSL to Python for each handshake."""
    files = pairs["a.example"]
    one = Config(tls_cert=files.certificate, tls_key=files.key, hosts=["a.example"])
    assert Certificates(one).context().sni_callback is None


# ------------------------------------------------------------------ when they are replaced


def test_one_pair_is_replaced_and_the_others_stay(
    pairs: dict[str, Files], caplog: pytest.LogCaptureFixture
) -> None:
    """By two renames, the first of which leaves a pair that does not fit; of a site as of all."""
    caplog.set_level(logging.INFO, "trio_amped")
    certificates = Certificates(config(pairs))
    for name, asked in (("a.example", "a.example"), ("default.example", None)):
        new = issued(f"new.{name}")
        for put, shown in (
            (pairs[name].put_key, name),
            (pairs[name].put_certificate, f"new.{name}"),
        ):
            put(new)
            certificates.reload_if_changed()
            context = certificates.context()
            assert Shaken(context, client(), asked).shown == shown
            assert Shaken(context, client(), "x.a.example").shown == "*.a.example"
    said = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in said] == ["the", "new", "the", "new"]
    assert all(str(pairs["a.example"].key) in line for line in said[:1])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_pair_of_any_site_ends_the_command_line(
    name: str, pairs: dict[str, Files], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = pairs["a.example"]
    settings = tmp_path / "a.toml"
    settings.write_text(
        "port = 0\n"
        f"[[site]]\nroot = '{tmp_path}'\n"
        f"tls_cert = '{pairs['any.example'].certificate}'\ntls_key = '{pairs['any.example'].key}'\n"
        f"[[site]]\nroot = '{tmp_path}'\nhosts = ['a.example']\n"
        f"tls_cert = '{files.certificate}'\ntls_key = '{files.key}'\n"
    )
    BAD[name][0](files)
    with pytest.raises(CertificateError) as caught:
        files.read()
    assert cli.main([f"--config={settings}"]) == 2
    assert capsys.readouterr().err == f"trio-amped: error: {caught.value}\n"


# ------------------------------------------------------------------ what is odd about them


@pytest.mark.parametrize(("left", "is_odd"), [(13.9, True), (14.1, False)])
def test_a_certificate_that_ends_soon_is_odd(
    left: float, is_odd: bool, pairs: dict[str, Files]
) -> None:
    files = pairs["a.example"]
    end = datetime.datetime(2100, 1, 31, tzinfo=datetime.UTC)
    files.put(issued("a.example", not_after=end))
    of_site = Config(sites=[site(files, "a.example")])
    now = end.timestamp() - left * 24 * 3600
    said = f"the certificate {files.certificate} ends at Jan 31 00:00:00 2100 GMT; renew it"
    assert list(Certificates(of_site).oddities(of_site, now)) == [said] * is_odd


@pytest.mark.parametrize(
    ("names", "hosts", "is_odd"),
    [
        (["a.example"], ["b.example", "A.Example"], False),
        (["a.example"], ["b.example", "x.a.example"], True),
        (["a.example"], [], False),
        (["*.a.example"], ["x.a.example"], False),
        (["*.a.example"], ["*.a.example"], False),
        (["*.a.example"], ["a.example", "y.x.a.example"], True),
        (["x.a.example"], ["*.a.example"], False),
        (["127.0.0.1"], ["127.0.0.1"], False),
        (["::1"], ["[::1]"], False),
    ],
)
@pytest.mark.parametrize("is_its_own", [True, False])
def test_a_certificate_for_no_host_of_its_site_is_odd(
    is_its_own: bool, names: list[str], hosts: list[str], is_odd: bool, pairs: dict[str, Files]
) -> None:
    files = pairs["a.example"]
    files.put(AUTHORITY.issue_cert(*names, key_type=trustme.KeyType.ECDSA))
    of_all: dict[str, Any] = {"tls_cert": files.certificate, "tls_key": files.key}
    one = Config(sites=[site(files, *hosts)])
    if not is_its_own:
        one = Config(sites=[Site("/", hosts=hosts)], **of_all)
    said = f"the certificate {files.certificate} is for no host of its site: {', '.join(hosts)}"
    assert list(Certificates(one).oddities(one, 0.0)) == [said] * is_odd


def test_the_certificate_of_a_host_is_that_of_another_site(pairs: dict[str, Files]) -> None:
    sites = [site(pairs["a.example"], "a.example"), Site("/", hosts=["a.example"], prefix="/b")]
    first = pairs["default.example"]
    two = Config(sites=sites, tls_cert=first.certificate, tls_key=first.key)
    assert list(Certificates(two).oddities(two, 0.0)) == []


def test_the_command_line_says_what_is_odd_about_them(
    pairs: dict[str, Files], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = pairs["a.example"]
    assert cli.main(["check", f"--root={tmp_path}", "--hosts=b.example", *files.options]) == 1
    said = f"odd: the certificate {files.certificate} is for no host of its site: b.example\n"
    assert said in capfd.readouterr().out


# ------------------------------------------------------------------ certificates of clients


@pytest.fixture
def asking(pairs: dict[str, Files], tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a listener that asks clients for certificates, and of one that does not."""
    authorities = str(tmp_path / "clients.pem")
    binds = ["*:443", f"*:8443,client-ca={authorities}"]
    certificates = Certificates(config(pairs, bind=binds))
    return certificates.context(authorities), certificates.context()


@pytest.mark.parametrize("name", ["a.example", "x.a.example", "other.example", None])
def test_a_client_needs_a_certificate_whatever_name_it_asks_for(
    name: str | None, asking: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """The context that is swapped for a name changes neither who is asked nor who is believed."""
    asks, does_not = asking
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        Shaken(asks, client(), name)
    stranger = client()
    AUTHORITY.issue_cert("me@a.example", key_type=trustme.KeyType.ECDSA).configure_cert(stranger)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        Shaken(asks, stranger, name)
    shaken = Shaken(asks, client(has_one=True), name)
    assert shaken.server.getpeercert()
    assert shaken.shown == {None: "default.example", "other.example": "default.example"}.get(
        name, "*.a.example" if name == "x.a.example" else name
    )
    assert Shaken(does_not, client(), name).server.getpeercert() is None


@pytest.mark.parametrize("name", ["a.example", "other.example", None])
def test_a_listener_that_asks_for_certificates_resumes_no_session(
    name: str | None, asking: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Neither by a ticket nor, of TLS 1.2, by the number of a session that OpenSSL has kept."""
    asks, _ = asking
    of_client = client(has_one=True)
    session = Shaken(asks, of_client, name).client.session
    assert session is None or not session.has_ticket
    again = Shaken(asks, of_client, name, session)
    assert not again.client.session_reused
    assert again.server.getpeercert()
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        Shaken(asks, client(ssl.TLSVersion.TLSv1_2, has_one=True), name)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_listener_that_asks_for_none_resumes_sessions(
    version: ssl.TLSVersion, asking: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    _, does_not = asking
    of_client = client(version)
    session = Shaken(does_not, of_client, "a.example").client.session
    assert session
    assert session.has_ticket
    assert Shaken(does_not, of_client, "a.example", session).client.session_reused


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ticket_of_another_listener_is_no_certificate(
    version: ssl.TLSVersion, asking: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    asks, does_not = asking
    of_client = client(version)
    session = Shaken(does_not, of_client, "a.example").client.session
    with pytest.raises(ssl.SSLError):
        Shaken(asks, of_client, "a.example", session)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot read {}: No such file or directory; see the option client-ca of --bind"),
        (b"", "no certificates in PEM: {}; see the option client-ca of --bind"),
        (b"x", "no certificates in PEM: {}; see the option client-ca of --bind"),
    ],
)
def test_authorities_that_cannot_be_read(
    content: bytes | None,
    sentence: str,
    pairs: dict[str, Files],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_bytes(content)
    options = [f"--root={tmp_path}", f"--bind=127.0.0.1:0,client-ca={path}"]
    assert cli.main([*options, *pairs["a.example"].options]) == 2
    assert capsys.readouterr().err == f"trio-amped: error: {sentence.format(path)}\n"


def test_authorities_are_read_again(pairs: dict[str, Files], tmp_path: Path) -> None:
    path = tmp_path / "clients.pem"
    certificates = Certificates(config(pairs, bind=[f"*:8443,client-ca={path}"]))
    Shaken(certificates.context(str(path)), client(has_one=True), "a.example")
    new = tmp_path / "new.pem"
    trustme.CA().cert_pem.write_to_path(new)
    new.rename(path)
    certificates.reload_if_changed()
    with pytest.raises(ssl.SSLError):
        Shaken(certificates.context(str(path)), client(has_one=True), "a.example")
