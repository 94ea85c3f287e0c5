"""Settings of any kind, for properties. Pure."""

import math
from typing import Any, Final

from hypothesis import strategies as st

from trio_amped.config import Config, Process, Site
from trio_amped.description import Setting, settings_of
from trio_amped.places import pair_of
from trio_amped.settings.given import SETTINGS

_TEXTS: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
_PATTERNS: Final = st.sampled_from(["*", "*.é", "/a/*", "a\\b", 'a"b', "a\tb", "\x7f*"])
# Those of which not any string can be.
_SPECIAL: Final[dict[str, st.SearchStrategy[Any]]] = {
    "root": _TEXTS.filter(bool),
    "prefix": st.sampled_from(["/", "/a/", "/b/c", "/%C3%A9"]),
    "hosts": st.lists(st.sampled_from(["a.example", "b.example", "[::1]"]), unique=True),
    "precompressed": st.lists(st.sampled_from(["br", "zstd", "gzip"]), unique=True),
    "headers": st.lists(st.builds('{}: X-"A": b\\c\'"'.replace('"A"', "A").format, _PATTERNS)),
    "immutable": st.lists(_PATTERNS | st.just("hashed")),
    "cors": st.lists(st.sampled_from(["*", "https://a.example", "http://b:1"])),
    "media_types": st.lists(st.builds('{}: a/b; c="d\\\\"'.format, _PATTERNS)),
    "charset": st.sampled_from(["", "utf-8", "latin-1"]),
    "access_log": st.sampled_from([None, "-", "/var/log/a b.log"]),
    "access_log_format": st.sampled_from(["json", "common", '$request "$status" \\ é']),
    "tls_cert": st.none() | _TEXTS.filter(bool),
    "tls_key": st.none() | _TEXTS.filter(bool),
    "hsts": st.sampled_from([None, "300", "31536000; includeSubDomains; preload"]),
    "only_at": st.just(()) | st.just(("*:1",)),
    "redirect_http": st.none() | st.integers(1, 65535),
    "fallback": st.sampled_from([None, "/index.html", "/%C3%A9"]),
    "error_pages": st.lists(st.sampled_from(["404=/404.html", "500=/a%20b"]), unique=True),
    "hidden": st.lists(st.sampled_from([".zarray", ".é", ".a b"]), unique=True),
    "index": st.lists(st.sampled_from(["index.html", "é"]), min_size=1, unique=True),
    "redirects": st.lists(st.sampled_from(["/a /b", '/%C3%A9/* https://b/:splat?c="d" 308'])),
    "host": st.sampled_from(["::1", "localhost", "127.0.0.1"]),
    "bind": st.lists(
        st.sampled_from(["*:1", "[::1]:0", "unix:/a,mode=660", "fd:3,plain", "systemd"]),
        unique=True,
    ),
    "trust": st.lists(st.sampled_from(["10.0.0.0/8", "::1"])),
    "confine": st.lists(_TEXTS),
}


def _values(each: Setting) -> st.SearchStrategy[Any]:
    if each.name in _SPECIAL:
        return _SPECIAL[each.name].map(lambda v: tuple(v) if isinstance(v, list) else v)
    kinds: list[st.SearchStrategy[Any]] = [st.sampled_from(each.choices)] if each.choices else []
    least, most = each.least, each.most
    if each.number is int:
        kinds.append(st.integers(int(least or 0), int(most or 1 << 40)))
    elif each.number is float:
        kinds.append(st.floats(least or 0.0, math.inf))
    elif each.kind is bool:
        kinds.append(st.booleans())
    elif not each.choices:
        kinds.append(_TEXTS)
    if type(None) in each.types:
        kinds.append(st.none())
    return st.one_of(kinds)


def _some(described: type, without: frozenset[str] = frozenset()) -> st.SearchStrategy[Any]:
    known = {name: each for name, each in settings_of(described).items() if name in SETTINGS}
    return st.fixed_dictionaries(
        {}, optional={n: _values(each) for n, each in known.items() if n not in without}
    ).map(_possible)


def _possible(values: dict[str, Any]) -> dict[str, Any]:
    """Without what cannot be beside the others."""
    short = {"host", "port"} if values.get("bind") else {}
    return {name: value for name, value in values.items() if name not in short}


def processes() -> st.SearchStrategy[Process]:
    return _some(Process).map(lambda values: Process(**values))


def configs() -> st.SearchStrategy[Config]:
    """Of one site, or of two at different places."""
    of_site = frozenset(settings_of(Site))
    sites = st.tuples(_some(Site, frozenset({"prefix"})), _some(Site, frozenset({"prefix"})))
    several = st.builds(_several, _some(Config, of_site), sites)
    return _some(Config).map(_one) | several


def _one(values: dict[str, Any]) -> Config:
    return Config(**_with_tls(_at_home(_paired(values), values)))


def _several(values: dict[str, Any], found: tuple[dict[str, Any], dict[str, Any]]) -> Config:
    one, two = (_at_home(_paired(each), values) for each in found)
    if set(one.get("hosts") or [""]) & set(two.get("hosts") or [""]):  # it has one certificate
        two = {name: each for name, each in two.items() if not name.startswith("tls_")}
    sites = (
        Site(**{"root": "a", **one, "prefix": "/1"}),
        Site(**{"root": "b", **two, "prefix": "/2"}),
    )
    has_tls = any(map(pair_of, sites))
    return Config(**_with_tls(values, has_tls=has_tls, has_hosts=False), sites=sites)


def _paired(values: dict[str, Any]) -> dict[str, Any]:
    """A certificate is given together with its key."""
    if None in (values.get("tls_cert"), values.get("tls_key")):
        return {name: each for name, each in values.items() if not name.startswith("tls_")}
    return values


def _at_home(site: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A site is at a bind that there is."""
    if "*:1" in values.get("bind", ()):
        return site
    return {name: each for name, each in site.items() if name != "only_at"}


def _with_tls(
    values: dict[str, Any], *, has_tls: bool = False, has_hosts: bool = True
) -> dict[str, Any]:
    """With TLS a bind is not plain; a redirect needs one of each kind, and a host."""
    values = _paired(values)
    has_tls = has_tls or "tls_cert" in values
    binds = values.get("bind", ())
    if has_tls and binds == ("fd:3,plain",):
        values = {**values, "bind": ("fd:3",)}
    is_mixed = has_tls and "fd:3,plain" in binds and len(binds) > 1
    if not is_mixed or not (has_hosts and values.get("hosts")):
        values = {name: each for name, each in values.items() if name != "redirect_http"}
    return values
