"""Properties of whole request streams, shared with `python -m fuzz`."""

import pytest
from hypothesis import settings

from fuzz.__main__ import main
from fuzz.properties import streams
from fuzz.target import Target
from fuzz.targets import ALL


@pytest.mark.parametrize("target", ALL.values(), ids=ALL)
def test_property(target: Target) -> None:
    target.as_test()()


def test_the_fuzzer_ends_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--minutes", "0.001", "--target", "targets", "--seed", "1"]) == 0
    assert "targets: " in capsys.readouterr().out


def test_the_fuzzer_lists_its_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == set(ALL)


def test_the_fuzzer_finds_and_shows_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that loses the last byte of a part is found, and the example is shown."""

    def lose_a_byte(ask: streams.Ask, answer: object) -> None:
        assert b"a.txt" not in ask.wire, "planted"

    monkeypatch.setattr(streams, "_check_body", lose_a_byte)
    assert main(["--minutes", "1", "--target", "streams", "--seed", "1"]) == 1
    shown = capsys.readouterr().out
    assert "FAILED: --target streams --seed 1" in shown
    assert "planted" in shown
    assert "Ask(wire=b'GET " in shown


def test_interrupting_the_fuzzer_gives_the_summary(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(target: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(ALL, "targets", Target("targets", interrupt, ALL["targets"].examples))
    assert main(["--target", "targets"]) == 130
    assert "executions" in capsys.readouterr().out


def test_profiles_have_no_deadline() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None
    assert settings.get_profile("ci").derandomize
