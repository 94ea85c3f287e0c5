"""The settings, each with its description (description.py), of which all else is made. Pure."""

import dataclasses
import inspect
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from .binds import Bind, Unix, read_binds, short_bind
from .description import check, settings_of
from .description import setting as _setting
from .places import check_places
from .semantics.access_line import NAMED, LogFormat
from .semantics.cors import Cors
from .semantics.forwarding import ForwardedFields, Forwarding
from .semantics.globs import HASHED
from .semantics.head import Limits
from .semantics.naming import SlashMode
from .semantics.networks import UNIX, Networks, read_network
from .semantics.policy import Policy
from .semantics.routing import Routes
from .semantics.validators import TagKind


class Answered(NamedTuple):
    """An answer that has ended, for a log of requests.

    `method`, `target`, `version` and the fields `host`, `referer` and `agent` as they were sent,
    but for bytes that a terminal might obey and bytes that are no UTF-8, which are escaped
    ("\\x1b"); "" where they could not be read, or are not there. `sent`: bytes that the client was
    sent, with its head; `body`: without. `seconds` from the end of the request's head to the
    end of the answer; `peer`: the address of the client, "" where it has none; `tls`: such as
    "TLSv1.3", "" without. `gate`: "lane" where the fast lane has answered at once, "resident" where
    a task has, and "helper" where the disk was waited for, for `waited` seconds. `head`: the head
    of the request, with all its fields, as it was received; nothing in it is escaped. `scheme`:
    "https" by TLS, or where a trusted proxy has told so; else "http".
    """

    method: str
    target: str
    status: int
    sent: int
    seconds: float
    peer: str
    body: int = 0
    version: str = ""
    host: str = ""
    referer: str = ""
    agent: str = ""
    tls: str = ""
    gate: str = "lane"
    waited: float = 0.0
    head: bytes = b""
    scheme: str = "http"


Application: TypeAlias = Callable[[Any], Awaitable[object]]
"""An async callable that answers one request: `async def api(exchange: Exchange) -> None`."""
LogLevel = Literal["debug", "info", "warning", "error"]
LogShape = Literal["text", "json"]
GateMode = Literal["auto", "mincore", "nowait", "always", "never"]
HelperKind = Literal["thread", "process"]


ROOTS: Final = "roots"
"""What stands for the roots themselves where folders are named to which workers are confined."""
_HOST, _PORT = "127.0.0.1", 8000
_POSITIVE: Final = 0.001  # seconds: the least that a deadline can be
_MOST: Final = (
    1 << 20
)  # of what takes a descriptor: as many as a process can have (proc(5), nr_open)


