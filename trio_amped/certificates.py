"""The certificates and keys of a server: read, tried, and read again when the files change.

Reading waits for the disk, so the event loop has a thread do it. Awaits that thread.
"""

import contextlib
import errno
import json
import logging
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, TypeAlias

import trio

from .config import Config
from .places import has_tls, is_at, pair_of, pairs_of
from .semantics.printable import printable
from .semantics.routing import at_host, read_hosts

log = logging.getLogger("trio_amped")

LOOK: Final = 10.0  # seconds between looks whether the files have changed
_SOON: Final = 14 * 24 * 3600.0  # seconds; those who renew certificates do so earlier
_WHAT_TO_DO: Final = "see --tls-cert and --tls-key"
_OF_CLIENTS: Final = "see the option client-ca of --bind"

# What is before, between and after the blocks of PEM is for people, in any encoding (RFC 7468, 2).
_BLOCK: Final = re.compile(
    rb"^-----BEGIN ((?:X509 )?CERTIFICATE)-----.*?^-----END \1-----", re.M | re.S
)

_Stamps: TypeAlias = tuple[tuple[int, int, int, int], ...]
"""Device, inode, ctime and size of each file."""

Facts: TypeAlias = Mapping[str, Any]


class CertificateError(OSError):
    """A certificate, or its key, that cannot be used: a sentence for the user."""


class _Encrypted(ValueError):
    """A key that has a passphrase."""


class _Read(NamedTuple):
    """What was in the files of a pair: the certificate, the key, each file of authorities."""

    stamps: _Stamps
    texts: Sequence[bytes]


class Pair:
    """A certificate, with its key, in the contexts of new connections.

    A context has TLS 1.2 and 1.3 (1.3 alone where clients have certificates), and HTTP/1.1 by ALPN
    (RFC 7301); no renegotiation, in which a client of 1.2 could ask for one handshake after the
    other. Session tickets are OpenSSL's: their keys are made with the context, so each process has
    its own, and after a reload none is known.
    """

    def __init__(
        self,
        certificate: str,
        key: str,
        authorities: Sequence[str] = (),
        read: _Read | None = None,
    ) -> None:
        """Read the files, PEM all: the certificate is followed by those of its issuers.

        `authorities`: files of those who have signed the certificates of clients, for a context
        each. `read`: what another process has read and tried; nothing is read then. Waits for the
        disk. Raises CertificateError.
        """
        self.certificate = certificate
        """The path of its file."""
        self._key = key
        self._authorities = authorities
        self.contexts: dict[str, ssl.SSLContext] = {}
        """By the authorities of clients; "": for clients without a certificate."""
        self.facts: Facts = {}
        """What the certificate says; see SSLObject.getpeercert."""
        self.read = _Read((), ())
        """What the contexts are made of."""
        self._refused: _Stamps = ()
        self.is_watched = True
        if read is None:
            self.reload()
        else:  # one that has expired since is used, as by those who have it already
            self.contexts, self.read = self._contexts(read.texts), read

    def reload(self) -> None:
        """Read the files anew, for connections to come. Waits for the disk.

        Raises CertificateError, and then all stays as it is: of two files that are replaced, one is
        so before the other. `reload` again, later.
        """
        stamps = self._look()
        of_pair = [_text(path, _WHAT_TO_DO) for path in (self.certificate, self._key)]
        of_clients = [_text(path, _OF_CLIENTS) for path in self._authorities]
        read = _Read(stamps, [*of_pair, *of_clients])
        contexts = self._contexts(read.texts)
        self.facts = _try(contexts[""], self.certificate, read.texts[0])
        self.contexts, self.read, self._refused = contexts, read, ()

    def _contexts(self, texts: Sequence[bytes]) -> dict[str, ssl.SSLContext]:
        """Raises CertificateError."""
        contexts = {"": new_context()}
        self._load(contexts[""], texts)
        for path, text in zip(self._authorities, texts[2:], strict=True):
            contexts[path] = new_context()
            self._load(contexts[path], texts)
            _ask_clients(contexts[path], path, text)
        return contexts

    @property
    def _files(self) -> Sequence[str]:
        return self.certificate, self._key, *self._authorities

    def _load(self, context: ssl.SSLContext, texts: Sequence[bytes]) -> None:
        try:
            with _in_memory(texts[0]) as certificate, _in_memory(texts[1]) as key:
                context.load_cert_chain(certificate, key, password=_no_password)
        except ssl.SSLError as error:
            raise CertificateError(_explain(error, self.certificate, self._key)) from None
        except _Encrypted:
            why = f"the key {self._key} is encrypted; store it without a passphrase"
            raise CertificateError(why) from None
        except (OSError, ValueError, TypeError) as error:
            why = f"cannot read {self.certificate} and {self._key}: {error}"
            raise CertificateError(f"{why}; {_WHAT_TO_DO}") from error

    def watch_if_allowed(self) -> None:
        """Watch the files only if this process may still open them, which has given up rights.

        What is missing may be on its way. Waits for the disk.
        """
        for path in self._files:
            try:
                with open(path, "rb"):
                    pass
            except PermissionError:
                self.is_watched = False
            except OSError:
                pass

    def _look(self) -> _Stamps:
        """Return the stamps of the files; what is missing is found when it is read."""
        stamps = []
        for path in self._files:
            with contextlib.suppress(OSError):
                status = os.stat(path)
                stamps.append((status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size))
        return tuple(stamps)

    def reload_if_changed(self) -> bool:
        """Reload where the files are not those that were read; return whether that was done.

        Waits for the disk.
        """
        stamps = self._look()
        if stamps == self.read.stamps:
            return False
        try:
            self.reload()
        except CertificateError as error:
            if stamps != self._refused:
                log.error("the certificate stays what it was: %s", printable(str(error)))
        except Exception:  # it must not end the server
            if stamps != self._refused:
                log.exception("a bug: the certificate stays what it was")
        else:
            log.info("new connections get the new certificate in %s", printable(self.certificate))
            return True
        self._refused = stamps
        return False

    def reload_quietly(self) -> None:
        """`reload_if_changed`, by a supervisor: its workers say how it went. Waits for the disk."""
        if self._look() != self.read.stamps:
            with contextlib.suppress(Exception):
                self.reload()


