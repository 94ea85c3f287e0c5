"""What goes between the event loop and its helpers: the format of the messages, and a real helper
that is told anything."""

import contextlib
import os
import socket
import struct
from typing import Final

from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world.descriptors import files_in_memory, nothing_left_open
from trio_amped.disk import helper
from trio_amped.disk.messages import (
    FREE,
    MAX_MESSAGE,
    Operation,
    Order,
    Reply,
    pack_version,
    unpack_read,
)
from trio_amped.disk.opening import Opened, Status, Volume, pack_facts, unpack_facts

# ------------------------------------------------------------------ the format

_INT64: Final = st.integers(-(2**63), 2**63 - 1)
_UINT64: Final = st.integers(0, 2**64 - 1)
_UINT32: Final = st.integers(0, 2**32 - 1)
ORDERS: Final = st.builds(
    Order, st.sampled_from(Operation), st.binary(max_size=40), _INT64, _INT64, _UINT64
)
REPLIES: Final = st.builds(Reply, st.integers(0, 4095), st.binary(max_size=40), _UINT64)
_STATUSES: Final = st.builds(
    Status, _UINT32, _UINT32, _UINT64, _UINT64, _INT64, _INT64, _INT64, _INT64
)
FACTS: Final = st.builds(
    Opened, st.just(7), _STATUSES, st.builds(Volume, _UINT32, _UINT64), st.booleans()
)


def check_messages(order: Order, reply: Reply, facts: Opened, junk: bytes) -> None:
    """What is packed is unpacked as the same; of other bytes, none is taken for another message."""
    assert Order.unpack(order.pack()) == order
    assert Reply.unpack(reply.pack()) == reply
    assert unpack_facts(facts.descriptor, pack_facts(facts)) == facts
    read = pack_version(facts.status.size, facts.status.mtime_ns) + junk
    assert unpack_read(read) == (facts.status.size, facts.status.mtime_ns, junk)
    for kind, sent in ((Order, order.pack()), (Reply, reply.pack())):
        for message in (junk, sent[: len(junk)], sent + junk):
            _check_read_or_refused(kind, message)


def _check_read_or_refused(kind: type[Order] | type[Reply], message: bytes) -> None:
    try:
        found = kind.unpack(message)
    except (struct.error, ValueError):
        return
    assert found.pack() == message, "bytes that mean the same as others"


# ------------------------------------------------------------------ the helper


def check_helper(messages: list[bytes]) -> None:
    """A helper answers every order, and ends, with nothing open, at the first that is none."""
    with nothing_left_open():
        _tell(messages)


def _tell(messages: list[bytes]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, contextlib.suppress(struct.error, ValueError):
        for message in messages:
            with files_in_memory(1, b"content") as numbers:
                socket.send_fds(ours, [message or b"\0"], numbers)
        ours.shutdown(socket.SHUT_WR)
        ours.setblocking(False)
        helper.serve(theirs)
        _check_said(ours, [Order.unpack(message) for message in messages])


def _check_said(channel: socket.socket, orders: list[Order]) -> None:
    """One reply for each order, and FREE where a descriptor came."""
    assert channel.recv(MAX_MESSAGE) == FREE
    for order in orders:
        message, received, _, _ = socket.recv_fds(channel, MAX_MESSAGE, 2)
        for number in received:
            os.close(number)
        reply = Reply.unpack(message)
        assert reply.number == order.number
        assert bool(received) == (order.operation.hands_over and reply.errno == 0)
        if received:
            assert channel.recv(MAX_MESSAGE) == FREE
    assert channel.recv(1) == b""


# ------------------------------------------------------------------ how they are made up

_SMALL_ORDERS: Final = st.builds(
    Order,
    st.sampled_from([each for each in Operation if each is not Operation.LIST]),
    st.sampled_from([b"", b".", b"..", b"/nothing", b"a\0b", b"/"]),
    st.integers(-3, 10) | _INT64,
    st.integers(-3, 100),
    _UINT64,
)

TARGETS: Final = (
    Target(
        "messages",
        check_messages,
        {"order": ORDERS, "reply": REPLIES, "facts": FACTS, "junk": st.binary(max_size=24)},
    ),
    Target(
        "helper",
        check_helper,
        {
            "messages": st.lists(
                _SMALL_ORDERS.map(Order.pack) | st.binary(min_size=1, max_size=30), max_size=5
            )
        },
    ),
)
