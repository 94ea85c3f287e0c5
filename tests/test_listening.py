"""The listeners of a config; that they are at its addresses is for the tests of servers."""

import errno
from typing import NoReturn

import pytest
import trio

from trio_amped import Config, serve, supervisor
from trio_amped.listening import open_listeners


async def test_a_name_is_an_error_where_no_thread_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address needs none. Both a server and a supervisor open them so."""

    async def run_sync(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    for call in (
        open_listeners(Config(host="localhost", port=0)),
        supervisor.listen(Config(host="localhost", port=0), 1),
        serve(Config(host="localhost", port=0)),
    ):
        with pytest.raises(OSError, match="can't start new thread") as caught:
            await call
        assert caught.value.errno == errno.EAGAIN
    (listener,) = await open_listeners(Config(host="127.0.0.1", port=0))
    await listener.aclose()
