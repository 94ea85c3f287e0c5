"""Where sites are served: at which binds, by which certificates. Pure.

What the settings of a `Config` come to together, and what of it cannot be.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from .binds import Bind
from .semantics.routing import Routes, read_hosts

if TYPE_CHECKING:
    from .config import Config, Site

PairOfFiles: TypeAlias = tuple[str, str]
"""The paths of a certificate and of its key."""


def routes_at(config: "Config", bind: Bind | None) -> Routes:
    """Return where the sites are for clients of a bind; None: of a listener that is none.

    Raises ValueError for two at one place.
    """
    sites = config.all_sites
    served = [number for number, site in enumerate(sites) if is_at(site, bind)]
    return Routes([(site.hosts, site.prefix) for site in sites], served)


def is_at(site: "Site", bind: Bind | None) -> bool:
    """Return whether a site is served at a bind; None: at a listener that is none."""
    return not site.only_at or (bind is not None and bind.address in site.only_at)


def pair_of(site: "Site") -> PairOfFiles | None:
    """Return the files of a site's certificate and key, if it has any."""
    if site.tls_cert is None or site.tls_key is None:
        return None
    return os.fspath(site.tls_cert), os.fspath(site.tls_key)


def pairs_of(config: "Config") -> Sequence[PairOfFiles]:
    """Return the files of all pairs, the first of which is for who asks for no other one."""
    pairs = map(pair_of, (config, *config.sites))
    return tuple(dict.fromkeys(pair for pair in pairs if pair))


def has_tls(config: "Config", bind: Bind) -> bool:
    """Return whether the clients of a bind have TLS."""
    return not bind.plain and bool(pairs_of(config))


def check_places(config: "Config") -> None:
    """Raise ValueError, naming the setting first, where sites, binds and TLS do not fit."""
    addresses = [bind.address for bind in config.binds]
    for site in config.all_sites:
        for address in site.only_at:
            if address not in addresses:
                known = ", ".join(addresses)
                raise ValueError(f"only_at must be among the binds, {known}; not {address!r}")
    for bind in (None, *config.binds):
        routes_at(config, bind)
    _check_binds(config)
    _check_pairs(config)


def _check_binds(config: "Config") -> None:
    secure = [has_tls(config, bind) for bind in config.binds]
    is_given = bool(pairs_of(config))
    if config.redirect_http is not None:
        if not is_given or all(secure):
            raise ValueError(
                "redirect_http must be given with tls_cert, and with a plain bind beside another "
                "one: --bind '*:443' --bind '*:80,plain'"
            )
        if not any(site.hosts for site in config.all_sites):
            raise ValueError("redirect_http must be given with hosts: where to, we have to say")
    if is_given and not any(secure):
        raise ValueError("tls_cert must be given with a bind that is not plain")
    for bind in config.binds:
        if bind.client_ca and not is_given:
            raise ValueError(f"bind must not be {bind.text!r} without tls_cert and tls_key")


def _check_pairs(config: "Config") -> None:
    """A client is shown one certificate for each name that it may ask for."""
    pairs: dict[bytes, PairOfFiles] = {}
    for site in config.sites:
        if (pair := pair_of(site)) is None:
            continue
        for host in read_hosts(site.hosts):
            if pairs.setdefault(host, pair) != pair:
                raise ValueError(f"tls_cert must be one for {host.decode() or 'all hosts'}")
