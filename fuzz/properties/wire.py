"""What goes between the event loop and its helpers, byte by byte, and the helper itself."""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Final

from hypothesis import strategies as st

from fuzz.tally import note
from fuzz.target import Target
from fuzz.world.runs import descriptors
from trio_amped.disk import helper
from trio_amped.disk.loading import Load, Reader, touch
from trio_amped.disk.messages import (
    FREE,
    MAX_MESSAGE,
    MAX_PATHS,
    Operation,
    Order,
    Reply,
    Wish,
)
from trio_amped.disk.opening import (
    Opened,
    Status,
    Volume,
    pack_facts,
    pack_read,
    unpack_facts,
    unpack_read,
)
from trio_amped.semantics.listing import View

_INT64: Final = st.integers(-(2**63), 2**63 - 1)
_UINT64: Final = st.integers(0, 2**64 - 1)
_UINT32: Final = st.integers(0, 2**32 - 1)
_ORDERS: Final = st.builds(
    Order,
    st.sampled_from(Operation),
    st.binary(max_size=40),
    _INT64,
    _INT64,
    st.integers(0, 255),
)
_REPLIES: Final = st.builds(Reply, st.integers(0, 4095), st.binary(max_size=40), st.booleans())
_STATUSES: Final = st.builds(
    Status,
    *(_UINT32, _UINT32, _UINT64, _UINT64, _INT64, _INT64, _INT64, _INT64, _UINT32, _UINT64),
)
_FACTS: Final = st.builds(
    Opened, st.just(7), _STATUSES, st.builds(Volume, _UINT32, _UINT64), st.booleans()
)


def check_messages(order: Order, reply: Reply, number: int, facts: Opened, junk: bytes) -> None:
    """What is packed is unpacked as the same, and no two messages mean the same."""
    assert Order.unpack(order.pack(number)) == (number, order)
    assert Reply.unpack(reply.pack(number)) == (number, reply)
    assert unpack_facts(facts.descriptor, pack_facts(facts)) == facts
    assert unpack_read(pack_read(facts.status, junk)) == (facts.status, junk)
    for kind, sent in ((Order, order.pack(number)), (Reply, reply.pack(number))):
        for message in (junk, sent[: len(junk)], sent + junk):
            _check_read_or_refused(kind, message)
    for nothing in (FREE, b""):
        assert not _is_read(Reply, nothing), "it is taken for a reply"


def _check_read_or_refused(kind: type[Order] | type[Reply], message: bytes) -> None:
    if _is_read(kind, message):
        number, again = kind.unpack(message)
        assert again.pack(number) == message


def _is_read(kind: type[Order] | type[Reply], message: bytes) -> bool:
    try:
        kind.unpack(message)
    except (struct.error, ValueError):
        return False
    return True


# ------------------------------------------------------------------ the helper

_CONTENT: Final = b"content"
_FOLDER: Final = Path(__file__).parent
_ABOUT_NAMES: Final = (Operation.OPEN, Operation.LIST, Operation.FETCH)
# Paths that are the same everywhere. No NUL in that of a root: the command line has none.
_PATHS: Final = st.sampled_from([b"", b".", b"..", b"/", b"/nothing here", b"x" * 5000])
_FILES: Final = (b"wire.py", b"pool.py")  # in _FOLDER
_VIEWS: Final = st.sampled_from(["html", "json"]).map(lambda kind: View(kind).pack() + b"\0")
_NUMBERS: Final = st.integers(0, 100) | st.integers(0, 2**63 - 1)
_PARTS: Final = st.tuples(_NUMBERS, _NUMBERS)  # offset and length


def _order(operation: Operation, path: bytes, part: tuple[int, int]) -> Order:
    return Order(operation, path, *part)


_SOUND: Final = st.one_of(
    st.builds(_order, st.just(Operation.ROOT), _PATHS, _PARTS),
    st.builds(
        _order, st.sampled_from([Operation.FILE, Operation.OPEN]), _PATHS | st.just(b"a\0b"), _PARTS
    ),
    st.builds(_order, st.sampled_from([Operation.LOAD, Operation.READ]), st.just(b""), _PARTS),
    st.builds(_order, st.just(Operation.LIST), st.builds(bytes.__add__, _VIEWS, _PATHS), _PARTS),
    st.builds(
        Order.fetch,
        _PATHS | st.sampled_from(_FILES),
        st.builds(
            Wish,
            st.lists(st.sampled_from([*_FILES, b"nothing here"]), max_size=7).map(tuple),
            st.integers(0, 7),
            _INT64,
            _NUMBERS,
        ),
    ),
)
Sent = tuple[Order | bytes, int]  # an order or anything else, and how many descriptors beside it


