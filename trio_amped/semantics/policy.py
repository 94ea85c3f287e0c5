"""Owns what whoever runs the server has chosen: fields and media types by glob, pages. Pure."""

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from .cors import Cors
from .errors import NOSNIFF, Headers, HttpError
from .globs import HASHED, Glob, has_content_hash, split_rule
from .media_types import is_compressed
from .media_types import media_type as media_type_of_name
from .naming import Naming, SlashMode
from .redirects import Redirects
from .target import parse_target

SUFFIXES: Final = {b"br": b".br", b"zstd": b".zst", b"gzip": b".gz"}
"""The content codings that a file may have ready beside it, and how its name ends then."""

_IMMUTABLE: Final = (b"Cache-Control", b"max-age=31536000, immutable")  # RFC 8246
_USUAL: Final = (NOSNIFF,)
_HEADER_FORM: Final = "GLOB: Name: value"
_HSTS: Final = b"Strict-Transport-Security"
_HSTS_FORM: Final = "SECONDS[; includeSubDomains][; preload]"
_DIRECTIVES: Final = {"includesubdomains": "includeSubDomains", "preload": "preload"}
_A_YEAR: Final = 31_536_000  # seconds
_TYPE_FORM: Final = "GLOB: TYPE/SUBTYPE"
_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
_FIELD_VALUE: Final = re.compile(r"[\t -~]*")
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+\-]+/[A-Za-z0-9!#$&^_.+\-]+([ \t]*;[ -~]*)?")
_MOST_INDEXES: Final = 8  # each may be a look at the disk
# Codecs of Python for text, which no client knows.
_NO_CHARSETS: Final = frozenset(
    {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "charmap", "undefined"}
)
# What the framing, the file or another option decides.
_OURS: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "age", "date", "location", "accept-ranges", "etag", "last-modified"}
    | {"content-encoding", "content-length", "content-range", "content-type"}
)


class Policy:
    """The choices of a Config, ready for use. Raises ValueError, naming the option first."""

    def __init__(
        self,
        *,
        precompressed: Sequence[str] = (),
        headers: Sequence[str] = (),
        immutable: Sequence[str] = (),
        cors: Sequence[str] = (),
        media_types: Sequence[str] = (),
        charset: str = "utf-8",
        listing: bool = False,
        fallback: str | None = None,
        error_pages: Sequence[str] = (),
        hidden: Sequence[str] = (),
        hsts: str | None = None,
        index: Sequence[str] = ("index.html",),
        clean_urls: bool = False,
        trailing_slash: SlashMode = "folder",
        redirects: Sequence[str] = (),
    ) -> None:
        self.lists_directories = listing
        with _option("precompressed"):
            self._codings = tuple(map(_coding, precompressed))
        with _option("headers"):
            self._header_rules = tuple(map(_header_rule, headers))
        with _option("hsts"):
            self.hsts: Headers = () if hsts is None else ((_HSTS, _hsts(hsts)),)
            """Strict-Transport-Security, for any answer by TLS (RFC 6797 7.1, 7.2)."""
            names = [name.lower() for _, (name, _) in self._header_rules]
            if self.hsts and _HSTS.lower() in names:
                raise ValueError("must not be given beside a header rule for the same field")
        with _option("immutable"):
            self._hashed_are_immutable = HASHED in immutable
            self._immutable = tuple(Glob(each) for each in immutable if each != HASHED)
        with _option("cors"):
            self.cors = Cors(cors)
        with _option("media_types"):
            self._media_type_rules = tuple(map(_media_type_rule, media_types))
        with _option("charset"):
            self._charset = _charset(charset)
        with _option("fallback"):
            self.fallback = None if fallback is None else _page(fallback)
        with _option("error_pages"):
            self.error_pages: Mapping[int, bytes] = dict(map(_error_page, error_pages))
        with _option("hidden"):
            self.shown = frozenset(map(_hidden_name, hidden))
            """The names that are served though they begin with a dot."""
        with _option("index"):
            self.naming = Naming(_indexes(index), clean_urls, trailing_slash)
        with _option("redirects"):
            self.redirects = Redirects(redirects)

    def media_type(self, path: bytes) -> bytes:
        """The Content-Type of the file at `path`; the last rule that matches counts."""
        for glob, value in reversed(self._media_type_rules):
            if glob.matches(path):
                return value
        kind = media_type_of_name(path)
        if self._charset and kind.startswith(b"text/"):
            return b"%s; charset=%s" % (kind, self._charset)
        return kind

    def sidecars(self, path: bytes) -> dict[bytes, bytes]:
        """Where the file at `path` may be ready in each content coding, the preferred one first.

        Nowhere for what is compressed already, such as an image.
        """
        if not self._codings or is_compressed(media_type_of_name(path)):
            return {}
        return {coding: path + SUFFIXES[coding] for coding in self._codings}

    def headers(self, path: bytes) -> Headers:
        """The fields of any good answer about the file at `path`.

        A later rule replaces an earlier one; what is immutable is so whatever they say, since it
        is the exception from "*: Cache-Control: no-cache".
        """
        immutable = (_IMMUTABLE,) if self._is_immutable(path) else ()
        if not (immutable or self._header_rules):
            return _USUAL
        return self._with_rules(path, (NOSNIFF,), immutable)

    def listing_headers(self, path: bytes, defaults: Headers) -> Headers:
        """The same for a listing of the directory at `path`, which has `defaults` and changes."""
        return self._with_rules(path + b"/" if path else b"", (NOSNIFF, *defaults), ())

    def _with_rules(self, path: bytes, before: Headers, after: Headers) -> Headers:
        rules = (field for glob, field in self._header_rules if glob.matches(path))
        fields = {name.lower(): (name, value) for name, value in (*before, *rules, *after)}
        return tuple((name, value) for name, value in fields.values() if value)

    def _is_immutable(self, path: bytes) -> bool:
        if self._hashed_are_immutable and has_content_hash(path):
            return True
        return any(glob.matches(path) for glob in self._immutable)


