"""Sites with certificates, by name and by listener: real processes, and openssl(1) as a client."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trustme

from tests.real.support import put
from tests.rig import GUARD, ServerProcess, running_server
from tests.serving.client import Answer, parse
from tests.serving.peers import authority, client_context
from tests.test_binds_served import EVERY_WAY, WORKERS, wait_until_all_serve
from tests.test_certificates import Files

KIND: Final = trustme.KeyType.ECDSA
VERSIONS: Final = ["1.2", "1.3"]


class Place:
    """A configuration of two sites, one of which is only for clients with certificates.

    The first bind is a port, with TLS; at the path `inner` clients need certificates; at `plain`
    there is no TLS.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inner, self.plain = str(folder / "inner.sock"), str(folder / "plain.sock")
        self.roots = {name: folder / name for name in ("a.example", "b.example", "inner.example")}
        self.files = {}
        for name, root in self.roots.items():
            put(root / "name", name.encode())
            (folder / f"{name}.pair").mkdir()
            self.files[name] = Files(folder / f"{name}.pair")
            self.files[name].put(authority().issue_cert(name, key_type=KIND))
        self.authorities = folder / "clients.pem"
        authority().cert_pem.write_to_path(self.authorities)
        me = authority().issue_cert("me@a.example", key_type=KIND)
        self.me = folder / "me.pem"
        me.private_key_and_cert_chain_pem.write_to_path(self.me)
        self.settings = folder / "sites.toml"
        self.settings.write_text("".join(self._lines()))

    @property
    def options(self) -> list[str]:
        inner = f"unix:{self.inner},client-ca={self.authorities}"
        binds = ["127.0.0.1:0", inner, f"unix:{self.plain},plain"]
        return [f"--config={self.settings}", *(word for each in binds for word in ("--bind", each))]

    def _lines(self) -> Iterator[str]:
        yield "redirect_http = 443\n"
        for name, root in self.roots.items():
            files = self.files[name]
            yield f'[[site]]\nroot = "{root}"\nhosts = ["{name}"]\nhsts = "300"\n'
            yield f'tls_cert = "{files.certificate}"\ntls_key = "{files.key}"\n'
            if name == "inner.example":
                yield f'only_at = ["unix:{self.inner}"]\n'


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@contextlib.contextmanager
def at_work(place: Place, way: list[str]) -> Iterator[ServerProcess]:
    with running_server(*place.options, *way, root=None) as server:
        wait_until_all_serve(server, way)
        yield server


@contextlib.contextmanager
def connected(address: tuple[str, int] | str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
        sock.settimeout(GUARD)
        sock.connect(address)
        yield sock


def ask(sock: socket.socket, host: str, target: str = "/name") -> Answer:
    """What the server answers, which ends the connection."""
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    with sock.makefile("rb") as received:
        [answer] = parse(received.read(), [])
    return answer


def context(version: str, me: Path | None = None) -> ssl.SSLContext:
    found = client_context()
    found.minimum_version = found.maximum_version = ssl.TLSVersion[
        f"TLSv{version}".replace(".", "_")
    ]
    if me is not None:
        found.load_cert_chain(me)
    return found


def come_without_certificate(path: str, version: str, name: str) -> bytes:
    """By TLS 1.3 the client is told after its handshake: RFC 8446 4.4.2.4."""
    with (
        connected(path) as sock,
        context(version).wrap_socket(sock, server_hostname=name) as wire,
    ):
        return wire.recv(1)


@EVERY_WAY
@pytest.mark.parametrize("version", VERSIONS)
def test_each_name_has_its_certificate_and_each_listener_its_sites(
    version: str, place: Place, way: list[str]
) -> None:
    with at_work(place, way) as server:
        for name in place.roots:  # the certificate is checked by its name
            with (
                connected(("127.0.0.1", server.port)) as sock,
                context(version).wrap_socket(sock, server_hostname=name) as wire,
            ):
                answer = ask(wire, name)
            if name == "inner.example":
                assert answer.status == 421
                assert "strict-transport-security" not in answer.headers
            else:
                assert (answer.status, answer.body) == (200, name.encode())
                assert answer.headers["strict-transport-security"] == "max-age=300"
            if version == "1.2":  # sessions of which would be resumed without a certificate
                with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                    come_without_certificate(place.inner, version, name)
                continue
            with (
                connected(place.inner) as sock,
                context(version, place.me).wrap_socket(sock, server_hostname=name) as wire,
            ):
                answer = ask(wire, name)
                assert (answer.status, answer.body) == (200, name.encode())
            with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
                come_without_certificate(place.inner, version, name)
        assert not any("Traceback" in line for line in server.log)


@EVERY_WAY
def test_the_plain_listener_redirects_and_answers_challenges(place: Place, way: list[str]) -> None:
    """A tool of ACME writes the proof into the root (its webroot) while we serve."""
    with at_work(place, way):
        for name, status in (("a.example", 308), ("inner.example", 421), ("c.example", 421)):
            with connected(place.plain) as sock:
                answer = ask(sock, f"{name}:80", "/name?q")
            assert answer.status == status
            location = f"https://{name}/name?q" if status == 308 else None
            assert answer.headers.get("location") == location
        put(place.roots["b.example"] / ".well-known/acme-challenge/token", b"proof")
        with connected(place.plain) as sock:
            answer = ask(sock, "b.example", "/.well-known/acme-challenge/token")
        assert (answer.status, answer.body) == (200, b"proof")


def test_workers_have_what_was_renewed_by_renames(place: Place) -> None:
    """What `certbot renew` does, with `--deploy-hook` of a SIGHUP."""
    with at_work(place, WORKERS) as server:
        before = serial(server, "b.example")
        place.files["b.example"].put(authority().issue_cert("b.example", key_type=KIND))
        os.kill(server.pid, signal.SIGHUP)
        server.wait_for_log("all workers are new")
        assert serial(server, "b.example") != before


def serial(server: ServerProcess, name: str) -> object:
    with (
        connected(("127.0.0.1", server.port)) as sock,
        client_context().wrap_socket(sock, server_hostname=name) as wire,
    ):
        shown = wire.getpeercert()
        assert shown
        return shown["serialNumber"]


@pytest.mark.parametrize("way", [[], ["--no-fast-lane"]], ids=["lane", "tasks"])
@pytest.mark.parametrize("version", VERSIONS)
def test_openssl_sees_the_same(version: str, place: Place, way: list[str]) -> None:
    """Certificates by name, tickets of one listener, and none of the one that asks clients."""
    option = f"-tls{version.replace('.', '_')}"
    with at_work(place, way) as server:
        for name in ("a.example", "b.example"):
            port = ["-connect", f"127.0.0.1:{server.port}", "-servername", name]
            inner = ["-unix", place.inner, "-servername", name, "-cert", str(place.me)]
            wheres = [(port, True), (inner, False)]
            for where, has_tickets in wheres if version == "1.3" else wheres[:1]:
                said = s_client(option, "-CAfile", str(place.authorities), *where, host=name)
                assert "HTTP/1.1 200 OK" in said
                assert f"\n{name}" in said, "the body"
                assert "Verify return code: 0 (ok)" in said
                assert f"TLSv{version}" in said
                assert ("TLS session ticket:" in said) == has_tickets


def s_client(*options: str, host: str) -> str:
    """What openssl(1) says of a connection, and what it receives."""
    request = f"GET /name HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    done = subprocess.run(
        ["openssl", "s_client", "-ign_eof", "-verify_return_error", *options],
        input=request.encode(),
        capture_output=True,
        timeout=GUARD,
        check=True,
    )
    return done.stdout.decode("utf-8", "replace")
