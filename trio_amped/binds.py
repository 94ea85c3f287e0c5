"""Binds: where to listen, as the option `--bind` says it, and how connections begin there. Pure.

    ADDRESS[,OPTION[=VALUE]]...

where ADDRESS is `HOST:PORT`, `[IPV6]:PORT`, `*:PORT`, `unix:/PATH`, `fd:NUMBER`, `systemd` or
`systemd:NAME`. The options are those of `_OPTIONS`. A path with a comma cannot be said.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

EVERY_HOST: Final = "*"
DUAL: Final = "::"  # all addresses of the machine, of IPv4 too, by one socket
_LONGEST_PATH: Final = 107  # bytes of a path in sockaddr_un, without its NUL; unix(7)
_NOBODY: Final = 2**32 - 1  # no number of a user or a group; chown(2)
_EXAMPLES: Final = "such as 127.0.0.1:8000, [::1]:8000, *:8000 or unix:/run/site.sock"


class Tcp(NamedTuple):
    """A port at the addresses of a host; `*`: at all addresses of the machine."""

    host: str
    port: int


class Unix(NamedTuple):
    """The path of a UNIX socket, which is made."""

    path: str


class Descriptor(NamedTuple):
    """A socket that listens already, and was inherited under this number."""

    number: int


class Activated(NamedTuple):
    """The sockets of this name that systemd passes; "": those that no other bind takes."""

    name: str


Place: TypeAlias = Tcp | Unix | Descriptor | Activated


class Bind(NamedTuple):
    """Where to listen, and how.

    `ipv6_only`: not for IPv4 as well, at `[::]`. `mode` and `owner` (`USER`, `USER:GROUP` or
    `:GROUP`, names or numbers) are those of a UNIX socket's file; None, "": as they come. `proxy`:
    each connection of a trusted peer begins with a header of the PROXY protocol. `plain`: without
    TLS, where the server has certificates. `client_ca`: a file of authorities (PEM); clients need a
    certificate of one of them; "": they need none.
    """

    text: str  # as it was given, for messages
    place: Place
    ipv6_only: bool = False
    mode: int | None = None
    owner: str = ""
    proxy: bool = False
    plain: bool = False
    client_ca: str = ""

    @property
    def address(self) -> str:
        """The text without options, by which a site names a bind."""
        return self.text.partition(",")[0]


def read_binds(texts: Sequence[str]) -> list[Bind]:
    """Return what these binds say. Raises ValueError, with what follows "bind"."""
    binds: list[Bind] = []
    for text in texts:
        try:
            bind = read_bind(text)
        except ValueError as error:
            raise ValueError(f"must not be {text!r}: {error}") from None
        is_any_port = isinstance(bind.place, Tcp) and bind.place.port == 0
        if not is_any_port and any(bind.place == other.place for other in binds):
            raise ValueError(f"must not be {text!r} twice")
        binds.append(bind)
    return binds


def read_bind(text: str) -> Bind:
    """Return what one bind says. Raises ValueError, with the reason alone."""
    address, *options = text.split(",")
    bind = Bind(text, _read_place(address))
    seen: set[str] = set()
    for option in options:
        name, has_value, value = option.partition("=")
        if name not in _OPTIONS:
            raise ValueError(f"the option {name!r} is none of {', '.join(sorted(_OPTIONS))}")
        if name in seen:
            raise ValueError(f"the option {name} is given twice")
        seen.add(name)
        takes_value, apply = _OPTIONS[name]
        if bool(has_value) != takes_value:
            raise ValueError(
                f"the option {name} needs a value: {name}=..."
                if takes_value
                else f"the option {name} takes no value"
            )
        bind = apply(bind, value)
    if bind.plain and bind.client_ca:
        raise ValueError("the option client-ca is for TLS, and plain is none")
    return bind


def short_bind(host: str, port: int) -> Bind:
    """Return the bind of `--host` and `--port`: `HOST:PORT` in short."""
    shown = f"[{host}]" if ":" in host else host
    return Bind(f"{shown}:{port}", Tcp(host, port))


def _read_place(address: str) -> Place:
    if not address:
        raise ValueError(f"an address is missing, {_EXAMPLES}")
    if "\0" in address or not address.isprintable():
        raise ValueError("an address has no control characters")
    scheme, colon, rest = address.partition(":")
    if scheme == "unix" and colon:
        return _read_path(rest)
    if scheme == "fd" and colon:
        if not re.fullmatch(r"[0-9]{1,9}", rest):
            raise ValueError("fd: needs the number of a descriptor, such as fd:3")
        return Descriptor(int(rest))
    if scheme == "systemd":
        if colon and not rest:
            raise ValueError("systemd: needs a name, FileDescriptorName= of the socket unit")
        return Activated(rest)
    return _read_tcp(address)


def _read_path(path: str) -> Unix:
    if not path.startswith("/"):
        raise ValueError("a UNIX socket needs its whole path, such as unix:/run/site.sock")
    if len(path.encode(errors="surrogateescape")) > _LONGEST_PATH:
        raise ValueError(f"the path of a UNIX socket has at most {_LONGEST_PATH} bytes")
    if path.endswith("/"):
        raise ValueError("the path of a UNIX socket is that of a file, and ends without a slash")
    return Unix(path)


def _read_tcp(address: str) -> Tcp:
    if "/" in address:
        raise ValueError(f"an address is HOST:PORT, without http:// and a path, {_EXAMPLES}")
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        raise ValueError(f"a port is missing, {_EXAMPLES}")
    if not host:
        raise ValueError(f"a host is missing: *:{port} is every address of the machine")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError("brackets are for IPv6 addresses, such as [::1]:8000")
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets, such as [::1]:8000")
    if any(each in host for each in "[] ") or ("*" in host and host != EVERY_HOST):
        raise ValueError(f"{host!r} is no host, {_EXAMPLES}")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"a port is a number from 0 (any free one) to 65535, not {port!r}")
    return Tcp(host, int(port))


def _with_proxy(bind: Bind, _: str) -> Bind:
    return bind._replace(proxy=True)


def _with_plain(bind: Bind, _: str) -> Bind:
    return bind._replace(plain=True)


def _with_client_ca(bind: Bind, value: str) -> Bind:
    if not value or "\0" in value:
        raise ValueError("the option client-ca needs a file: client-ca=/PATH")
    return bind._replace(client_ca=value)


def _with_ipv6_only(bind: Bind, _: str) -> Bind:
    if not isinstance(bind.place, Tcp) or bind.place.host != DUAL:
        raise ValueError("the option ipv6only is for [::], which is for IPv4 as well without it")
    return bind._replace(ipv6_only=True)


def _with_mode(bind: Bind, value: str) -> Bind:
    if not isinstance(bind.place, Unix):
        raise ValueError("the option mode is for unix:/PATH")
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f"a mode has three octal digits, such as mode=660, not {value!r}")
    return bind._replace(mode=int(value, 8))


def _with_owner(bind: Bind, value: str) -> Bind:
    if not isinstance(bind.place, Unix):
        raise ValueError("the option owner is for unix:/PATH")
    if not re.fullmatch(r"[^:]+(:[^:]+)?|:[^:]+", value):
        raise ValueError(f"an owner is USER, USER:GROUP or :GROUP, not {value!r}")
    if not value.isprintable():
        raise ValueError(f"an owner has no control characters, as {value!r} has")
    for part in value.split(":"):
        if part.isdecimal() and (len(part) > 10 or int(part) >= _NOBODY):
            raise ValueError(f"the number of an owner is less than {_NOBODY}, not {part}")
    return bind._replace(owner=value)


_OPTIONS: Final[dict[str, tuple[bool, Callable[[Bind, str], Bind]]]] = {
    "proxy": (False, _with_proxy),
    "ipv6only": (False, _with_ipv6_only),
    "plain": (False, _with_plain),
    "client-ca": (True, _with_client_ca),
    "mode": (True, _with_mode),
    "owner": (True, _with_owner),
}
"""The options of a bind: whether each has a value, and what it changes."""
