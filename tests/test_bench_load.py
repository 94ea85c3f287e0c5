"""How the hot benchmark asks, and how it knows that an answer is right."""

import itertools
import mmap
import os
import re
import socketserver
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bench.hot import earlier, measure, paper
from bench.hot.answers import Head, Wrong, check_content, learned, read_head, request, verify
from bench.hot.exact import Load as Exact
from bench.hot.exact import Plan
from bench.hot.files import (
    SIZES,
    TOUCH_FILES,
    contents,
    paper_sizes,
    touch_sizes,
    zipf_sizes,
)
from bench.hot.herd_clients import Herd
from bench.hot.measure import Hot, Load, check_total, read_s_time, read_wrk
from bench.hot.peers import OURS, PEERS, Running
from bench.hot.probe import Waits
from bench.hot.rows import WORKLOADS
from bench.hot.workloads import BROWSER, ID, RANGE, Workload, drawn
from bench.load import ProbeReport
from tests.rig import REPOSITORY, needs

SAID = """Running 1s test @ http://127.0.0.1:41231/
  1 threads and 64 connections
  41955 requests in 1.00s, 50.33MB read
RESULT {"requests": 41955, "bytes": 52779390, "seconds": 1.0, "sent": 0, "due": 0, "errors": %s}
"""
NO_ERRORS = '{"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}'


def test_what_wrk_says_is_read() -> None:
    assert read_wrk(SAID % NO_ERRORS) == Load(41955, 52779390, 1.0, 0, 0)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
def test_what_wrk_counts_as_errors_is_a_failed_run(kind: str) -> None:
    with pytest.raises(Wrong, match=f"3 {kind}"):
        read_wrk(SAID % NO_ERRORS.replace(f'"{kind}": 0', f'"{kind}": 3'))


def test_what_s_time_says_is_read() -> None:
    said = "720 connections in 0.57s; 1263.16 connections/user sec, bytes read 906480\n"
    said += "720 connections in 3 real seconds, 1259 bytes read per connection\n"
    assert read_s_time(said) == Load(720, 906480, 3.0)
    with pytest.raises(Wrong, match="ERROR"):
        read_s_time("ERROR")


def test_wrk_without_a_result_is_a_failed_run() -> None:
    with pytest.raises(Wrong, match="unable to connect"):
        read_wrk("unable to connect to 127.0.0.1:1")


@pytest.mark.parametrize("more", [0, 1224, 64 * 1224])
def test_a_total_may_have_what_was_on_its_way(more: int) -> None:
    check_total(Load(1000, 1000 * 1224 + more, 1.0), WORKLOADS["plain"], [1224])
    due = (1000 + 64) * 1224
    check_total(Load(1000, due - more, 1.0, 1064, due), WORKLOADS["unique"], [1224])


@pytest.mark.parametrize(
    "load",
    [
        Load(1000, 1000 * 1224 - 1, 1.0),
        Load(1000, 1064 * 1224 + 1, 1.0),
        Load(1000, 1000 * 1224, 1.0, 999, 1000 * 1224),
        Load(1000, 1000 * 1224, 1.0, 1066, 1066 * 1224),
        Load(1000, 1065 * 1224 + 1, 1.0, 1065, 1065 * 1224),
        Load(1000, 999 * 1224, 1.0, 1065, 1065 * 1224),
    ],
)
def test_a_total_that_is_not_right_is_a_failed_run(load: Load) -> None:
    with pytest.raises(Wrong):
        check_total(load, WORKLOADS["plain"], [1224])


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: Close\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_the_head_of_a_right_answer_is_read(head: bytes, closes: bool) -> None:
    assert read_head(head) == Head(len(head), 5, closes)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        b"",
    ],
)
def test_the_head_of_a_wrong_answer_is_refused(head: bytes) -> None:
    with pytest.raises(Wrong):
        read_head(head)


def test_a_304_needs_no_length_and_other_answers_do() -> None:
    bare = b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"
    assert read_head(bare, 304) == Head(len(bare), 0, False)
    with pytest.raises(Wrong):
        read_head(bare.replace(b"304", b"404"), 404)


