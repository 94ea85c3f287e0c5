"""certbot and lego get certificates, and renew them, by files in a root that is served (webroot).

An authority of the test (pebble) asks for these files by HTTP, as Let's Encrypt does: RFC 8555 8.3.
"""

import contextlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trustme

from bench.servers import HOST, listening
from tests.real.support import eventually
from tests.rig import ServerProcess, needs, running_server
from tests.test_certificates import Files

from .support import run

pytestmark = needs("certbot", "lego", "pebble", "pebble-challtestsrv")

NAME: Final = "a.example"
# The authority answers at once, and asks again what it has asked before.
# Pebble refuses one good nonce of twenty, to see whether clients ask again: certbot fails then.
ENVIRONMENT: Final = {
    "PEBBLE_VA_NOSLEEP": "1",
    "PEBBLE_AUTHZREUSE": "0",
    "PEBBLE_WFE_NONCEREJECT": "0",
}
TRUSTED: Final = "authority.pem"
WORKERS: Final = ("--workers", "2")


def trusting(folder: Path, *argv: str) -> None:
    """Run a program that trusts the authority."""
    trusted = str(folder / TRUSTED)
    run(folder, *argv, LEGO_CA_CERTIFICATES=trusted, REQUESTS_CA_BUNDLE=trusted)


class Lego:
    """One program that gets certificates."""

    def __init__(self, folder: Path, webroot: Path, directory: str) -> None:
        self._folder = folder
        options = ("--server", directory, "--email", "me@a.example", "--accept-tos")
        webroots = ("--http", "--http.webroot", str(webroot))
        path = ("--path", str(folder / "lego"))
        self._command = ("lego", *options, "--domains", NAME, *webroots, *path)
        self.certificate = folder / f"lego/certificates/{NAME}.crt"
        self.key = folder / f"lego/certificates/{NAME}.key"

    def get(self) -> None:
        trusting(self._folder, *self._command, "run")

    def renew(self, hook: str) -> None:
        trusting(
            self._folder,
            *self._command,
            "renew",
            "--days",
            "10000",
            "--no-random-sleep",
            "--renew-hook",
            hook,
        )


class Certbot:
    """Another one. What it calls live are links, which it switches."""

    def __init__(self, folder: Path, webroot: Path, directory: str) -> None:
        self._folder = folder
        names = {"--config-dir": "etc", "--work-dir": "work", "--logs-dir": "log"}
        places = [word for name in names for word in (name, str(folder / names[name]))]
        self._common = ("--server", directory, "--non-interactive", *places)
        self._webroot = ("--webroot", "-w", str(webroot), "-d", NAME)
        self.certificate = folder / f"etc/live/{NAME}/fullchain.pem"
        self.key = folder / f"etc/live/{NAME}/privkey.pem"

    def get(self) -> None:
        agrees = ("--agree-tos", "--register-unsafely-without-email")
        trusting(self._folder, "certbot", "certonly", *agrees, *self._common, *self._webroot)

    def renew(self, hook: str) -> None:
        now = ("--force-renewal", "--no-random-sleep-on-renew")
        trusting(self._folder, "certbot", "renew", *now, *self._common, "--deploy-hook", hook)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, for programs that cannot choose any themselves."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in socks]


@contextlib.contextmanager
def authority(folder: Path, port: int) -> Iterator[str]:
    """The URL of an authority that asks at this port of this machine, whatever the name."""
    own = trustme.CA()
    own.cert_pem.write_to_path(folder / TRUSTED)
    leaf = own.issue_cert(HOST)
    leaf.private_key_pem.write_to_path(folder / "authority-key.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "authority-certificate.pem")
    ours, names, management = free_ports(3)
    settings = {
        "listenAddress": f"{HOST}:{ours}",
        "managementListenAddress": "",
        "certificate": str(folder / "authority-certificate.pem"),
        "privateKey": str(folder / "authority-key.pem"),
        "httpPort": port,
        "tlsPort": 1,
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
    none = [word for name in ("-http01", "-https01", "-tlsalpn01") for word in (name, "")]
    resolver = ["pebble-challtestsrv", *none, "-defaultIPv4", HOST, "-defaultIPv6", ""]
    resolver += ["-dns01", f"{HOST}:{names}", "-management", f"{HOST}:{management}"]
    pebble = ["pebble", "-config", str(folder / "pebble.json"), "-dnsserver", f"{HOST}:{names}"]
    with listening(resolver, names) as one, listening(pebble, ours, os.environ | ENVIRONMENT):
        yield f"https://{HOST}:{ours}/dir"
        one.kill()  # on a signal to end it waits for its clients


def shown(server: ServerProcess) -> bytes:
    """The certificate that a client is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = int(server.wait_for_log(r"https://127\.0\.0\.1:(\d+)/")[1])
    with (
        socket.create_connection((HOST, port)) as sock,
        context.wrap_socket(sock, server_hostname=NAME) as wire,
    ):
        found = wire.getpeercert(binary_form=True)
        assert found is not None
        return found


def first(certificate: Path) -> bytes:
    block, _, _ = certificate.read_text().partition("-----END CERTIFICATE-----\n")
    return ssl.PEM_cert_to_DER_cert(f"{block}-----END CERTIFICATE-----\n")


def installing(program: Lego | Certbot, files: Files, server: ServerProcess) -> str:
    """A command that replaces the pair by renames, and tells the workers."""
    pairs = {program.certificate: files.certificate, program.key: files.key}
    copies = [f"cp {new} {old}.new && mv {old}.new {old}" for new, old in pairs.items()]
    return " && ".join([*copies, f"kill -HUP {server.pid}"])


@pytest.mark.parametrize(
    ("tool", "way"), [(Lego, ()), (Certbot, ("--no-fast-lane",))], ids=["lego", "certbot"]
)
def test_a_certificate_is_got_and_renewed(
    tool: type[Lego] | type[Certbot], way: tuple[str, ...], site: Path, tmp_path: Path
) -> None:
    """While the server runs, by its plain bind, which redirects all else."""
    files = Files(tmp_path)
    files.put(trustme.CA().issue_cert(NAME))
    binds = ("--bind", f"{HOST}:0,plain", "--bind", f"{HOST}:0", "--redirect-http", "--hosts", NAME)
    with running_server(*binds, *files.options, *WORKERS, *way, root=site) as server:
        port = int(server.wait_for_log(r"http://127\.0\.0\.1:(\d+)/")[1])
        server.wait_for_log("2 workers serve")
        with authority(tmp_path, port) as directory:
            program = tool(tmp_path, site, directory)
            program.get()
            install = tmp_path / "install"
            install.write_text(f"#!/bin/sh\n{installing(program, files, server)}\n")
            install.chmod(0o700)
            run(tmp_path, str(install))
            wait_until_new(server, 1)
            before = first(program.certificate)
            assert shown(server) == before
            program.renew(str(install))
            wait_until_new(server, 2)
            assert shown(server) == first(program.certificate) != before


def wait_until_new(server: ServerProcess, times: int) -> None:
    eventually(lambda: sum("all workers are new" in line for line in server.log) == times)
