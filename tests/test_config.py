"""The settings: what can be, what cannot, and what the user is told."""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_amped
from trio_amped import cli
from trio_amped.config import Answered, Config, Site
from trio_amped.places import has_tls

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
SECONDS = [name for name, field in FIELDS.items() if isinstance(field.default, float)]
OPTIONAL = [name for name, field in FIELDS.items() if field.type == (int | None)]
COUNTS = [name for name, field in FIELDS.items() if type(field.default) is int]


LISTS = [
    name for name, field in FIELDS.items() if isinstance(field.default, tuple) and name != "sites"
]


def make(**settings: Any) -> Config:
    """A Config from values that a type checker would not let through."""
    return Config(**settings)


def test_the_defaults_serve_this_folder_to_this_machine_only() -> None:
    config = Config()
    assert (config.root, config.host, config.port) == (".", "127.0.0.1", 8000)
    assert (config.gate, config.helpers) == ("auto", "thread")
    assert trio_amped.Config is Config


def test_the_root_may_be_a_path() -> None:
    assert Config(root=Path("/srv")).root == Path("/srv")


def test_settings_are_named_and_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        Config("/srv")  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_a_help_that_says_its_unit(name: str) -> None:
    field = FIELDS[name]
    text = field.metadata["help"]
    assert text
    assert "%" not in text, "argparse would expand it"
    assert (field.metadata.get("unit") == "seconds") == (name in SECONDS)


NEVER = math.inf
WITH_REDIRECT = {
    "tls_cert": "c.pem",
    "tls_key": "k.pem",
    "bind": ["*:443", "*:80,plain"],
    "hosts": ["a.example"],
}
NUMBERS = {  # default, least, most: what users rely on
    "port": (8000, 0, 65_535),
    "max_helpers": (16, 1, 1024),
    "max_queue": (1024, 1, 1 << 30),
    "revalidate": (1.0, 0, NEVER),
    "max_open_files": (10_000, 1, 1 << 20),
    "max_connections": (4096, 1, 1 << 20),
    "max_connections_per_address": (None, 1, 1 << 20),
    "redirect_http": (None, 1, 65535),
    "max_head": (16 * 1024, 256, 1 << 20),
    "max_target": (8 * 1024, 16, 1 << 20),
    "max_fields": (100, 1, 10_000),
    "head_timeout": (10.0, 0.001, NEVER),
    "keep_alive_timeout": (75.0, 0.001, NEVER),
    "send_timeout": (30.0, 0.001, NEVER),
    "send_minimum": (16 * 1024, 1, 1 << 30),
    "open_file_timeout": (10.0, 0, NEVER),
    "disk_timeout": (30.0, 0.001, NEVER),
    "drain_timeout": (10.0, 0, NEVER),
    "retire_timeout": (600.0, 0, NEVER),
}


def test_the_defaults_and_bounds_of_all_numbers() -> None:
    """A deadline of no time at all would refuse everything; to keep nothing, and to wait for
    nobody, can be wanted."""
    found = {
        name: (field.default, field.metadata["least"], field.metadata.get("most", NEVER))
        for name, field in FIELDS.items()
        if "least" in field.metadata
    }
    assert found == NUMBERS


@pytest.mark.parametrize("name", [*SECONDS, *COUNTS])
def test_the_bounds_are_the_last_values_that_can_be(name: str) -> None:
    metadata, default = FIELDS[name].metadata, FIELDS[name].default
    least, most = metadata["least"], metadata.get("most", math.inf)
    assert least <= default <= most
    assert getattr(make(**{name: least}), name) == least
    below = math.nextafter(least, -math.inf) if name in SECONDS else least - 1
    for value in (below, -1, -math.inf if name in SECONDS else -(10**30)):
        with pytest.raises(ValueError, match=rf"^{name} must be at least {least}$"):
            make(**{name: value})
    if most < math.inf:
        assert getattr(make(**{name: most}), name) == most
        for value in (most + 1, math.inf if name in SECONDS else 10**30):
            with pytest.raises(ValueError, match=rf"^{name} must be at most "):
                make(**{name: value})


@pytest.mark.parametrize("name", ["port", "max_helpers", "max_fields", "max_head", "max_target"])
def test_a_bound_is_told_to_the_last_digit(name: str) -> None:
    most = FIELDS[name].metadata["most"]
    with pytest.raises(ValueError, match=rf"^{name} must be at most {most}$"):
        make(**{name: most + 1})


@pytest.mark.parametrize("name", SECONDS)
def test_a_nan_is_no_number(name: str) -> None:
    """It compares false with every bound."""
    with pytest.raises(ValueError, match=f"^{name} must be a number$"):
        make(**{name: math.nan})


