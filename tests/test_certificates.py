"""Certificates and keys: which can be used, what is said of others, and when they are replaced."""

import datetime
import json
import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from trio.testing import MockClock

from tests.rig import GUARD
from trio_amped import certificates, cli
from trio_amped.certificates import CertificateError, Certificates, Pair
from trio_amped.config import Config
from trio_amped.reloading import explain
from trio_amped.serving.server import Server
from trio_amped.worker_process import Worker

NOW: Final = datetime.datetime.now(datetime.UTC)
DAY: Final = datetime.timedelta(days=1)
AUTHORITY: Final = trustme.CA(key_type=trustme.KeyType.ECDSA)


def issued(name: str = "a.example", **options: Any) -> trustme.LeafCert:
    return AUTHORITY.issue_cert(name, key_type=trustme.KeyType.ECDSA, **options)


class Files:
    """A certificate and its key in files."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"

    def put(self, leaf: trustme.LeafCert) -> None:
        self.put_certificate(leaf)
        self.put_key(leaf)

    def put_certificate(self, leaf: trustme.LeafCert) -> None:
        self._replace(self.certificate, b"".join(each.bytes() for each in leaf.cert_chain_pems))

    def put_key(self, leaf: trustme.LeafCert) -> None:
        self._replace(self.key, leaf.private_key_pem.bytes())

    @staticmethod
    def _replace(path: Path, content: bytes) -> None:
        """As those who renew certificates do."""
        new = path.with_suffix(".new")
        new.write_bytes(content)
        new.rename(path)

    def read(self) -> Pair:
        return Pair(str(self.certificate), str(self.key))

    @property
    def options(self) -> list[str]:
        return [f"--tls-cert={self.certificate}", f"--tls-key={self.key}"]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.put(issued())
    return files


def serial(context: ssl.SSLContext) -> object:
    """The number of the certificate that a client is shown."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    AUTHORITY.configure_trust(client)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)]
    ours = ends[0]
    while ends:
        end = ends.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            ends.append(end)
    shown = ours.getpeercert()
    assert shown is not None
    return shown["serialNumber"]


def serial_of(leaf: trustme.LeafCert, tmp_path: Path) -> object:
    folder = tmp_path / "other"
    folder.mkdir(exist_ok=True)
    files = Files(folder)
    files.put(leaf)
    return serial(files.read().contexts[""])


# ------------------------------------------------------------------ what can be used


def encrypt(files: Files) -> None:
    key = load_pem_private_key(files.key.read_bytes(), None)
    form = Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    files.key.write_bytes(key.private_bytes(*form))


