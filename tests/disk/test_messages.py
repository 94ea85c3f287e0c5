"""The wire format is lossless, and fits into what a socket takes."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.disk.messages import MAX_MESSAGE, MAX_READ, Operation, Order, Reply

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)


@given(st.sampled_from(Operation), st.binary(), INT64, INT64, UINT64)
def test_orders_survive(
    operation: Operation, path: bytes, offset: int, length: int, number: int
) -> None:
    order = Order(operation, path, offset, length, number)
    again = Order.unpack(order.pack())
    assert again == order
    assert again.operation is operation


@given(st.integers(0, 4095), st.binary(), UINT64)
def test_replies_survive(errno: int, content: bytes, number: int) -> None:
    reply = Reply(errno, content, number)
    assert Reply.unpack(reply.pack()) == reply


@given(st.binary())
def test_what_pack_did_not_make_is_refused_or_read(message: bytes) -> None:
    for kind in (Order, Reply):
        try:
            assert kind.unpack(message).pack() == message
        except (struct.error, ValueError):
            assert kind is Order or len(message) < len(Reply(0).pack())


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="not a valid Operation"):
        Order.unpack(bytes(8) + b"\xff" + Order(Operation.OPEN).pack()[9:])


def test_the_longest_messages_fit() -> None:
    """Into MAX_MESSAGE, and into one packet of a socket as it comes."""
    messages = [
        Reply(0, bytes(MAX_READ)).pack(),
        Order(Operation.OPEN, bytes(4096)).pack(),  # PATH_MAX
    ]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        for message in messages:
            assert len(message) <= MAX_MESSAGE
            assert ours.send(message) == len(message)
            assert theirs.recv(MAX_MESSAGE) == message
