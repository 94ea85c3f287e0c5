"""The rules of a soak: which failure is whose, and which faults a seed brings."""

import itertools
import math
import random
import ssl
from pathlib import Path

import pytest
import trio

from bench.soak import faults
from bench.soak.clients import Ask
from bench.soak.judge import MARGIN, Fault, Judge, Reach, Trouble, Wrong, bad_lines
from bench.soak.site import HOT, NAMES, PLAIN, Site
from bench.soak.tls import HOST, RENEWED, Certificate

TROUBLE = Trouble(("disk/a",), since=10, until=12, opened=5, port=1000)
EVERYBODY = Reach(("",))


@pytest.mark.parametrize(
    ("reach", "trouble", "expected"),
    [
        (Reach(), TROUBLE, False),
        (EVERYBODY, TROUBLE, True),
        (Reach(("disk/",)), TROUBLE, True),
        (Reach(("other/",)), TROUBLE, False),
        (Reach(("",), spares=("disk/",)), TROUBLE, False),
        (Reach(("",), spares=("disk/",)), TROUBLE._replace(names=("disk/a", "b")), True),
        (Reach(ports=frozenset({1000})), TROUBLE, True),
        (Reach(ports=frozenset({1000})), TROUBLE._replace(opened=11.1), False),
        (Reach(ports=frozenset({1001})), TROUBLE, False),
        (Reach(kept=True), TROUBLE, False),
        (Reach(kept=True), TROUBLE._replace(is_kept=True), True),
        (EVERYBODY, TROUBLE._replace(is_wrong=True), False),
        (Reach(("",), spoils=True), TROUBLE._replace(is_wrong=True), True),
    ],
)
def test_a_fault_excuses_those_in_its_reach(reach: Reach, trouble: Trouble, expected: bool) -> None:
    assert Fault("x", reach, begun=11).may_hit(trouble) is expected


@pytest.mark.parametrize(
    ("begun", "ended", "expected"),
    [
        (11, math.inf, True),
        (1, math.inf, True),
        (1, 10 - MARGIN, True),
        (1, 9.9 - MARGIN, False),
        (12, 13, True),
        (12.1, 13, False),
    ],
)
def test_and_in_its_time(begun: float, ended: float, expected: bool) -> None:
    assert Fault("x", EVERYBODY, begun, ended).may_hit(TROUBLE) is expected


def test_what_nothing_excuses_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    now = 11.0
    judge = Judge(lambda: now)
    with judge.fault("hanging", Reach(("disk/",))), judge.fault("all", EVERYBODY):
        judge.failed(TROUBLE, "nothing")
        judge.failed(TROUBLE._replace(names=("b",)), "nothing")
    assert judge.excused == {"hanging": 1, "all": 1}  # the one that hits less is the reason
    assert not judge.problems
    judge.failed(TROUBLE._replace(since=now + MARGIN + 0.1, until=20), "nothing")
    assert judge.problems == ["nothing; asked for: disk/a"]
    assert "WRONG: nothing" in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(20))
def test_each_round_has_all_faults_once(seed: int) -> None:
    names = list(faults.KINDS)
    planned = faults.draw(seed, 600, names)
    assert planned == faults.draw(seed, 600, names)
    assert planned != faults.draw(seed + 1, 600, names)
    for begin in range(0, len(planned), len(names)):
        part = planned[begin : begin + len(names)]
        assert len({each.name for each in part}) == len(part)
    assert len(planned) > 20 * len(names)
    assert max(each.at + each.seconds for each in planned) <= 599
    for name in names:
        times = [each for each in planned if each.name == name]
        for earlier, later in itertools.pairwise(times):
            assert later.at >= earlier.at + earlier.seconds + 1


def test_no_faults() -> None:
    assert faults.draw(1, 600, []) == []
    assert faults.draw(1, 1, faults.KINDS) == []


LINE = "2026-11-30 08:38:47,835 {} {}"


