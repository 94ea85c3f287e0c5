"""Which sockets stay, come and go when binds change."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from trio_amped import rebinding
from trio_amped.binds import read_binds
from trio_amped.listening import CannotListen, Opened, close_all, open_binds
from trio_amped.rebinding import beyond, pair_up, rebind, shared, spread_over


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (["a:1"], ["a:1"], [0]),
        (["a:1"], ["a:2"], [None]),
        (["a:1", "b:2"], ["c:3", "b:2", "a:1"], [None, 1, 0]),
        (["a:1", "b:2"], ["b:2"], [1]),
        (["a:1"], ["a:1,proxy"], [0]),
        (["a:0", "a:0"], ["a:0", "a:0", "a:0"], [0, 1, None]),
        (["fd:3", "systemd"], ["systemd", "fd:3"], [1, 0]),
        (["unix:/a,mode=600"], ["unix:/a,mode=600", "unix:/b"], [0, None]),
        (["unix:/a,mode=0600"], ["unix:/a,mode=600"], [0]),
    ],
)
def test_pairs(old: Sequence[str], new: Sequence[str], expected: list[int | None]) -> None:
    assert pair_up(read_binds(old), read_binds(new)) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("unix:/a", "unix:/a,mode=600"),
        ("unix:/a,mode=660", "unix:/a,mode=600"),
        ("unix:/a", "unix:/a,owner=root"),
        ("[::]:1", "[::]:1,ipv6only"),
    ],
)
def test_what_cannot_change_while_it_is_open(old: str, new: str) -> None:
    with pytest.raises(CannotListen) as caught:
        pair_up(read_binds([old]), read_binds([new]))
    expected = f"cannot listen on {new}: it is open with other options; restart the server"
    assert str(caught.value) == expected


async def sets_of(count: int, *binds: str) -> list[list[Opened]]:
    return list(spread_over(count, await open_binds(read_binds(binds))))


def close(*sets: list[list[Opened]]) -> None:
    for one in sets:
        for each in one:
            close_all(each)


@pytest.mark.parametrize("count", [1, 3])
async def test_sockets_stay_come_and_go(count: int, tmp_path: Path) -> None:
    kept, gone, new = (f"unix:{tmp_path}/{name}" for name in ("kept", "gone", "new"))
    before = await sets_of(count, gone, "127.0.0.1:0", kept)
    after = await rebind(before, read_binds([new, f"{kept},proxy", "127.0.0.1:0", "127.0.0.1:0"]))
    assert len(after) == count
    for old, each in zip(before, after, strict=True):
        assert [opened.number for opened in each] == [0, 1, 2, 3]
        assert [opened.bind.proxy for opened in each] == [False, True, False, False]
        assert each[1].sock is old[2].sock
        assert each[2].sock is old[1].sock
        assert each[3].sock.getsockname() == after[0][3].sock.getsockname()
    assert beyond(before, after) == [each[0] for each in before]
    assert beyond(after, before) == [each for one in after for each in (one[0], one[3])]
    close_all(beyond(before, after))
    assert sorted(os.listdir(tmp_path)) == ["kept", "new"]
    close(before, after)


async def test_an_address_that_is_taken_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await sets_of(2, "127.0.0.1:0")
    with socket.create_server(("127.0.0.1", 0)) as other:
        binds = read_binds([f"unix:{tmp_path}/new", f"127.0.0.1:{other.getsockname()[1]}"])
        with pytest.raises(CannotListen, match="Address already in use"):
            await rebind(before, binds)
    assert os.listdir(tmp_path) == []

    def refuse(_: Opened) -> Opened:
        raise OSError(24, "no more descriptors")

    monkeypatch.setattr(rebinding, "beside", refuse)
    with pytest.raises(OSError, match="no more descriptors"):
        await rebind(before, binds[:1])
    assert os.listdir(tmp_path) == []
    assert all(each.sock.fileno() > 0 for one in before for each in one)
    close(before)


@pytest.mark.parametrize(("old", "new"), [("127.0.0.1", "*"), ("0.0.0.0", "127.0.0.1")])
async def test_an_address_that_is_in_use_by_the_server_itself(old: str, new: str) -> None:
    """Nobody else could be stopped to have it."""
    before = await sets_of(1, f"{old}:0")
    port = before[0][0].sock.getsockname()[1]
    with pytest.raises(CannotListen) as caught:
        await rebind(before, read_binds([f"{new}:{port}"]))
    why = f"this server itself listens at {old}:{port}; restart the server"
    assert str(caught.value) == f"cannot listen on {new}:{port}: {why}"
    close(before)


@pytest.mark.parametrize("bind", ["fd:3", "systemd"])
async def test_what_is_inherited_is_so_at_the_start(bind: str) -> None:
    """The number may be another file's by now."""
    before = await sets_of(1, "127.0.0.1:0")
    with pytest.raises(CannotListen, match="sockets are inherited at the start alone; restart"):
        await rebind(before, read_binds([bind]))
    close(before)


async def test_shared_descriptors_leave_the_file(tmp_path: Path) -> None:
    [before] = await sets_of(1, f"unix:{tmp_path}/a")
    close_all(shared(before))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/a")
    close_all(before)
    assert os.listdir(tmp_path) == []
