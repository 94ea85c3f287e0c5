"""Settings of any kind, for properties. Pure."""

import math
from typing import Any, Final

from hypothesis import strategies as st

from trio_amped.config import Config, Process, Site
from trio_amped.description import Setting, settings_of
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
    "fallback": st.sampled_from([None, "/index.html", "/%C3%A9"]),
    "error_pages": st.lists(st.sampled_from(["404=/404.html", "500=/a%20b"]), unique=True),
    "hidden": st.lists(st.sampled_from([".zarray", ".é", ".a b"]), unique=True),
    "host": st.sampled_from(["::1", "localhost", "127.0.0.1"]),
    "bind": st.lists(
        st.sampled_from(["*:1", "[::1]:0", "unix:/a,mode=660", "fd:3", "systemd"]), unique=True
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
    several = st.builds(
        lambda values, found: Config(**_paired(values), sites=_two(*found)),
        _some(Config, of_site),
        sites,
    )
    return _some(Config).map(lambda values: Config(**_paired(values))) | several


def _paired(values: dict[str, Any]) -> dict[str, Any]:
    """A certificate is given together with its key."""
    if None in (values.get("tls_cert"), values.get("tls_key")):
        return {name: each for name, each in values.items() if not name.startswith("tls_")}
    return values


def _two(one: dict[str, Any], two: dict[str, Any]) -> tuple[Site, Site]:
    return (
        Site(**{"root": "a", **one, "prefix": "/1"}),
        Site(**{"root": "b", **two, "prefix": "/2"}),
    )
