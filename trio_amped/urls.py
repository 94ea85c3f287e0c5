"""The URLs by which a person can open what a socket serves. Asks the kernel, and never waits."""

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

import trio

_SIOCGIFADDR: Final = 0x8915  # the IPv4 address of an interface; netdevice(7)
_GLOBAL: Final = "00"  # the scope of addresses that need no interface beside them
_IPV6_ADDRESSES: Final = Path("/proc/net/if_inet6")


def urls_of(sock: socket.socket | trio.socket.SocketType, scheme: str = "http") -> list[str]:
    """Return the URLs of a socket that listens; of all addresses: localhost, and the machine's."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return [f"unix:{os.fsdecode(name)}"]
    host, port = name[:2]
    if host == "0.0.0.0":
        hosts = ["localhost", *_ipv4_addresses()]
    elif host == "::" and sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        hosts = ["::1", *_ipv6_addresses()]
    elif host == "::":
        hosts = ["localhost", *_ipv4_addresses(), *_ipv6_addresses()]
    else:
        hosts = [host]
    return [f"{scheme}://{_bracketed(each)}:{port}/" for each in hosts]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ipv4_addresses() -> Iterator[str]:
    """One for each interface that has any, but for the loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, interface in socket.if_nameindex():
            request = struct.pack("256s", interface.encode()[:15])
            with contextlib.suppress(OSError):  # it has none
                answer = fcntl.ioctl(sock, _SIOCGIFADDR, request)
                address = socket.inet_ntoa(answer[20:24])
                if not address.startswith("127."):
                    yield address


def _ipv6_addresses(file: Path = _IPV6_ADDRESSES) -> Iterator[str]:
    """Those of a global scope; proc(5), /proc/net/if_inet6."""
    with contextlib.suppress(OSError):  # the kernel has no IPv6
        for line in file.read_text().splitlines():
            address, _, _, scope, _, _ = line.split()
            if scope == _GLOBAL:
                yield str(IPv6Address(bytes.fromhex(address)))
