"""What is offered to the tests of others, used as they would."""

import errno
import math

import h11
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_amped import Config, Exchange, Site
from trio_amped.testing import Client, SimDisk, SimFile, serving

FILES = {"index.html": b"<h1>", "large.bin": bytes(200_000), "folder/a.txt": b"a"}


async def test_a_file_is_asked_for() -> None:
    async with serving(Config(), SimDisk(FILES)) as served:
        client = served.connect()
        answer = await client.get("/")
        assert (answer.status, answer.body) == (200, b"<h1>")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        part = await client.get("/large.bin", {"Range": "bytes=0-9"})
        assert (part.status, part.body) == (206, bytes(10))
        assert (await client.get("/nope")).status == 404
        assert served.stats.responses == {200: 1, 206: 1, 404: 1}


async def test_a_slow_disk_takes_virtual_time(autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES, load_latency=60)
    async with serving(Config(disk_timeout=1000), disk) as served:
        await served.connect().get("/large.bin")
        assert trio.current_time() == 240  # its four windows, of 64 KiB
        await served.connect().get("/large.bin")
        assert trio.current_time() == 240
        disk.evict()
        await served.connect().get("/large.bin")
        assert trio.current_time() == 480


@pytest.mark.parametrize("kind", ["open_latency", "load_latency"])
async def test_a_disk_that_hangs_is_waited_for_as_the_config_has_it(
    kind: str, autojump_clock: MockClock
) -> None:
    disk = SimDisk(FILES)
    setattr(disk, kind, math.inf)
    async with serving(Config(disk_timeout=7), disk) as served:
        answer = await served.connect().get("/large.bin")
        assert answer.status == 503
        assert trio.current_time() == 7
    assert disk.open_files == 0


async def test_a_disk_that_hangs_stops_nobody_else(autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES)
    async with serving(Config(), disk) as served, trio.open_nursery() as nursery:
        await served.connect().get("/")
        disk.load_latency = 1e9
        nursery.start_soon(served.connect().get, "/large.bin")
        await wait_all_tasks_blocked()
        assert disk.open_files > 0
        assert (await served.connect().get("/nope")).status == 404
        nursery.cancel_scope.cancel()
    assert disk.open_files == 0


async def test_what_goes_wrong_is_planned() -> None:
    disk = SimDisk(FILES | {"forbidden": PermissionError(errno.EACCES, "no")})
    disk.at_load[0] = OSError(errno.EIO, "broken")
    async with serving(Config(), disk) as served:
        client = served.connect()
        assert [(await client.get(target)).status for target in ("/", "/", "/forbidden")] == [
            500,
            200,
            404,
        ]


async def test_a_file_is_changed() -> None:
    disk = SimDisk({"a": SimFile(b"before")})
    async with serving(Config(revalidate=0), disk) as served:
        before = await served.connect().get("/a")
        disk.replace("a", b"after")
        after = await served.connect().get("/a", {"If-None-Match": before.headers["etag"]})
        assert (before.body, after.status, after.body) == (b"before", 200, b"after")


async def test_an_application_is_asked() -> None:
    async def shout(exchange: Exchange) -> None:
        assert dict(exchange.request.headers)[b"host"] == b"a.example"
        await exchange.respond(201, [("X-Method", exchange.request.method.decode())], b"!")

    async with serving(Config(fallback=shout), SimDisk({})) as served:
        client = served.connect()
        for method in ("POST", "PUT"):
            answer = await client.request(method, "/x", {"Host": "a.example"}, b"content")
            assert (answer.status, answer.headers["x-method"], answer.body) == (201, method, b"!")


async def test_each_site_has_its_disk() -> None:
    config = Config(sites=[Site("main"), Site("media", prefix="/media/")])
    async with serving(config, SimDisk({"a": b"main"}), SimDisk({"a": b"media"})) as served:
        client = served.connect()
        bodies = [(await client.get(target)).body for target in ("/a", "/media/a")]
        assert bodies == [b"main", b"media"]
    with pytest.raises(ValueError, match="each site is needed: 2"):
        async with serving(config, SimDisk({})):
            raise AssertionError


async def test_a_connection_that_has_ended_says_so() -> None:
    async with serving(Config(), SimDisk(FILES)) as served:
        client = served.connect()
        await client.get("/", {"Connection": "close"})
        with pytest.raises(h11.LocalProtocolError):
            await client.get("/")


async def test_an_answer_that_is_cut_off_says_so() -> None:
    disk = SimDisk(FILES)
    disk.at_load[2] = OSError(errno.EIO, "broken")
    async with serving(Config(), disk) as served:
        with pytest.raises(h11.RemoteProtocolError):
            await served.connect().get("/large.bin")


async def test_no_answer_says_so() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await trio.aclose_forcefully(theirs)
    with pytest.raises(h11.RemoteProtocolError):
        await Client(ours).get("/")
