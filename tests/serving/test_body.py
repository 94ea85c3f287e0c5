"""A body is data: bytes and parts of a file in any order, over any link."""

from typing import Final

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from tests.serving.cases import LARGE
from tests.serving.peers import Link, by_lockstep, by_memory, by_unix_socket
from trio_amped.config import Config
from trio_amped.semantics.body import Body, FileSpan
from trio_amped.serving.body import BodySender
from trio_amped.serving.transport import ClientGone, Pace, StreamTransport
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk

BODIES: list[Body] = [
    (),
    (b"only bytes",),
    (b"b" * 100_000,),
    (b"--x\r\n", FileSpan(5, 10), b"\r\n--x--"),
    (b"--x\r\n", FileSpan(5, 100_000), b"\r\n--x--"),
    (FileSpan(0, 70_000), FileSpan(0, 0), FileSpan(199_999, 1)),
]
LATER: Final[list[Body]] = [  # what no response has yet
    (b"--x\r\n", FileSpan(5, 100_000), b"\r\n--x\r\n", FileSpan(0, 3), b"\r\n--x--"),
    (FileSpan(0, 0), b"b" * 40_000),
]


def content(part: bytes | FileSpan) -> bytes:
    if isinstance(part, bytes):
        return part
    return LARGE[part.offset : part.offset + part.length]


async def sent(body: Body, link: Link, latency: float = 0.0) -> bytes:
    """What a client receives."""
    disk = SimDisk({b"large": LARGE}, load_latency=latency, real_descriptors=True)
    stream, transport = link(Pace(Config(), Stats()))
    file = await disk.open(b"large")
    sender = BodySender(transport, disk, file, body)
    received = bytearray()

    async def receive() -> None:
        async with stream:
            while data := await stream.receive_some():
                received.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        try:
            await sender.prepare()
            await sender.send(b"head;")
        finally:
            disk.close(file)
            await transport.close()
    return bytes(received)


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("link", [by_memory, by_lockstep, by_unix_socket])
@pytest.mark.parametrize("latency", [0.0, 1.0])
async def test_all_parts_are_sent_in_their_order(
    body: Body, link: Link, latency: float, autojump_clock: MockClock
) -> None:
    assert await sent(body, link, latency) == b"head;" + b"".join(map(content, body))


@pytest.mark.parametrize("body", LATER, ids=["multipart", "empty part first"])
async def test_several_parts_of_a_file(body: Body, autojump_clock: MockClock) -> None:
    assert await sent(body, by_unix_socket) == b"head;" + b"".join(map(content, body))


async def test_a_stream_that_is_closed_has_no_client(autojump_clock: MockClock) -> None:
    stream, _ = memory_stream_pair()
    transport = StreamTransport(stream, Pace(Config(), Stats()))
    await transport.close()
    with pytest.raises(ClientGone):
        await transport.receive()
    with pytest.raises(ClientGone):
        await transport.send(b"a")
    await transport.finish()