def test_wrk_counts_each_answer_of_400_and_more() -> None:
    all_of_them = NO_ERRORS.replace('"status": 0', '"status": 41955')
    assert read_wrk(SAID % all_of_them, 404).requests == 41955
    for some in (NO_ERRORS, all_of_them.replace("41955", "41954")):
        with pytest.raises(Wrong, match="404"):
            read_wrk(SAID % some, 404)


def test_files_and_their_order_are_the_same_in_every_run() -> None:
    zipf = WORKLOADS["zipf"]
    order = drawn(zipf)
    assert order == drawn(zipf)
    counts = [order.count((path, "-")) for path in zipf.paths[:100]]
    assert counts[0] > counts[9] > counts[99] > 0
    sizes = zipf_sizes().values()
    assert len(sizes) == 2000
    assert 512 <= min(sizes) < 600
    assert 60_000 < max(sizes) <= 64 * 1024
    assert {path: len(body) for path, body in contents(SIZES)} == SIZES


def test_each_file_is_touched_once() -> None:
    order = drawn(WORKLOADS["touch"])
    assert len(order) == TOUCH_FILES
    assert sorted(path for path, _ in order) == sorted(touch_sizes())
    assert order != sorted(order)


@pytest.mark.parametrize("name", ["range-12k", "range-1m"])
def test_ranges_are_all_as_long_and_inside_the_file(name: str) -> None:
    workload = WORKLOADS[name]
    asked = [tuple(map(int, span.split("-"))) for _, span in drawn(workload)]
    assert len(set(asked)) > 0.99 * len(asked)
    for first, last in asked:
        assert last - first + 1 == workload.span
        assert len(str(first)) == len(str(last)) == 7
        assert last < SIZES["/16m"]


def test_a_data_set_of_the_paper_is_as_specweb_has_it() -> None:
    sizes = list(paper_sizes(64).values())
    assert sizes == list(paper_sizes(64).values())
    assert 64 << 20 <= sum(sizes) < (64 << 20) + 900_000
    for least, share in ((100, 0.35), (1_000, 0.50), (10_000, 0.14), (100_000, 0.01)):
        found = [size for size in sizes if least <= size <= 9 * least]
        assert len(found) / len(sizes) == pytest.approx(share, abs=0.02)
        assert {size % least for size in found} == {0}


def test_what_is_in_memory_first_is_most_popular_and_in_whole_pages() -> None:
    page = mmap.PAGESIZE
    data = paper.DataSet(Path("x.img"), 1, {"/a": 1, "/b": page + 1, "/c": page, "/d": 1})
    assert data.popular(4 * page) == ["/c", "/b", "/a"]
    assert data.popular(4 * page - 1) == ["/b", "/a"]
    assert len(data.popular(data.megabytes << 20)) == 4


def test_what_counts_is_asked_for_after_what_fills_the_memory() -> None:
    data = paper.DataSet(Path("x.img"), 1, paper_sizes(1))
    before, asks = data.asks
    assert [*before, *asks] == drawn(data.workload)
    assert len(before) == len(asks) == paper.REQUESTS // 2


def test_a_hit_is_a_page_that_the_disk_was_not_asked_for() -> None:
    page = mmap.PAGESIZE
    sizes = [1, page + 1]  # 1 and 2 pages; asked for again from the first on
    assert paper.hit_rate(sizes, 3, page) == 0.75
    assert paper.hit_rate(sizes, 2, 3 * page) == 0.0
    assert paper.hit_rate(iter(sizes), 4, 0) == 1.0


def test_a_browsers_head_has_two_things_that_change() -> None:
    assert BROWSER.count(ID) == 2
    ask = request(WORKLOADS["unique"], ("/1k", "-"))
    assert ask.startswith(b"GET /1k HTTP/1.1\r\nHost: ")
    assert b"\r\nConnection: keep-alive\r\n" in ask
    assert b"%" not in ask
    assert ask.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_a_request_is_whole(workload: Workload) -> None:
    """Only what the server says of the file is still to be filled in."""
    ask = request(workload, drawn(workload)[0]).decode()
    pattern = rf"{workload.method} /\S* HTTP/{workload.version}\r\n([\w-]+: [^\r]+\r\n)+\r\n"
    assert re.fullmatch(pattern, ask)
    assert set(re.findall("%[A-Z]+%", ask)) <= {"%TAG%", "%DATE%"}


