"""The certificate and key of a server: read, tried, and read again when the files change.

Reading waits for the disk, so the event loop has a thread do it. Awaits that thread.
"""

import contextlib
import errno
import logging
import os
import re
import ssl
from typing import Final, TypeAlias

import trio

from .config import Config
from .semantics.printable import printable

log = logging.getLogger("trio_amped")

_LOOK: Final = 10.0  # seconds between looks whether the files have changed
_WHAT_TO_DO: Final = "see --tls-cert and --tls-key"

# What is before, between and after the blocks of PEM is for people, in any encoding (RFC 7468, 2).
_BLOCK: Final = re.compile(
    rb"^-----BEGIN ((?:X509 )?CERTIFICATE)-----.*?^-----END \1-----", re.M | re.S
)

_Stamps: TypeAlias = tuple[tuple[int, int, int, int], ...]
"""Device, inode, ctime and size of each file."""


class CertificateError(OSError):
    """A certificate, or its key, that cannot be used: a sentence for the user."""


class _Encrypted(ValueError):
    """A key that has a passphrase."""


class Certificates:
    """A certificate, with its key, in the context of new connections.

    It has TLS 1.2 and 1.3, and HTTP/1.1 by ALPN (RFC 7301); no renegotiation, in which a client of
    1.2 could ask for one handshake after the other. Session tickets are OpenSSL's: their keys are
    made with the context, so each process has its own, and after a reload none is known.
    """

    def __init__(self, certificate: str, key: str) -> None:
        """Read the files, PEM both: the certificate is followed by those of its issuers.

        Waits for the disk. Raises CertificateError.
        """
        self._certificate = certificate
        self._key = key
        self._stamps: _Stamps = ()
        self._refused: _Stamps = ()
        self.is_watched = True
        self.reload()

    def reload(self) -> None:
        """Read the files anew, for connections to come. Waits for the disk.

        Raises CertificateError, and then all stays as it is: of two files that are replaced, one is
        so before the other. `reload` again, later.
        """
        stamps = self._look()
        context = new_context()
        self._load(context)
        _try(context, self._certificate)
        self.context, self._stamps, self._refused = context, stamps, ()

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except ssl.SSLError as error:
            raise CertificateError(_explain(error, self._certificate, self._key)) from None
        except OSError as error:  # which of them cannot be read is not said
            raise CertificateError(f"{self._unreadable()}; {_WHAT_TO_DO}") from error
        except _Encrypted:
            why = f"the key {self._key} is encrypted; store it without a passphrase"
            raise CertificateError(why) from None
        except (ValueError, TypeError) as error:
            why = f"cannot read {self._certificate} and {self._key}: {error}"
            raise CertificateError(f"{why}; {_WHAT_TO_DO}") from error

    def _unreadable(self) -> str:
        for path in (self._certificate, self._key):
            try:
                with open(path, "rb") as file:
                    file.read(1)
            except OSError as error:
                return f"cannot read {path}: {error.strerror}"
        return f"cannot read {self._certificate} and {self._key}"

    def watch_if_allowed(self) -> None:
        """Watch the files only if this process may still open them, which has given up rights.

        What is missing may be on its way. Waits for the disk.
        """
        for path in (self._certificate, self._key):
            try:
                with open(path, "rb"):
                    pass
            except PermissionError:
                self.is_watched = False
            except OSError:
                pass

    def _look(self) -> _Stamps:
        """Return the stamps of both files; what is missing is found when it is read."""
        stamps = []
        for path in (self._certificate, self._key):
            with contextlib.suppress(OSError):
                status = os.stat(path)
                stamps.append((status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size))
        return tuple(stamps)

    async def watch(self) -> None:
        """Reload whenever the files have changed, for ever. A pair that cannot be used is tried
        again, and said once."""
        thread = trio.CapacityLimiter(1)  # a disk that hangs has this one thread
        while True:
            await trio.sleep(_LOOK)
            with contextlib.suppress(RuntimeError):  # no thread can be started; later, perhaps
                await trio.to_thread.run_sync(
                    self.reload_if_changed, abandon_on_cancel=True, limiter=thread
                )

    def reload_if_changed(self) -> bool:
        """Reload where the files are not those that were read; return whether that was done.

        Waits for the disk.
        """
        stamps = self._look()
        if stamps == self._stamps:
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
            log.info("new connections get the new certificate in %s", printable(self._certificate))
            return True
        self._refused = stamps
        return False


def load(config: Config) -> Certificates | None:
    """Return what a config asks for; None: no TLS. Waits for the disk. Raises CertificateError."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    return Certificates(os.fspath(config.tls_cert), os.fspath(config.tls_key))


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


def _no_password() -> str:
    raise _Encrypted


def _explain(error: ssl.SSLError, certificate: str, key: str) -> str:
    """Return what is wrong, and how to mend it."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key {key} is not that of the certificate {certificate}; {_WHAT_TO_DO}"
    reason = f" ({error.reason.replace('_', ' ').lower()})" if error.reason else ""
    return f"no certificate and key in PEM: {certificate}, {key}{reason}; {_WHAT_TO_DO}"


def _try(context: ssl.SSLContext, certificate: str) -> None:
    """Shake hands with ourselves, as a client that trusts this certificate alone.

    It finds a certificate that has expired, or is not one of a server, as clients will. Raises
    CertificateError.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        # Not its issuers: one that has expired may have a namesake that clients know.
        client.load_verify_locations(cadata=_first(certificate))
        _shake_hands(client, context)
    except ssl.SSLCertVerificationError as error:
        why = f"the certificate {certificate} cannot be used: {error.verify_message}"
        raise CertificateError(f"{why}; renew it") from None
    except (OSError, ValueError, TypeError) as error:
        why = f"the certificate {certificate} cannot be used: {error}"
        raise CertificateError(f"{why}; {_WHAT_TO_DO}") from None


def _first(certificate: str) -> str:
    """Return the first certificate of a file in PEM. Raises OSError, ValueError."""
    with open(certificate, "rb") as file:
        found = _BLOCK.search(file.read())
    if found is None:  # OpenSSL has found one: the file is being written
        raise ValueError("no certificate in PEM is in it")
    return found[0].decode("ascii")


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Do a whole handshake in memory. Raises ssl.SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    while ends:
        end = ends.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            ends.append(end)
