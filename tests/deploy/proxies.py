"""The proxies of examples/deploy, each from its example, in front of a server. Blocks.

What is replaced in an example is what each reader replaces: ports, and where the certificate is.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trustme

from tests.deploy.ports import listens, reserved_port
from tests.real.support import eventually
from tests.rig import GUARD, REPOSITORY
from tests.rig.tools import tool

FOLDER: Final = REPOSITORY / "examples/deploy"
HOST: Final = "www.example.org"
SERVER: Final = "127.0.0.1:8000"

# nginx reads its example within this.
_NGINX: Final = """
daemon off;
user root;
pid {place}/pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {place};
    proxy_temp_path {place};
    fastcgi_temp_path {place};
    uwsgi_temp_path {place};
    scgi_temp_path {place};
    include {place}/site.conf;
}}
"""
_CADDY: Final = "{{\n\tadmin off\n\thttp_port {http}\n\thttps_port {https}\n}}\n"


class Proxy:
    """A running proxy: where it listens, and whom a client has to trust."""

    def __init__(self, place: Path, http: int, https: int) -> None:
        self.http = http
        self.https = https
        self.authority = place / "authority.pem"

    def connect(self, source: str) -> ssl.SSLSocket:
        """Connect a client of this address by TLS."""
        context = ssl.create_default_context(cafile=self.authority)
        sock = socket.create_connection(("127.0.0.1", self.https), GUARD, (source, 0))
        return context.wrap_socket(sock, server_hostname=HOST)


@contextmanager
def in_front(kind: str, place: Path, port: int) -> Iterator[Proxy]:
    """A proxy of this kind for the server at that port; place: a new folder for its files."""
    certify(place)
    with reserved_port() as http, reserved_port() as https:
        argv = _COMMANDS[kind](place, {"8000": port, "80": http, "443": https})
        home = {"HOME": str(place), "XDG_DATA_HOME": str(place), "XDG_CONFIG_HOME": str(place)}
        with open(place / "said", "wb") as said:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=os.environ | home,
                start_new_session=True,
            )
        try:
            eventually(lambda: _has_started(process, https, place / "said"))
            yield Proxy(place, http, https)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(GUARD)


def _has_started(process: subprocess.Popen[bytes], port: int, said: Path) -> bool:
    assert process.poll() is None, said.read_text()
    return listens(port)


def certify(place: Path) -> None:
    kind = trustme.KeyType.ECDSA
    authority = trustme.CA(key_type=kind)
    authority.cert_pem.write_to_path(place / "authority.pem")
    leaf = authority.issue_cert(HOST, key_type=kind)
    leaf.cert_chain_pems[0].write_to_path(place / "fullchain.pem")
    leaf.private_key_pem.write_to_path(place / "privkey.pem")
    leaf.private_key_and_cert_chain_pem.write_to_path(place / "both.pem")


def _example(name: str, changes: dict[str, str]) -> str:
    """Return an example in which each of these texts is another; all of them must be there."""
    text = (FOLDER / name).read_text()
    for old, new in changes.items():
        assert old in text, (name, old)
        text = text.replace(old, new)
    return text


def _nginx(place: Path, ports: dict[str, int]) -> list[str]:
    changes = {
        SERVER: f"127.0.0.1:{ports['8000']}",
        "listen 80;": f"listen 127.0.0.1:{ports['80']};",
        "listen [::]:80;": "",
        "listen 443 ": f"listen 127.0.0.1:{ports['443']} ",
        "listen [::]:443 ssl http2;": "",
        f"/etc/ssl/{HOST}": str(place),
    }
    (place / "site.conf").write_text(_example("nginx.conf", changes))
    (place / "nginx.conf").write_text(_NGINX.format(place=place))
    return [tool("nginx") or "nginx", "-e", "stderr", "-p", str(place), "-c", "nginx.conf"]


def _haproxy(place: Path, ports: dict[str, int]) -> list[str]:
    changes = {
        SERVER: f"127.0.0.1:{ports['8000']}",
        "bind :::80 v4v6": f"bind 127.0.0.1:{ports['80']}",
        "bind :::443 v4v6": f"bind 127.0.0.1:{ports['443']}",
        f"/etc/ssl/{HOST}": str(place),
    }
    (place / "haproxy.cfg").write_text(_example("haproxy.cfg", changes))
    return [tool("haproxy") or "haproxy", "-db", "-f", str(place / "haproxy.cfg")]


def _caddy(place: Path, ports: dict[str, int]) -> list[str]:
    changes = {
        SERVER: f"127.0.0.1:{ports['8000']}",
        f"{HOST} {{\n": f"https://{HOST} {{\n\tbind 127.0.0.1\n"
        f"\ttls {place}/fullchain.pem {place}/privkey.pem\n",
    }
    begin = _CADDY.format(http=ports["80"], https=ports["443"])
    (place / "Caddyfile").write_text(begin + _example("Caddyfile", changes))
    return [tool("caddy") or "caddy", "run", "--config", str(place / "Caddyfile")]


_COMMANDS: Final = {"nginx": _nginx, "haproxy": _haproxy, "caddy": _caddy}
