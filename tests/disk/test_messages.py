"""The wire format is lossless, and fits into what a socket takes."""

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.disk.messages import MAX_MESSAGE, MAX_PATHS, MAX_READ, Operation, Order, Reply

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)


@given(st.sampled_from(Operation), st.binary(), INT64, INT64, st.integers(0, 255), UINT64)
def test_orders_survive(
    operation: Operation, path: bytes, offset: int, length: int, choices: int, number: int
) -> None:
    order = Order(operation, path, offset, length, choices)
    assert Order.unpack(order.pack(number)) == (number, order)
    _, again = Order.unpack(order.pack(number))
    assert again.operation is operation


@given(st.integers(0, 4095), st.binary(), st.booleans(), UINT64)
def test_replies_survive(errno: int, content: bytes, is_first: bool, number: int) -> None:
    reply = Reply(errno, content, is_first)
    assert Reply.unpack(reply.pack(number)) == (number, reply)


@given(st.binary())
def test_what_pack_did_not_make_is_refused_or_read(message: bytes) -> None:
    kinds: tuple[type[Order] | type[Reply], ...] = (Order, Reply)
    for kind in kinds:
        with contextlib.suppress(struct.error, ValueError):
            number, again = kind.unpack(message)
            assert again.pack(number) == message


def test_what_is_neither_a_first_reply_nor_the_last_is_refused() -> None:
    message = Reply(0).pack(1)
    with pytest.raises(ValueError, match="not a reply"):
        Reply.unpack(message[:-1] + b"\2")


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="not a valid Operation"):
        Order.unpack(bytes(8) + b"\xff" + Order(Operation.OPEN).pack(0)[9:])


def test_the_longest_messages_fit() -> None:
    """Into MAX_MESSAGE, and into one packet of a socket as it comes."""
    messages = [
        Reply(0, bytes(MAX_READ)).pack(0),
        Order(Operation.FETCH, bytes(MAX_PATHS * 4096)).pack(0),  # PATH_MAX
    ]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        for message in messages:
            assert len(message) <= MAX_MESSAGE
            assert ours.send(message) == len(message)
            assert theirs.recv(MAX_MESSAGE) == message