_OF_ALL_SITES: Final = {"tls_cert", "tls_key"}
"""The settings of a site that are allowed beside several as well."""


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and "\0" not in (os.fspath(value) or "\0")


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """One folder, where it is found, and how its files are answered: `Site(root, prefix=...)`.

    A request goes to the sites that name its host, or else to those that name none; among them to
    the one whose prefix is the longest that its path begins with. `fallback` is the path of a page,
    or an application: an async callable, which is given an `Exchange` for whatever is no file of
    the site, see `Exchange`.

    Raises ValueError, with a sentence for the user, for a value that cannot be.
    """

    root: str | os.PathLike[str] = dataclasses.field(metadata={"help": "the folder to serve"})
    _: dataclasses.KW_ONLY
    prefix: str = _setting(
        "/", "the path below which its files are, as in a URL: /static/", metavar="/PATH/"
    )
    hosts: Sequence[str] = _setting(
        (),
        "the names of its hosts, without a port, for any other host is 421; none: all hosts",
        separator=",",
        metavar="NAME,...",
    )

    precompressed: Sequence[str] = _setting(
        ("br", "zstd", "gzip"),
        "the content codings whose files beside a file (x.js.br, x.js.zst, x.js.gz) are sent to "
        "clients that accept them, the preferred one first; none: no such files",
        separator=",",
        metavar="CODING,...",
        reads={"accept_encoding": bool},
    )
    headers: Sequence[str] = _setting(
        (),
        "a field for the files that match, such as '*.woff2: Cache-Control: max-age=86400'; a "
        "pattern with a slash is matched with the whole path; an empty value takes a field away",
        option="header",
        metavar="'GLOB: NAME: VALUE'",
    )
    immutable: Sequence[str] = _setting(
        (),
        "what a browser may keep for ever, whatever --header says: the files that match, or "
        "without GLOB (in Python: 'hashed') those with a hash of their content in the name, such "
        "as app.3f2a9c1d.js",
        metavar="GLOB",
        bare=HASHED,
    )
    cors: Sequence[str] = _setting(
        (),
        "let scripts of this origin read the files, or without ORIGIN those of any site; as "
        "browsers write it: https://host in ASCII, a port only where it is not the usual one",
        metavar="ORIGIN",
        bare="*",
        reads={"origin": lambda origins: Cors(origins).reads_origin},
    )
    media_types: Sequence[str] = _setting(
        (),
        "the Content-Type of the files that match, such as '*.foo: application/x-foo'",
        option="media-type",
        metavar="'GLOB: TYPE'",
    )
    charset: str = _setting("utf-8", "the character encoding of text files; '': do not say")
    listing: bool = _setting(
        False, "show directories that have no page (see --index)", reads={"accept": bool}
    )
    fallback: str | Application | None = _setting(
        None,
        "the page for browsers at paths where no file is, such as /index.html for an application "
        "of a single page",
        metavar="/PAGE",
        reads={"accept": lambda fallback: isinstance(fallback, str)},
    )
    error_pages: Sequence[str] = _setting(
        (),
        "the page to send with an error, such as 404=/404.html; a request that cannot be read "
        "gets a line of text",
        option="error-page",
        metavar="STATUS=/PAGE",
    )
    hidden: Sequence[str] = _setting(
        (),
        "names that begin with a dot and are served all the same, such as .zarray,.treeinfo; all "
        "others are 404 and in no listing, but for /.well-known/",
        separator=",",
        metavar="NAME,...",
    )

    tls_cert: str | os.PathLike[str] | None = _setting(
        None,
        "serve by TLS, with the certificate in this file (PEM; followed by those of its issuers, "
        "the nearest first), which is read again when it is replaced; of several sites, each may "
        "have one for clients that ask for its hosts, and the first is for all others; an ECDSA "
        "key costs half of what an RSA key costs",
        metavar="FILE",
    )
    tls_key: str | os.PathLike[str] | None = _setting(
        None, "the key of that certificate (PEM, without a passphrase)", metavar="FILE"
    )
    hsts: str | None = _setting(
        None,
        "have browsers use nothing but TLS for these hosts, for so long (Strict-Transport-Security)"
        "; a mistake lasts as long: begin with 300",
        metavar="SECONDS[;includeSubDomains][;preload]",
    )
    only_at: Sequence[str] = _setting(
        (),
        "the addresses, as --bind has them, at which alone the files are; elsewhere its hosts are "
        "421; none: at all",
        separator=",",
        metavar="ADDRESS,...",
    )

    index: Sequence[str] = _setting(
        ("index.html",),
        "the names of the page of a folder; of several the first one that is there",
        separator=",",
        metavar="NAME,...",
    )
    clean_urls: bool = _setting(
        False,
        "leave .html and the name of a folder's page out of URLs: /about is about.html, and "
        "/about.html is redirected there",
    )
    trailing_slash: SlashMode = _setting(
        "folder",
        "which URLs of pages end in a slash: folder: those of folders, to which others are "
        "redirected; never: none, and those that do are redirected; keep: any, as it is asked for",
    )
    redirects: Sequence[str] = _setting(
        (),
        "redirect a path, such as '/old /new', or all below it: '/old/* /new/:splat 308', before "
        "files are looked for; TO may be a URL; the first rule that matches counts; without STATUS "
        "301, with the query unless TO has one",
        option="redirect",
        metavar="'FROM TO [STATUS]'",
    )

    def __post_init__(self) -> None:
        check(self)
        if not isinstance(self.root, str | os.PathLike):
            raise ValueError("root must be a path")
        if not os.fspath(self.root):
            raise ValueError("root must not be empty")
        if "\0" in os.fspath(self.root):
            raise ValueError("root must not have a NUL in it")
        if not (self.fallback is None or isinstance(self.fallback, str) or callable(self.fallback)):
            raise ValueError("fallback must be the path of a page, or an async callable")
        Routes([(self.hosts, self.prefix)])
        self._check_pair()
        self.policy()

    def _check_pair(self) -> None:
        for name in ("tls_cert", "tls_key"):
            value = getattr(self, name)
            if value is not None and not _is_path(value):
                raise ValueError(f"{name} must be a path")
        if (self.tls_cert is None) != (self.tls_key is None):
            if self.tls_cert is None:
                raise ValueError("tls_key must be given together with its certificate")
            raise ValueError("tls_cert must be given together with its key")

    @property
    def application(self) -> Application | None:
        """The fallback, if it is one that can be called."""
        return self.fallback if callable(self.fallback) else None

    def policy(self) -> Policy:
        """What these settings say of the answers, ready for use."""
        return Policy(
            precompressed=self.precompressed,
            headers=self.headers,
            immutable=self.immutable,
            cors=self.cors,
            media_types=self.media_types,
            charset=self.charset,
            listing=self.listing,
            fallback=self.fallback if isinstance(self.fallback, str) else None,
            error_pages=self.error_pages,
            hidden=self.hidden,
            hsts=self.hsts,
            index=self.index,
            clean_urls=self.clean_urls,
            trailing_slash=self.trailing_slash,
            redirects=self.redirects,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Config(Site):
    """How to serve: the settings of one site, or several `sites`, and those of the server.

    Times are in seconds, sizes in bytes. Raises ValueError, with a sentence for the user, for a
    value that cannot be.
    """

    root: str | os.PathLike[str] = _setting(".", "the folder to serve")
    host: str = _setting(_HOST, "the address or name to listen on")
    port: int = _setting(_PORT, "the port to listen on; 0: any free one", least=0, most=65535)
    bind: Sequence[str] = _setting(
        (),
        "where to listen, instead of --host and --port: HOST:PORT, [IPV6]:PORT, *:PORT (all "
        "addresses), unix:/PATH, fd:NUMBER, systemd or systemd:NAME (sockets that it passes); "
        "options follow: ,ipv6only (else [::] is for IPv4 too) ,mode=660 ,owner=USER:GROUP ,proxy "
        "(see --trust) ,plain (no TLS) ,client-ca=FILE (who signs certificates of clients)",
        metavar="ADDRESS[,OPTION]...",
    )
    trust: Sequence[str] = _setting(
        (),
        "a network of proxies in front, such as 10.0.0.0/8, or one address, or unix (all who come "
        "by a UNIX socket): they say whose a connection is (PROXY protocol, where --bind has the "
        "option proxy), or else whose each request is (see --forwarded-fields)",
        metavar="NETWORK|unix",
    )
    forwarded_fields: ForwardedFields = _setting(
        "x-forwarded",
        "by which fields a proxy of --trust says whose a request is: x-forwarded "
        "(X-Forwarded-For, -Proto, -Host), or forwarded (Forwarded, RFC 7239); name what it "
        "writes, since it passes the other on as a client has sent it",
    )
    redirect_http: int | None = _setting(
        None,
        "have clients of plain binds ask again by TLS, at this port of the host that they have "
        "asked for, which must be among --hosts; of files, they get what proves to an authority "
        "that the host is ours (ACME): /.well-known/acme-challenge/",
        metavar="PORT",
        least=1,
        most=65535,
        bare="443",
    )
    sites: Sequence[Site] = _setting(
        (), "several sites, instead of the settings of one here", option=None
    )

    etag: TagKind = _setting(
        "mtime",
        "what entity tags of files are made of, beside the size: mtime; or ctime: that as well, "
        "which nobody can put back, and of which each copy of a file has its own; or digest: the "
        "content, up to 16 MiB, which is read before the first answer; or none: no tags. Where the "
        "mtime is a constant (Nix, ostree, npm, SOURCE_DATE_EPOCH), mtime means ctime",
    )
    gate: GateMode = _setting(
        "auto",
        "who says whether a part of a file is in memory: mincore where the kernel tells this "
        "user the truth, else nowait (reads that refuse to wait), else always (a helper reads "
        "first). never: nobody, and the event loop waits for the disk",
    )
    helpers: HelperKind = _setting("thread", "what waits for the disk: threads or processes")
    max_helpers: int = _setting(16, "at most so many helpers", least=1, most=1024)
    max_queue: int = _setting(
        1024, "misses that may wait for a helper; beyond: 503", least=1, most=1 << 30
    )
    revalidate: float = _setting(
        1.0,
        "the time after which it is asked again what a path leads to: that of the root, of a file "
        "that is kept open, of a precompressed file; and after which a listing is made anew",
        unit="seconds",
        least=0,
    )

    fast_lane: bool = _setting(
        True,
        "answer common requests without a task for each connection, and without h11",
    )
    max_open_files: int = _setting(
        10_000,
        "files that are kept open, with what is known of them, until they are not asked for",
        least=1,
        most=_MOST,
    )
    max_connections: int = _setting(
        4096, "open connections; idle ones give way, and the next ones queue", least=1, most=_MOST
    )
    max_connections_per_address: int | None = _setting(
        None,
        "open connections of one client address, or of one IPv6 network of 64 bits; the next ones "
        "are closed at once; behind a proxy only where it tells whose they are; none: any number",
        least=1,
        most=_MOST,
    )
    max_head: int = _setting(
        16 * 1024, "the largest request head", unit="bytes", least=256, most=1 << 20
    )
    max_target: int = _setting(
        8 * 1024, "the largest request target", unit="bytes", least=16, most=1 << 20
    )
    max_fields: int = _setting(100, "header fields of a request", least=1, most=10_000)

    head_timeout: float = _setting(
        10.0, "the time for a whole request head", unit="seconds", least=_POSITIVE
    )
    keep_alive_timeout: float = _setting(
        # Load balancers keep theirs for 60 s. The shorter side must be theirs: a request that is
        # sent on while we close is an error that its client sees.
        75.0,
        "the time that an idle connection is kept; behind a proxy, longer than its own (mostly 60)",
        unit="seconds",
        least=_POSITIVE,
    )
    send_timeout: float = _setting(
        30.0,
        "the time in which a client must take --send-minimum bytes",
        unit="seconds",
        least=_POSITIVE,
    )
    send_minimum: int = _setting(
        16 * 1024,
        "what a client must take, see --send-timeout",
        unit="bytes",
        least=1,
        most=1 << 30,
    )
    open_file_timeout: float = _setting(
        10.0, "the time for which a file is kept open that nobody asks for", unit="seconds", least=0
    )
    disk_timeout: float = _setting(
        30.0, "the time after which a miss is given up: 503", unit="seconds", least=_POSITIVE
    )
    drain_timeout: float = _setting(
        10.0, "the time for what is being sent when the server stops", unit="seconds", least=0
    )
    retire_timeout: float = _setting(
        600.0,
        "the time for the clients of a worker that has a successor: their downloads go on so long",
        unit="seconds",
        least=0,
    )

    access_log: str | os.PathLike[str] | None = _setting(
        None,
        "append a line for each answer to this file; -: write it to standard output",
        metavar="FILE|-",
    )
    access_log_format: str = _setting(
        "combined",
        f"what the lines have: {', '.join(NAMED)}, or a text with variables, which are named as "
        "those of nginx: '$remote_addr $request $status $request_time $gate'",
        metavar="NAME|FORMAT",
    )
    on_request: Callable[[Answered], object] | None = _setting(
        None,
        "called when an answer has ended, with an Answered; what it takes, all clients wait for",
        option=None,
    )

    def __post_init__(self) -> None:
        Site.__post_init__(self)
        _check_host(self.host)
        if self.access_log is not None and not _is_path(self.access_log):
            raise ValueError("access_log must be a path, or - for standard output")
        try:
            LogFormat(self.access_log_format)
        except ValueError as error:
            raise ValueError(f"access_log_format {error}") from None
        hook = self.on_request
        if hook is not None and (not callable(hook) or inspect.iscoroutinefunction(hook)):
            raise ValueError("on_request must be a function that is called, and not awaited")
        self._check_binds()
        self._check_trust()
        self._check_sites()
        check_places(self)

    def _check_binds(self) -> None:
        try:
            read_binds(self.bind)
        except ValueError as error:
            raise ValueError(f"bind {error}") from None
        if self.bind and (self.host, self.port) != (_HOST, _PORT):
            raise ValueError("bind must not be given beside host or port, which are short for it")

    def _check_sites(self) -> None:
        if not isinstance(self.sites, Sequence) or not all(
            type(each) is Site for each in self.sites
        ):
            raise ValueError("sites must be a list of Site")
        if not self.sites:
            return
        for name in settings_of(Site).keys() - _OF_ALL_SITES:
            if getattr(self, name) != settings_of(Config)[name].default:
                raise ValueError(f"{name} must be given to the sites, not beside them")

    @property
    def head_limits(self) -> Limits:
        """How large the head of a request may be."""
        return Limits(self.max_head, self.max_target, self.max_fields)

    def _check_trust(self) -> None:
        networks = [each for each in self.trust if each != UNIX]
        for network in networks:
            try:
                read_network(network)
            except ValueError as error:
                raise ValueError(f"trust must not be {network!r}: {error}") from None
        for bind in self.binds:
            if bind.proxy and not networks and not isinstance(bind.place, Unix):
                raise ValueError(
                    f"bind must not be {bind.text!r} without a network of proxies: name it by trust"
                )

    @property
    def trusted(self) -> Networks:
        """The networks of proxies that are believed."""
        networks = [read_network(each) for each in self.trust if each != UNIX]
        return Networks(networks, has_unix=UNIX in self.trust)

    @property
    def forwarding(self) -> Forwarding | None:
        """What reads whose the requests of proxies are; None where no proxy is trusted."""
        return Forwarding(self.trusted, self.forwarded_fields) if self.trust else None

    @property
    def binds(self) -> Sequence[Bind]:
        """Where to listen: `bind`, or without any `host` and `port`, which are short for one."""
        return read_binds(self.bind) or (short_bind(self.host, self.port),)

    @property
    def all_sites(self) -> Sequence[Site]:
        """What is served: the `sites`, or else the one that these settings are."""
        return self.sites or (self,)


def _check_host(host: str) -> None:
    """Raise ValueError for what is no address and no name, but a part of a URL."""
    name, _, port = host.rpartition(":")
    if not host:
        raise ValueError("host must not be empty; 0.0.0.0 is any address of IPv4, and :: of both")
    if host.startswith("["):
        bare = host[1:].partition("]")[0]
        raise ValueError(f"host must have no brackets, as in {bare}, not {host!r}")
    if port.isdecimal() and ":" not in name:
        raise ValueError(f"host must have no port: {name} and port {port}, not {host!r}")
    if "/" in host or not host.isprintable() or " " in host:
        raise ValueError(f"host must be an address or a name, not {host!r}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """How the program serves that is started from a command line: with which processes and rights.

    Raises ValueError, with a sentence for the user, for a value that cannot be.
    """

    config: str | None = _setting(
        None,
        "a file of TOML with settings, for what neither the command line nor the environment "
        "(TRIO_AMPED_PORT=80) says",
        metavar="FILE",
    )
    log_level: LogLevel = _setting("info", "how much to say on stderr; debug shows every request")
    log_format: LogShape = _setting(
        "text", "how to say that: lines of text, or an object of JSON on each line"
    )
    workers: int | Literal["auto"] = _setting(
        1,
        "processes that serve, each with helpers, limits and caches of its own; auto: one for each "
        "processor; more than one, or one with --user or --confine, are replaced, one by one, on "
        "SIGHUP, by which a single process reloads in place",
        metavar="N|auto",
        least=1,
        most=1024,
    )
    user: str | None = _setting(
        None,
        "serve as this user, without any right of root; a supervisor keeps those, and opens the "
        "port",
        metavar="NAME[:GROUP]",
    )
    confine: Sequence[str] = _setting(
        (),
        "open nothing but what is served, and write nothing (Landlock); FOLDER: nor what is below "
        "it, for a root that a link is switched to; without FOLDER (in a file: 'roots') the roots "
        "alone",
        metavar="FOLDER",
        bare=ROOTS,
    )

    def __post_init__(self) -> None:
        check(self)