FILES = {"/a": b"0123456789", "/folder/index.html": b"index"}


@pytest.mark.parametrize(
    ("workload", "path", "head", "body"),
    [
        (Workload("", ""), "/a", b"", b"0123456789"),
        (Workload("", ""), "/a?v=1", b"", b"0123456789"),
        (Workload("", ""), "/folder/", b"", b"index"),
        (Workload("", "", status=206, head=f"Range: bytes={RANGE}"), "/a", b"", b"234"),
        (Workload("", "", status=206, head="Range: bytes=0-1,8-9"), "/a", b"", b"-01--89-"),
        (Workload("", "", status=301), "/a", b"\r\nLocation: /a/\r\n", b""),
        (Workload("", "", status=404), "/b", b"", b"Not Found"),
    ],
)
def test_what_was_asked_for_is_compared(
    workload: Workload, path: str, head: bytes, body: bytes
) -> None:
    check_content(workload, (path, "2-4"), head, body, FILES)
    if workload.status < 400:
        with pytest.raises(Wrong):
            check_content(workload, (path, "2-4"), head[:-3], body[1:-2], FILES)


# ------------------------------------------------------------ real sockets, and canned answers


class Canned(socketserver.StreamRequestHandler):
    """Each head is answered with the next of the server's answers; None: the end."""

    server: "CannedServer"

    def handle(self) -> None:
        with suppress(ConnectionError):  # a load does not wait for what is on its way at its end
            while head := self._head():
                self.server.heads.add(head)
                answer = next(self.server.answers)
                if answer is None:
                    return
                self.wfile.write(answer)
                if b"\r\nConnection: close\r\n" in answer:
                    return

    def _head(self) -> bytes:
        lines = iter(self.rfile.readline, b"")
        return b"".join(itertools.takewhile(lambda line: line != b"\r\n", lines))


class CannedServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answers: Sequence[bytes | None]) -> None:
        super().__init__(("127.0.0.1", 0), Canned)
        self.answers = itertools.cycle(answers)
        self.heads = set[bytes]()
        self.port: int = self.server_address[1]