class Certificates:
    """The certificates of a server, one of which each client is shown: by the name it asks for."""

    def __init__(self, config: Config, text: str | None = None) -> None:
        """Read all files; or take what another process has `packed` in a text.

        Waits for the disk. Raises CertificateError.
        """
        authorities = tuple(
            dict.fromkeys(each.client_ca for each in config.binds if each.client_ca)
        )
        files = pairs_of(config)
        read = [None] * len(files) if text is None else _unpacked(text)
        self._pairs = {
            each: Pair(*each, authorities, of_it) for each, of_it in zip(files, read, strict=True)
        }
        self._default = self._pairs[files[0]]
        self._by_host = {
            host: self._pairs[pair]
            for site in config.sites
            if (pair := pair_of(site))
            for host in read_hosts(site.hosts)
        }

    def context(self, client_ca: str = "") -> ssl.SSLContext:
        """Return the context of a new connection, for clients of these authorities.

        It never changes to one that asks clients for less: OpenSSL takes `verify_mode` from here
        when a connection begins, and the certificate and the authorities when the name is known.
        """
        context = self._default.contexts[client_ca]
        if len(self._pairs) > 1 and context.sni_callback is None:

            def show(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
                connection.context = self._pair_for(name).contexts[client_ca]

            context.sni_callback = show
        return context

    def _pair_for(self, name: str | None) -> Pair:
        """Return what a client is shown that asks for this name (RFC 6066 3); None: for none."""
        if name is None:
            return self._default
        return at_host(self._by_host, name.lower().encode()) or self._default

    def watch_if_allowed(self) -> None:
        """Watch only the files that this process may still open. Waits for the disk."""
        for pair in self._pairs.values():
            pair.watch_if_allowed()

    @property
    def is_watched(self) -> bool:
        """Whether this process may read all files again."""
        return all(pair.is_watched for pair in self._pairs.values())

    def oddities(self, config: Config, now: float) -> Iterator[str]:
        """Say which certificates end soon, or are for no host of a site. `now`: of time.time()."""
        for (certificate, _), pair in self._pairs.items():
            end = pair.facts["notAfter"]
            if ssl.cert_time_to_seconds(end) < now + _SOON:
                yield f"the certificate {printable(certificate)} ends at {end}; renew it"
        secure = [bind for bind in config.binds if has_tls(config, bind)]
        for site in config.all_sites:
            if not site.hosts or not any(is_at(site, bind) for bind in secure):
                continue
            shown = {host: self._shown_at(host) for host in read_hosts(site.hosts)}
            if not any(_fits(host, name) for host in shown for name in _names(shown[host].facts)):
                path = printable(next(iter(shown.values())).certificate)
                hosts = ", ".join(map(printable, site.hosts))
                yield f"the certificate {path} is for no host of its site: {hosts}"

    def _shown_at(self, host: bytes) -> Pair:
        return self._by_host.get(host) or at_host(self._by_host, host) or self._default

    async def watch(self) -> None:
        """Reload whenever files have changed, for ever, where that is allowed. A pair that cannot
        be used is tried again, and said once."""
        while any(pair.is_watched for pair in self._pairs.values()):
            await trio.sleep(LOOK)
            await _in_thread(self.reload_if_changed)

    async def keep_up(self) -> None:
        """Have what is `packed` be the last that could be used. A checkpoint, for a supervisor."""
        await _in_thread(self._reload_quietly)

    def _reload_quietly(self) -> None:
        for pair in self._pairs.values():
            pair.reload_quietly()

    def packed(self) -> str:
        """Return what was read as one line, for a worker: the files may be others by then.

        The keys are in it.
        """
        read = [pair.read for pair in self._pairs.values()]
        return json.dumps([[x.stamps, [text.decode("latin-1") for text in x.texts]] for x in read])

    def reload_if_changed(self) -> None:
        """Reload each pair whose files have changed. Waits for the disk."""
        for pair in self._pairs.values():
            if pair.is_watched:
                pair.reload_if_changed()


def _names(facts: Facts) -> Sequence[bytes]:
    """Return the names and addresses that a certificate is for, as `read_hosts` has them."""
    return [
        (f"[{ip_address(value.strip())}]" if ":" in value else value.lower()).encode()
        for kind, value in facts.get("subjectAltName", ())
        if kind in ("DNS", "IP Address")
    ]


def _fits(host: bytes, name: bytes) -> bool:
    """Return whether a host and a name of a certificate may be one; either can be a wildcard."""
    return host == name or any(at_host({x: True}, y) for x, y in ((host, name), (name, host)))


def _unpacked(text: str) -> list[_Read]:
    return [
        _Read(tuple(map(tuple, stamps)), [each.encode("latin-1") for each in texts])
        for stamps, texts in json.loads(text)
    ]


async def _in_thread(look: Callable[[], None]) -> None:
    """Look at files; a disk that hangs has this one thread, since it is waited for."""
    with contextlib.suppress(RuntimeError):  # no thread can be started; later, perhaps
        thread = trio.CapacityLimiter(1)
        await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=thread)