def append(path: Path, more: bytes) -> None:
    path.write_bytes(path.read_bytes() + more)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD: Final[dict[str, tuple[Callable[[Files], object], str]]] = {
    "expired": (
        lambda files: files.put(issued(not_before=NOW - 9 * DAY, not_after=NOW - DAY)),
        "the certificate {certificate} cannot be used: certificate has expired; renew it",
    ),
    "not yet": (
        lambda files: files.put(issued(not_before=NOW + DAY, not_after=NOW + 9 * DAY)),
        "the certificate {certificate} cannot be used: certificate is not yet valid; renew it",
    ),
    "of another pair": (
        lambda files: files.put_key(issued()),
        "the key {key} is not that of the certificate {certificate}; see --tls-cert and --tls-key",
    ),
    "missing": (
        lambda files: files.certificate.unlink(),
        "cannot read {certificate}: No such file or directory; see --tls-cert and --tls-key",
    ),
    "missing key": (
        lambda files: files.key.unlink(),
        "cannot read {key}: No such file or directory; see --tls-cert and --tls-key",
    ),
    "a folder": (
        lambda files: make_folder(files.key),
        "cannot read {key}: Is a directory; see --tls-cert and --tls-key",
    ),
    "no PEM": (
        lambda files: files.certificate.write_bytes(b"\x30\x82"),
        "no certificate and key in PEM: {certificate}, {key}; see --tls-cert and --tls-key",
    ),
    "empty": (
        lambda files: files.key.write_bytes(b""),
        "no certificate and key in PEM: {certificate}, {key}; see --tls-cert and --tls-key",
    ),
    "of another encoding, cut off": (
        lambda files: append(files.certificate, "\n-----BEGIN CERTIFICATE-----\né".encode()),
        "no certificate and key in PEM: {certificate}, {key}",
    ),
    "encrypted": (encrypt, "the key {key} is encrypted; store it without a passphrase"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_one_sentence(name: str, files: Files) -> None:
    spoil, sentence = BAD[name]
    spoil(files)
    with pytest.raises(CertificateError) as caught:
        files.read()
    said = str(caught.value)
    assert "ssl.c" not in said.lower(), "a place in the source of Python helps nobody"
    assert said.startswith(sentence.format(certificate=files.certificate, key=files.key))
    assert "\n" not in said


@pytest.mark.parametrize("name", BAD)
def test_the_command_line_ends_with_it(
    name: str, files: Files, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spoil, _ = BAD[name]
    spoil(files)
    with pytest.raises(CertificateError) as caught:
        files.read()
    assert cli.main([f"--root={tmp_path}", "--port=0", *files.options]) == 2
    assert capsys.readouterr().err == f"trio-amped: error: {caught.value}\n"


@pytest.mark.parametrize(("given", "other"), [("cert", "key"), ("key", "certificate")])
def test_one_without_the_other(
    given: str, other: str, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    [option] = [each for each in files.options if each.startswith(f"--tls-{given}")]
    with pytest.raises(SystemExit) as ended:
        cli.parse([option])
    assert ended.value.code == 2
    said = f"--tls-{given} must be given together with its {other}; see trio-amped --help"
    assert capsys.readouterr().err == f"trio-amped: error: {said}\n"


@pytest.mark.parametrize("value", [5, "", "a\0b", b"a", True, ["a"]])
@pytest.mark.parametrize("name", ["tls_cert", "tls_key"])
def test_what_is_no_path(name: str, value: Any) -> None:
    pair: dict[str, Any] = {"tls_cert": "a", "tls_key": "b", name: value}
    with pytest.raises(ValueError, match=f"^{name} must be a path$"):
        Config(**pair)


def test_a_file_of_settings_with_what_is_no_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text('tls_cert = 5\ntls_key = "b"\n')
    with pytest.raises(SystemExit) as ended:
        cli.main([f"--config={tmp_path}/a.toml"])
    assert ended.value.code == 2
    assert "tls_cert must be a path" in capsys.readouterr().err


def test_no_certificate_is_no_tls() -> None:
    assert certificates.load(Config()) is None


def test_the_chain_is_sent(files: Files) -> None:
    """A client that knows the root alone needs those between."""
    middle = AUTHORITY.create_child_ca(key_type=trustme.KeyType.ECDSA)
    files.put(middle.issue_cert("a.example", key_type=trustme.KeyType.ECDSA))
    assert serial(files.read().contexts[""])


@pytest.mark.parametrize("remark", ["Émis pour a.example\n", "né\r\n", "\xff BEGIN\n", ""])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_what_is_around_the_blocks_is_for_people(
    remark: str, encoding: str, files: Files, tmp_path: Path
) -> None:
    """As `openssl x509 -text` writes it, which does not escape names."""
    pair, new = files.read(), issued()
    files.put(new)
    said = remark.encode(encoding) + b"\n"
    files.certificate.write_bytes(said + files.certificate.read_bytes() + said)
    assert pair.reload_if_changed()
    assert (
        serial(pair.contexts[""]) == serial(files.read().contexts[""]) == serial_of(new, tmp_path)
    )


# ------------------------------------------------------------------ when they are replaced


@pytest.mark.parametrize("left", [0, 100])
def test_a_file_that_is_cut_off_meanwhile(
    left: int, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written in place, after we have read the old one, which is used as a whole."""
    pair = files.read()
    before, real = serial(pair.contexts[""]), pair._load

    def load(context: ssl.SSLContext, texts: Sequence[bytes]) -> None:
        files.certificate.write_bytes(files.certificate.read_bytes()[:left])
        real(context, texts)

    with monkeypatch.context() as patched:
        patched.setattr(pair, "_load", load)
        pair.reload()
    assert serial(pair.contexts[""]) == before
    assert not pair.reload_if_changed()
    assert serial(pair.contexts[""]) == before


async def test_what_was_checked_is_handed_on(files: Files) -> None:
    """To a worker: the last pair that could be used, whatever is in the files by then; and it looks
    whether they change as the one that has read them does."""
    config = Config(tls_cert=files.certificate, tls_key=files.key)
    checked = Certificates(config)
    files.put(issued())
    await checked.keep_up()
    renewed = serial(checked.context())
    files.put_key(issued())
    await checked.keep_up()
    worker = Certificates(config, checked.packed())
    assert serial(worker.context()) == renewed
    worker.reload_if_changed()
    assert serial(worker.context()) == renewed
    files.put(issued())
    worker.reload_if_changed()
    assert serial(worker.context()) not in (None, renewed)


def test_a_pair_that_has_expired_since_it_was_checked_is_handed_on(files: Files) -> None:
    checked = files.read()
    old = issued(not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    texts = [old.cert_chain_pems[0].bytes(), old.private_key_pem.bytes()]
    read = checked.read._replace(texts=texts)
    assert Pair(str(files.certificate), str(files.key), (), read).contexts[""]


def test_a_bug_does_not_end_the_server(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pair = files.read()
    before = pair.contexts[""]
    files.put(issued())
    with monkeypatch.context() as patched:
        patched.setattr(certificates, "_try", lambda *_: 1 / 0)
        for _ in range(2):
            assert not pair.reload_if_changed()
    assert pair.contexts[""] is before
    [record] = caplog.records
    assert record.getMessage() == "a bug: the certificate stays what it was"
    files.put(issued())
    assert pair.reload_if_changed()


def test_a_reload(files: Files, tmp_path: Path) -> None:
    pair, new = files.read(), issued()
    before = pair.contexts[""]
    files.put(new)
    pair.reload()
    assert pair.contexts[""] is not before, "connections that are here keep theirs"
    assert serial(pair.contexts[""]) == serial_of(new, tmp_path)


@pytest.mark.parametrize("first", ["certificate", "key"])
def test_of_two_renames_one_comes_first(
    first: str, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The pair between them does not match: the old one stays, and it is tried again."""
    caplog.set_level(logging.INFO, "trio_amped")
    pair, new = files.read(), issued()
    before = pair.contexts[""]
    assert not pair.reload_if_changed()
    steps = [files.put_certificate, files.put_key]
    if first == "key":
        steps.reverse()
    steps[0](new)
    for _ in range(2):
        assert not pair.reload_if_changed()
        assert pair.contexts[""] is before
    said = f"the certificate stays what it was: the key {files.key} is not that of"
    [record] = caplog.records
    assert record.getMessage().startswith(said), "once, and not each time"
    steps[1](new)
    assert pair.reload_if_changed()
    assert serial(pair.contexts[""]) == serial_of(new, tmp_path)
    assert not pair.reload_if_changed()
    told = f"new connections get the new certificate in {files.certificate}"
    assert caplog.records[-1].getMessage() == told


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_changes_nothing(name: str, files: Files) -> None:
    pair = files.read()
    before = pair.contexts[""]
    spoil, _ = BAD[name]
    spoil(files)
    with pytest.raises(CertificateError):
        pair.reload()
    assert not pair.reload_if_changed()
    assert pair.contexts[""] is before
    if files.key.is_dir():
        files.key.rmdir()
    files.put(issued())
    assert pair.reload_if_changed()


async def test_the_files_are_watched_by_a_thread(
    files: Files, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    certs = Certificates(Config(tls_cert=files.certificate, tls_key=files.key))
    [pair] = certs._pairs.values()
    looked = trio.Event()
    looks = 0
    token = trio.lowlevel.current_trio_token()
    real = pair.reload_if_changed

    def look() -> bool:
        nonlocal looks
        looks += 1
        with pytest.raises(RuntimeError):
            trio.lowlevel.current_task()  # it is not on the loop
        is_new = real()
        token.run_sync_soon(looked.set)
        return is_new

    monkeypatch.setattr(pair, "reload_if_changed", look)
    before = certs.context()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(certs.watch)
        await trio.testing.wait_all_tasks_blocked()
        files.put(issued())
        assert looks == 0
        mock_clock.jump(10)
        with trio.fail_after(GUARD):
            await looked.wait()
        assert certs.context() is not before
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "is_watched"),
    [(PermissionError(13, "Permission denied"), False), (FileNotFoundError(2, "No such"), True)],
)
@pytest.mark.parametrize("which", ["certificate", "key"])
async def test_what_may_not_be_read_any_more_is_not_watched(
    which: str,
    error: OSError,
    is_watched: bool,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    """What is missing may be about to be replaced."""
    certs = Certificates(Config(tls_cert=files.certificate, tls_key=files.key))
    certs.watch_if_allowed()
    assert certs.is_watched

    def refuse(path: str, mode: str) -> Any:
        if path == str(getattr(files, which)):
            raise error
        return open(path, mode)

    with monkeypatch.context() as patched:
        patched.setattr(certificates, "open", refuse, raising=False)
        certs.watch_if_allowed()
    assert certs.is_watched == is_watched
    with trio.move_on_after(5) as before_it_looks:
        await certs.watch()
    assert before_it_looks.cancelled_caught == is_watched


# ------------------------------------------------------------------ who reads, and how often


def test_one_process_reads_once(
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read: list[object] = []
    real = Pair.reload

    def reload(pair: Pair) -> None:
        read.append(pair)
        real(pair)

    monkeypatch.setattr(Pair, "reload", reload)
    for name in ("collect_rarely", "_allow_descriptors"):
        monkeypatch.setattr(cli, name, lambda: None)
    missing = tmp_path / "missing"
    assert cli.main([f"--root={missing}", "--port=0", *files.options]) == 2
    assert f"cannot serve {missing}: " in capsys.readouterr().err, "it was about to serve"
    assert len(read) == 1


async def test_a_disk_that_hangs_does_not_hold_who_is_cancelled(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on, ended = trio.Event(), threading.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def hang(_: Config) -> None:
        token.run_sync_soon(begun.set)
        goes_on.wait(GUARD)
        ended.set()

    monkeypatch.setattr(certificates, "load", hang)
    config = Config(root=tmp_path, port=0, tls_cert=files.certificate, tls_key=files.key)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(config).serve)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert not ended.is_set()
    goes_on.set()
    assert ended.wait(GUARD)


async def test_no_thread_is_an_error_of_the_system(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    config = Config(root=tmp_path, port=0, tls_cert=files.certificate, tls_key=files.key)
    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
    with pytest.raises(BlockingIOError, match="can't start new thread"):
        await certificates.read(config)


def test_what_a_worker_finds_is_not_blamed_on_the_root() -> None:
    """A pair that was replaced since its supervisor has looked."""
    worker = Worker()
    worker._hear(json.dumps({"unusable": [None, "the key k is encrypted", None]}).encode())
    assert worker.unusable is not None
    assert str(worker.unusable) == "the key k is encrypted"
    assert explain(Config(), worker.unusable) == "the key k is encrypted"
