"""Settings that are read again: what may change, and what is said of those that cannot be used."""

import logging

import pytest
import trio

from trio_amped.certificates import CertificateError
from trio_amped.config import Config, Process, Site
from trio_amped.reloading import Fresh, Reader, changed_in_vain, tell_refusal


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (Process(), []),
        (Process(log_level="debug"), []),
        (Process(workers=2), ["workers"]),
        (Process(workers="auto", log_format="json"), ["log_format", "workers"]),
        (Process(user="nobody", confine=("/a",), log_level="error"), ["user", "confine"]),
    ],
)
def test_what_only_a_restart_can_change(new: Process, expected: list[str]) -> None:
    assert changed_in_vain(Process(), new) == expected


async def test_what_is_read_again(caplog: pytest.LogCaptureFixture) -> None:
    new = Fresh(Config(port=1), Process(workers=3, log_level="error"), None)
    read_again = Reader(lambda: new, Process(workers=2, confine=("/a",)))
    found = await read_again()
    assert found.config == new.config
    assert found.process == Process(workers=2, confine=("/a",), log_level="error")
    assert caplog.messages == ["SIGHUP: only a restart can change workers, confine"]


async def test_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
    with pytest.raises(ValueError, match="can't start new thread; allow more processes"):
        await Reader(lambda: Fresh(Config(), Process(), None), Process())()


SITES = Config(sites=[Site(root="/a"), Site(root="/b", prefix="/b/")])


@pytest.mark.parametrize(
    ("error", "config", "expected"),
    [
        (ValueError("a.toml, line 1: x\ny"), None, r"a.toml, line 1: x\ny"),
        (trio.TooSlowError(), Config(), "the new settings could not be used within 60 s"),
        (CertificateError("no key"), None, "no key"),
        (CertificateError("no key"), Config(), "no key"),
        (
            FileNotFoundError(2, "No such file", "/a"),
            Config(root="/a"),
            "cannot serve /a: No such file; give a readable folder with --root",
        ),
        (
            FileNotFoundError(2, "No such file", "/b"),
            SITES,
            "cannot serve /b: No such file; see its [[site]]",
        ),
        (
            PermissionError(13, "Denied", "/l"),
            Config(access_log="/l"),
            "cannot write the access log /l: Denied; see --access-log",
        ),
    ],
)
def test_why_they_are_not_used(
    error: Exception, config: Config | None, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    tell_refusal(error, config)
    assert caplog.record_tuples == [
        ("trio_amped", logging.ERROR, f"SIGHUP: {expected}; the old settings stay")
    ]