def check_helper(sent: list[Sent]) -> None:
    """A helper answers each order, ends at what is none, or with its socket, and leaves nothing."""
    for load in (touch, Reader().load):
        _check_helper(sent, load)


def _check_helper(sent: list[Sent], load: Load) -> None:
    before = descriptors()
    orders = list(takewhile(lambda each: isinstance(each[0], Order), sent))
    junk = sent[len(orders) : len(orders) + 1]  # what comes later is nobody's
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        for number, (message, count) in enumerate(orders + junk):
            _send(ours, message, count, number)
        ours.shutdown(socket.SHUT_WR)
        ours.setblocking(False)
        try:
            helper.serve(theirs, load)
        except Exception:  # its thread, or process, ends
            assert junk, "an order ended it"
        _check_replies(ours, orders, ends_well=not junk)
    assert descriptors() == before


def _send(channel: socket.socket, message: Order | bytes, count: int, number: int) -> None:
    data = message.pack(number) if isinstance(message, Order) else message
    with _beside(message, count) as files:
        socket.send_fds(channel, [data], files)


@contextlib.contextmanager
def _beside(message: Order | bytes, count: int) -> Iterator[list[int]]:
    """What an order is about, so many times: two fit where one does, a third one does not."""
    is_about_names = isinstance(message, Order) and message.operation in _ABOUT_NAMES
    files = [
        os.open(_FOLDER, os.O_PATH) if is_about_names else os.memfd_create("wire")
        for _ in range(count)
    ]
    try:
        if files and not is_about_names:
            os.pwrite(files[0], _CONTENT, 0)
        yield files
    finally:
        for file in files:
            os.close(file)


def _handed_over(order: Order) -> int:
    """How many descriptors come back, if all goes well."""
    if order.operation is not Operation.FETCH:
        return int(order.operation.hands_over)
    path, *beside = order.paths
    if path not in _FILES:
        return int(path in (b"", b"."))
    return 1 + sum(each in _FILES for each in beside)


def _check_replies(channel: socket.socket, orders: list[Sent], *, ends_well: bool) -> None:
    """One for each order, in their order, and a second one where the first says so."""
    assert channel.recv(MAX_MESSAGE) == FREE
    for number, (order, count) in enumerate(orders):
        assert isinstance(order, Order)
        message, received, _, _ = socket.recv_fds(channel, MAX_MESSAGE, MAX_PATHS)
        for file in received:
            os.close(file)
        said, reply = Reply.unpack(message)
        note("helper", order.operation.name, errno.errorcode.get(reply.errno, "done"))
        assert said == number
        assert len(received) == (0 if reply.errno else _handed_over(order))
        if order.operation.needs_descriptor and not count:
            assert reply.errno == errno.EMFILE
        elif order.operation is Operation.READ and reply.errno == 0:
            end = order.offset + order.length
            assert unpack_read(reply.content)[1] == _CONTENT[order.offset : end]
        if reply.is_first:
            assert received
            assert channel.recv(MAX_MESSAGE) == Reply(0).pack(number)
    if ends_well:
        assert channel.recv(1) == b"", "it says more than it was asked"


TARGETS: Final = (
    Target(
        "messages",
        check_messages,
        {
            "order": _ORDERS,
            "reply": _REPLIES,
            "number": _UINT64,
            "facts": _FACTS,
            "junk": st.binary(max_size=24),
        },
    ),
    Target(
        "helper",
        check_helper,
        {
            "sent": st.lists(
                st.tuples(_SOUND | _SOUND | st.binary(min_size=1, max_size=40), st.integers(0, 3)),
                max_size=5,
            )
        },
        # It ended the helper, and two more after it.
        found=({"sent": [(Order(Operation.FILE, b"a\0b"), 0)]},),
    ),
)