def test_what_a_server_may_say() -> None:
    bug = LINE.format("ERROR", "a bug: /x")
    loud = LINE.format("WARNING", "503 for /x: the disk does not answer")
    trace = ["Traceback (most recent call last):", '  File "x.py", line 1, in x', "OSError: EIO"]
    good = [
        LINE.format("INFO", "serving"),
        LINE.format("WARNING", "as root it can read every file"),
        "4711 has 18 tasks",
    ]
    assert list(bad_lines(good, [])) == []
    assert list(bad_lines([*good, loud], [])) == [loud]
    assert list(bad_lines([loud, *trace], ["503 for "])) == []
    assert list(bad_lines([bug, *trace], ["a bug"])) == [bug, *trace]
    assert list(bad_lines(["Fatal Python error: Aborted!"], [])) == ["Fatal Python error: Aborted!"]


def test_a_site_knows_all_the_content_that_it_has_had(tmp_path: Path) -> None:
    rng = random.Random(1)
    site = Site(tmp_path, rng)
    name = site.names(PLAIN)[5]
    first = site.current[name]
    site.replace(name, 1000, rng)
    second = site.current[name]
    assert second.number == first.number + 1
    assert site.versions[name, first.tag] == first
    content = site.pool[second.shift : second.shift + 1000]
    for release in site.releases:
        st = (release / name).stat()
        assert (release / name).read_bytes() == content
        assert second.tag == f'"{st.st_mtime_ns:x}-{st.st_size:x}"'
    for expected in ("1", "0"):
        site.switch()
        assert site.release == (site.root / "release").read_text() == expected
    assert len(site.names(HOT)) == 8
    assert site.names(NAMES) == [NAMES]
    assert Ask("a", second).head() == b"GET /a HTTP/1.1\r\nHost: soak\r\n\r\n"


async def answer_by_tls(
    certificate: Certificate, *, updates: bool = False, ends_well: bool = True
) -> bytes:
    """Have a server repeat what it has heard; return what its client hears until the end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate.paths)

    async def echo(stream: trio.SSLStream[trio.SocketStream]) -> None:
        said = b""
        while not said.endswith(b"."):
            said += await stream.receive_some()
        await stream.send_all(said)
        await (stream if ends_well else stream.transport_stream).aclose()

    rng, heard, failure = random.Random(1), b"", None
    client = certificate.updating(rng) if updates else certificate.socket(rng)
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_ssl_over_tcp_listeners(0, context, host=HOST)
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        try:
            assert isinstance(listener.transport_listener, trio.SocketListener)
            await client.connect(listener.transport_listener.socket.getsockname())
            await client.send(b"first, ")
            await client.send(b"second.")
            while data := await client.recv(100):
                heard += data
        except (OSError, Wrong) as error:
            failure = error
        client.close()
        nursery.cancel_scope.cancel()
    if failure:
        raise failure
    return heard


@pytest.mark.parametrize("updates", [False, True])
async def test_clients_have_tls_and_key_updates(updates: bool, tmp_path: Path) -> None:
    certificate = Certificate(tmp_path / "pair")
    assert await answer_by_tls(certificate, updates=updates) == b"first, second."


async def test_an_end_that_was_not_told_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ConnectionAbortedError):
        await answer_by_tls(Certificate(tmp_path / "pair"), ends_well=False)


async def test_a_certificate_that_was_replaced_long_ago_is_wrong(tmp_path: Path) -> None:
    now = 0.0
    certificate = Certificate(tmp_path / "pair", lambda: now)
    certificate.issue()
    now = RENEWED - 1
    assert await answer_by_tls(certificate) == b"first, second."  # its files are the old ones
    now = RENEWED
    with pytest.raises(Wrong):
        await answer_by_tls(certificate)
    certificate.put(*certificate.issue())
    assert await answer_by_tls(certificate) == b"first, second."