@contextmanager
def _option(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _coding(name: str) -> bytes:
    known = {coding.decode(): coding for coding in SUFFIXES}
    if name not in known:
        raise ValueError(f"must be among {', '.join(known)}, not {name!r}")
    return known[name]


def _header_rule(rule: str) -> tuple[Glob, tuple[bytes, bytes]]:
    glob, field = split_rule(rule, _HEADER_FORM)
    name, colon, value = field.partition(":")
    value = value.strip(" \t")
    if not colon or not name:
        raise ValueError(f"must be {_HEADER_FORM}, not {rule!r}")
    if not _FIELD_NAME.fullmatch(name):  # RFC 9110 5.6.2
        raise ValueError(f"must have a name of letters, digits and -, not {name!r}, in {rule!r}")
    if not _FIELD_VALUE.fullmatch(value):
        raise ValueError(f"must have a value of visible ASCII, not {value!r}, in {rule!r}")
    if name.lower() in _OURS:
        raise ValueError(f"must not set {name}: the server itself does")
    return glob, (name.encode(), value.encode())


def _hsts(text: str) -> bytes:
    """Return the value of the field of RFC 6797 6.1, in its usual spelling."""
    seconds, *words = (each.strip() for each in text.split(";"))
    wanted = [word.lower() for word in words]
    unknown = set(wanted) - _DIRECTIVES.keys()
    if not re.fullmatch("[0-9]{1,10}", seconds) or unknown or len(set(wanted)) < len(wanted):
        raise ValueError(f"must be {_HSTS_FORM}, not {text!r}")
    if "preload" in wanted and (int(seconds) < _A_YEAR or "includesubdomains" not in wanted):
        # Browsers take no other host into the list that they are shipped with (hstspreload.org).
        raise ValueError(f"must be at least {_A_YEAR}; includeSubDomains with preload")
    return "; ".join([f"max-age={int(seconds)}", *(_DIRECTIVES[word] for word in wanted)]).encode()


def _media_type_rule(rule: str) -> tuple[Glob, bytes]:
    glob, value = split_rule(rule, _TYPE_FORM)
    if not _MEDIA_TYPE.fullmatch(value):
        raise ValueError(f"must be {_TYPE_FORM}, not {rule!r}")
    return glob, value.encode()


def _charset(name: str) -> bytes:
    if name and not (_FIELD_NAME.fullmatch(name) and _is_encoding(name)):
        raise ValueError(f"must be a character encoding such as utf-8, or empty, not {name!r}")
    return name.encode()


def _is_encoding(name: str) -> bool:
    """Return whether Python knows it as a character encoding, and not as another codec (hex)."""
    try:
        return codecs.lookup(name).name not in _NO_CHARSETS and "".encode(name) is not None
    except (LookupError, ValueError):
        return False


def _hidden_name(name: str) -> bytes:
    if name in (".", "..") or not name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"must have names that begin with a dot, such as .treeinfo, not {name!r}")
    return name.encode("utf-8", "surrogateescape")


def _indexes(names: Sequence[str]) -> tuple[bytes, ...]:
    for name in names:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ValueError(f"must be names of files, such as index.html, not {name!r}")
    if not 0 < len(names) <= _MOST_INDEXES:
        raise ValueError(f"must be 1 to {_MOST_INDEXES} names of files, not {len(names)}")
    return tuple(name.encode("utf-8", "surrogateescape") for name in names)


def _page(target: str) -> bytes:
    """The path of a page that is given as in a URL: "/404.html"."""
    try:
        page = parse_target(target.encode("utf-8", "surrogateescape"))
    except HttpError:
        page = None
    if page is None or page.is_directory or page.query is not None or target[0] != "/":
        raise ValueError(f"must be the path of a file below the root, as in a URL, not {target!r}")
    return page.path


def _error_page(rule: str) -> tuple[int, bytes]:
    status, equals, target = rule.partition("=")
    if not equals or not re.fullmatch("[45][0-9][0-9]", status):
        raise ValueError(f"must be STATUS=/PAGE with a status from 400 to 599, not {rule!r}")
    return int(status), _page(target)