def load(config: Config) -> Certificates | None:
    """Return what a config asks for; None: no TLS. Waits for the disk. Raises CertificateError."""
    return Certificates(config) if pairs_of(config) else None


async def read(config: Config) -> Certificates | None:
    """`load` in a thread, which is left to itself when this is cancelled. A checkpoint.

    Raises CertificateError; OSError: there is no thread.
    """
    thread = trio.CapacityLimiter(1)  # a disk that hangs has this one thread
    try:
        return await trio.to_thread.run_sync(load, config, abandon_on_cancel=True, limiter=thread)
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from None


def new_context() -> ssl.SSLContext:
    """Return the context of a server, without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _text(path: str, what_to_do: str) -> bytes:
    """Return what is in a file. Waits for the disk. Raises CertificateError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        why = f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        raise CertificateError(f"{why}; {what_to_do}") from error


@contextlib.contextmanager
def _in_memory(text: bytes) -> Iterator[str]:
    """Inside, a text is in a file, since OpenSSL reads keys from files alone. Raises OSError."""
    with open(os.memfd_create("trio_amped certificate"), "wb", buffering=0) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        yield f"/proc/self/fd/{file.fileno()}"


def _ask_clients(context: ssl.SSLContext, authorities: str, text: bytes) -> None:
    """Have a context refuse clients without a certificate of these, whose text is given.

    Raises CertificateError.

    Without tickets: whoever came back with one would not be asked again (RFC 8446 2.2). The option
    alone would leave tickets whose state is here. Nor TLS 1.2, where OpenSSL keeps sessions for
    clients who come back with their number (RFC 5246 7.3): the ssl module has no switch for that.
    """
    try:
        with _in_memory(text) as path:
            context.load_verify_locations(path)
    except ssl.SSLError:
        why = f"no certificates in PEM: {authorities}"
        raise CertificateError(f"{why}; {_OF_CLIENTS}") from None
    except (OSError, ValueError, TypeError) as error:
        raise CertificateError(f"cannot read {authorities}: {error}; {_OF_CLIENTS}") from error
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _no_password() -> str:
    raise _Encrypted


def _explain(error: ssl.SSLError, certificate: str, key: str) -> str:
    """Return what is wrong, and how to mend it."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key {key} is not that of the certificate {certificate}; {_WHAT_TO_DO}"
    reason = f" ({error.reason.replace('_', ' ').lower()})" if error.reason else ""
    return f"no certificate and key in PEM: {certificate}, {key}{reason}; {_WHAT_TO_DO}"


def _try(context: ssl.SSLContext, certificate: str, text: bytes) -> Facts:
    """Shake hands with ourselves, as a client that trusts this certificate alone; return what the
    certificate says.

    It finds a certificate that has expired, or is not one of a server, as clients will. Raises
    CertificateError.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        # Not its issuers: one that has expired may have a namesake that clients know.
        client.load_verify_locations(cadata=_first(text))
        return _shake_hands(client, context).getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        why = f"the certificate {certificate} cannot be used: {error.verify_message}"
        raise CertificateError(f"{why}; renew it") from None
    except (OSError, ValueError, TypeError) as error:
        why = f"the certificate {certificate} cannot be used: {error}"
        raise CertificateError(f"{why}; {_WHAT_TO_DO}") from None


def _first(text: bytes) -> str:
    """Return the first certificate of a text in PEM. Raises ValueError."""
    found = _BLOCK.search(text)
    if found is None:  # OpenSSL has found one, of a kind of its own
        raise ValueError("no certificate in PEM is in it")
    return found[0].decode("ascii")


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLObject:
    """Do a whole handshake in memory; return the end of the client. Raises ssl.SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(back, there)
    ends = [ours, server.wrap_bio(there, back, server_side=True)]
    while ends:
        end = ends.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            ends.append(end)
    return ours