@contextmanager
def serving(*answers: bytes | None) -> Iterator[CannedServer]:
    """A server that gives these answers, again and again."""
    with CannedServer(answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def canned(*answers: bytes | None) -> Iterator[int]:
    """Its port."""
    with serving(*answers) as server:
        yield server.port


def answer(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


ONCE = Workload("", "", ("/a", "/b", "/c"), once=True, connections=2)


def carry_out(port: int, workload: Workload = ONCE, length: int = 10) -> Exact:
    asks = drawn(workload)
    plan = Plan.of(workload, asks, dict.fromkeys(workload.paths, length))
    load = Exact(port, plan, workload.connections, is_once=workload.once)
    try:
        load.run(0.0)
    finally:
        load.close()
    return load


def test_a_plan_is_carried_out_once() -> None:
    with canned(answer(b"x" * 10)) as port:
        report = carry_out(port).report
    assert report.requests == 3
    assert report.bytes == 3 * len(answer(b"x" * 10))


@pytest.mark.parametrize("size", [2048, 100_000])
def test_a_body_is_counted_to_its_last_byte(size: int) -> None:
    with canned(answer(bytes(size))) as port:
        assert carry_out(port, length=size).report.bytes == 3 * len(answer(bytes(size)))


def test_a_head_has_a_length_and_no_body() -> None:
    with canned(answer(b"x" * 10)[:-10]) as port:
        assert carry_out(port, replace(ONCE, method="HEAD")).report.requests == 3


def test_a_connection_that_closes_is_opened_anew() -> None:
    with canned(answer(b"x" * 10, more="Connection: close\r\n")) as port:
        assert carry_out(port).report.requests == 3


@pytest.mark.parametrize(
    "wrong",
    [
        answer(b"x" * 9),
        answer(b"x" * 10, "503 Service Unavailable"),
        answer(b"x" * 10) + b"y",
        answer(b"x" * 10, more="Connection: close\r\n")[:-1],
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
        None,
    ],
)
def test_one_wrong_answer_is_a_failed_run(wrong: bytes | None) -> None:
    with canned(answer(b"x" * 10), wrong) as port, pytest.raises(Wrong):
        carry_out(port)


def test_a_connection_may_end_after_an_answer_where_that_is_known() -> None:
    workload = replace(ONCE, connections=1, may_end=True)
    with canned(answer(b"x" * 10), None) as port:
        assert carry_out(port, workload).report.requests == 3
    with canned(None) as port, pytest.raises(Wrong):
        carry_out(port, workload)


def test_what_a_server_calls_a_file_is_learned() -> None:
    fields = 'ETag: "1-2"\r\nLast-Modified: Mon, 23 Nov 2026 17:02:30 GMT\r\n'
    with canned(answer(b"x", more=fields)) as port:
        workload = learned(port, WORKLOADS["304-both"])
        assert 'If-None-Match: "1-2"\r\n' in workload.head
        assert "If-Modified-Since: Mon, 23 Nov 2026 17:02:30 GMT\r\n" in workload.head
        assert learned(port, WORKLOADS["301"]) is WORKLOADS["301"]
    with canned(answer(b"x")) as port, pytest.raises(Wrong, match="no %TAG%"):
        learned(port, WORKLOADS["304-tag"])


def test_heads_of_a_row_are_all_of_one_size() -> None:
    files, ranges = {"/16m": bytes(1 << 24)}, WORKLOADS["range-12k"]
    right = answer(bytes(12 * 1024), "206 Partial Content")
    with canned(right) as port:
        assert verify(port, ranges, files).keys() == {"/16m"}
    with canned(right, right.replace(b"206 P", b"206  P")) as port, pytest.raises(Wrong):
        verify(port, ranges, files)


@needs("wrk", "taskset")
@pytest.mark.parametrize("name", ["pipeline", "unique", "range-12k", "404-random", "query"])
def test_wrk_sends_what_was_verified(name: str) -> None:
    """Numbers differ, and nothing else: they do from one request to the next."""
    workload, cpu = replace(WORKLOADS[name], connections=4), min(os.sched_getaffinity(0))
    right = answer(b"x" * 10, f"{workload.status} As Asked For")
    heads = dict.fromkeys(workload.paths, read_head(right[:-10], workload.status))
    with serving(right) as server:
        running = Running(PEERS[OURS], server.port, os.getsid(0), [cpu])
        measure.run(running, workload, heads, 1, [cpu])
    asked = request(workload, drawn(workload)[0])
    assert {numberless(head + b"\r\n") for head in server.heads} == {numberless(asked)}
    assert (len(server.heads) > 1) == (name != "pipeline")


def numberless(head: bytes) -> bytes:
    return re.sub(rb"\d{6,}", b"N", head)


# ------------------------------------------------------------ a herd, a hot client, a checkout


def herd(*answers: bytes | None) -> dict[str, int]:
    with canned(*answers) as port:
        clients = Herd(port, request(ONCE, ("/a", "-")), 20)
        try:
            report = clients.run(10, zlib.crc32(b"x" * 10))
        finally:
            clients.close()
    assert report.ended >= report.begun
    return report.wrong


def test_a_herd_that_has_all_its_answers() -> None:
    assert herd(answer(b"x" * 10)) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        answer(b"y" * 10),
        answer(b"x" * 9),
        answer(b"x" * 10) + b"x",
        answer(b"x" * 10, "503 Service Unavailable"),
        None,
    ],
)
def test_a_herd_counts_each_wrong_answer(wrong: bytes | None) -> None:
    assert sum(herd(answer(b"x" * 10), wrong).values()) == 10


def test_a_hot_client_is_looked_at_while_it_matters() -> None:
    samples = [(at / 100, at / 1000) for at in range(300)]
    waits = Waits(ProbeReport(samples))
    assert waits.between(1.0, 1.99) == Hot(149, 198, 199)
    with pytest.raises(Wrong, match="nothing"):
        waits.between(4.0, 5.0)
    waits.report.errors.append("refused")
    with pytest.raises(Wrong, match="1 errors, first: refused"):
        waits.between(1.0, 2.0)


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="no clone, but an archive")
def test_an_earlier_commit_is_what_python_runs() -> None:
    with earlier.checkout("HEAD") as place:
        assert (place / "trio_amped" / "__init__.py").exists()
    assert not place.exists()
    with pytest.raises(RuntimeError, match="no-such-commit"), earlier.checkout("no-such-commit"):
        pass