@pytest.mark.parametrize(
    ("names", "wrong", "kind"),
    [
        (SECONDS, ["1", None, True, [1]], "a number"),
        (COUNTS, ["1", None, True, 1.0, math.nan, math.inf], "a whole number"),
        (OPTIONAL, ["1", True, 1.0, math.inf], "a whole number, or None"),
        (["listing", "fast_lane"], ["yes", 1, None], "true or false"),
        (["host", "prefix", "charset"], [b"a", 1, None, ["a"]], "a string"),
        (LISTS, [None, 5, b"a", {"a"}, [5], ["*.a: B: c", None]], "a list of strings"),
        (["root"], [None, 5, b"a", ["a"]], "a path"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_types_are_checked(names: list[str], wrong: list[Any], kind: str) -> None:
    for name, value in itertools.product(names, wrong):
        with pytest.raises(ValueError, match=f"^{name} must be {kind}$"):
            make(**{name: value})


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_bound_may_be_none(name: str) -> None:
    assert getattr(make(**{name: None}), name) is None
    more = WITH_REDIRECT if name == "redirect_http" else {}
    assert getattr(make(**{name: 1}, **more), name) == 1
    with pytest.raises(ValueError, match=f"^{name} must be at least 1$"):
        make(**{name: 0})


def test_whole_seconds_are_seconds() -> None:
    assert Config(head_timeout=5).head_timeout == 5


@pytest.mark.parametrize("name", SECONDS)
def test_a_deadline_may_be_never(name: str) -> None:
    assert getattr(make(**{name: math.inf}), name) == math.inf


def test_choices() -> None:
    for gate in ("auto", "mincore", "nowait", "always", "never"):
        assert make(gate=gate).gate == gate
    for etag in ("mtime", "ctime", "digest", "none"):
        assert make(etag=etag).etag == etag
    with pytest.raises(ValueError, match=r"^etag must be one of mtime, ctime, digest, none$"):
        make(etag="inode")
    for helpers in ("thread", "process"):
        assert make(helpers=helpers).helpers == helpers
    with pytest.raises(
        ValueError, match=r"^gate must be one of auto, mincore, nowait, always, never$"
    ):
        make(gate="lies")
    with pytest.raises(ValueError, match=r"^helpers must be one of thread, process$"):
        make(helpers="elves")


@given(st.sampled_from([*SECONDS, *COUNTS]), st.floats(), st.integers())
def test_a_value_is_kept_or_refused(name: str, number: float, count: int) -> None:
    value = number if name in SECONDS else count
    least, most = FIELDS[name].metadata["least"], FIELDS[name].metadata.get("most", math.inf)
    if least <= value <= most:
        assert getattr(make(**{name: value}), name) == value
    else:
        with pytest.raises(ValueError, match=f"^{name} must be "):
            make(**{name: value})


def test_an_empty_root_is_none() -> None:
    """An unset variable of a shell must not publish the folder that one happens to be in."""
    with pytest.raises(ValueError, match="root must not be empty"):
        Config(root="")
    with pytest.raises(ValueError, match="root must not have a NUL in it"):
        Config(root="a\0b")


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_no_string(name: str) -> None:
    """Whose characters would be its members."""
    with pytest.raises(ValueError, match=f"^{name} must be a list of strings, not one string$"):
        make(**{name: "*"})


def test_what_no_answer_can_be_is_told_at_once() -> None:
    """Before the first request; tests/semantics/test_policy.py has all that cannot be."""
    with pytest.raises(ValueError, match=r"^immutable must not have an empty pattern$"):
        make(immutable=[""])


def test_what_it_says_of_the_answers() -> None:
    policy = make(
        precompressed=("gzip",),
        headers=("*: A: b",),
        immutable=("hashed",),
        cors=("https://a",),
        media_types=("*.x: a/b",),
        charset="latin-1",
        listing=True,
        fallback="/index.html",
        error_pages=("404=/404.html",),
    ).policy()
    assert policy.sidecars(b"a") == {b"gzip": b"a.gz"}
    assert policy.headers(b"a.0123abcd.js")[1:] == (
        (b"A", b"b"),
        (b"Cache-Control", b"max-age=31536000, immutable"),
    )
    assert policy.cors.headers(None) == ((b"Vary", b"Origin"),)
    assert policy.media_type(b"a.x") == b"a/b"
    assert policy.media_type(b"a.txt") == b"text/plain; charset=latin-1"
    assert policy.lists_directories
    assert (policy.fallback, policy.error_pages) == (b"index.html", {404: b"404.html"})


# ------------------------------------------------------------------ sites


async def api(exchange: object) -> None:
    """An application."""


def test_a_config_is_a_site_of_its_own() -> None:
    config = Config(root="/srv", prefix="/static/", fallback=api)
    assert list(config.all_sites) == [config]
    assert config.application is api
    assert config.policy().fallback is None
    assert Config(fallback="/index.html").application is None


def test_several_sites_stand_instead_of_one() -> None:
    sites = [Site("/a"), Site("/b", prefix="/b/"), Site("/c", hosts=["c.example"])]
    assert Config(sites=sites, port=0).all_sites == sites


@pytest.mark.parametrize(
    "settings",
    [{"root": "/srv"}, {"prefix": "/a"}, {"hosts": ["h"]}, {"listing": True}, {"fallback": api}],
)
def test_the_settings_of_a_site_cannot_be_beside_sites(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name} must be given to the sites, not beside them$"):
        make(sites=[Site("/a")], **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": None}, "sites must be a list of Site"),
        ({"sites": ["/a"]}, "sites must be a list of Site"),
        ({"sites": "/a"}, "sites must be a list of Site"),
        ({"sites": [Site("/a"), Site("/b")]}, "prefix must not be that of two sites: /"),
        ({"prefix": "a"}, "prefix must be the path of a folder, as in a URL, not 'a'"),
        (
            {"hosts": ["a:1"]},
            "hosts must be names or addresses, without a port; a wildcard is the whole first "
            r"label, \*.example.org; not 'a:1'",
        ),
        ({"hosts": "a"}, "hosts must be a list of strings, not one string"),
        ({"fallback": 5}, "fallback must be the path of a page, or an async callable"),
    ],
)
def test_sites_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(**settings)


def test_a_site_has_a_root() -> None:
    with pytest.raises(TypeError):
        Site()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="root must not be empty"):
        Site("")
    with pytest.raises(ValueError, match="must be a list of strings"):
        Site("/a", cors="*")


async def _asynchronous(answer: Answered) -> None: ...


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"on_request": 3}, "on_request must be a function"),
        ({"on_request": _asynchronous}, "on_request must be a function"),
        ({"sites": [Config()]}, "sites must be a list of Site"),
        ({"sites": Site("a")}, "sites must be a list of Site"),
    ],
)
def test_what_is_for_programs_is_checked_too(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Config(**settings)


# ------------------------------------------------------------------ TLS, and its listeners

PAIR: dict[str, Any] = {"tls_cert": "c.pem", "tls_key": "k.pem"}
REDIRECT = "redirect_http must be given with tls_cert, and with a plain bind beside another one"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"redirect_http": 443, "hosts": ["a"]}, REDIRECT),
        ({"redirect_http": 443, "hosts": ["a"], **PAIR}, REDIRECT),
        ({"redirect_http": 443, "hosts": ["a"], "bind": ["*:80,plain"]}, REDIRECT),
        ({**WITH_REDIRECT, "redirect_http": 443, "hosts": []}, "redirect_http .* with hosts: "),
        ({**PAIR, "bind": ["*:80,plain"]}, "tls_cert must be given with a bind that is not plain"),
        (
            {"bind": ["*:443,client-ca=a.pem"]},
            r"bind must not be '\*:443,client-ca=a\.pem' without tls_cert and tls_key",
        ),
        (
            {"bind": ["*:80"], "only_at": ["*:8"]},
            r"only_at must be among the binds, \*:80; not '\*:8'",
        ),
        ({"only_at": ["*:8"]}, r"only_at must be among the binds, 127\.0\.0\.1:8000; not"),
        (
            {"bind": ["*:1", "*:2"], "sites": [Site("a"), Site("b", only_at=["*:2"])]},
            "prefix must not be that of two sites: /",
        ),
        ({"sites": [Site("a")], "hsts": "300"}, "hsts must be given to the sites, not beside"),
    ],
)
def test_listeners_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make(**settings)


def test_listeners_that_can_be() -> None:
    make(**WITH_REDIRECT, redirect_http=443)
    make(bind=["*:80,plain"])
    make(**PAIR, sites=[Site("a"), Site("b", prefix="/b")])
    two = [Site("a", only_at=["*:1"]), Site("b", only_at=["*:2"])]
    make(bind=["*:1", "*:2"], sites=two)
    config = make(bind=["*:1", "*:2,plain"], sites=[Site("a", hosts=["a"], **PAIR)])
    assert [has_tls(config, bind) for bind in config.binds] == [True, False]


@pytest.mark.parametrize("values", [{"tls_cert": "a"}, {"tls_key": "a"}])
def test_the_pair_of_a_site_is_whole(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^tls_(cert|key) must be given together with its"):
        Site("a", **values)


def test_the_redirect_has_a_port_that_need_not_be_said() -> None:
    options = ["--tls-cert=c", "--tls-key=k", "--bind=*:443", "--bind=*:80,plain", "--hosts=a"]
    assert cli.parse([*options, "--redirect-http"]).config.redirect_http == 443
    assert cli.parse([*options, "--redirect-http", "8443"]).config.redirect_http == 8443
    assert cli.parse(options).config.redirect_http is None
