"""The wire format between the event loop and a helper. Pure.

One message a job and one a reply, over a SOCK_SEQPACKET socket that keeps them apart;
descriptors travel beside them (SCM_RIGHTS, unix(7)).
"""

import array
import enum
import socket
import struct
from typing import Final, NamedTuple, Self

# A reply to READ carries the bytes: below the least that net.core.wmem_default has been.
MAX_READ: Final = 64 * 1024
MAX_MESSAGE: Final = MAX_READ + 1024


_FD_SIZE: Final = array.array("i").itemsize
ANCILLARY_SIZE: Final = socket.CMSG_SPACE(_FD_SIZE)  # room for one descriptor


def descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message."""
    return [number for _, _, data in ancillary for number in array.array("i", data)]


_VERSION: Final = struct.Struct("!qq")


def pack_version(size: int, mtime_ns: int) -> bytes:
    """What precedes the bytes in the reply to READ."""
    return _VERSION.pack(size, mtime_ns)


def unpack_read(content: bytes) -> tuple[int, int, bytes]:
    """Size and mtime of the file, and the bytes, from the reply to READ."""
    size, mtime_ns = _VERSION.unpack_from(content)
    return size, mtime_ns, content[_VERSION.size :]


_NAMES: Final = struct.Struct("!qQQ")


def pack_names(ctime_ns: int, end_of_folders: int, end: int) -> bytes:
    """What is said of the file in memory that is the answer to NAMES."""
    return _NAMES.pack(ctime_ns, end_of_folders, end)


def unpack_names(content: bytes) -> tuple[int, int, int]:
    """The directory's ctime, where the names of folders end, and the size of the file."""
    ctime_ns, end_of_folders, end = _NAMES.unpack(content)
    return ctime_ns, end_of_folders, end


class Operation(enum.IntEnum):
    """What the event loop asks of a helper, because it may wait for the disk."""

    OPEN = 1  # a path below the root: the descriptor comes back
    ROOT = 2  # the root itself, by its own path
    LOAD = 3  # a part of a file: bring its pages into memory, say so
    READ = 4  # a part of a file that the loop must not read even then (FUSE, network)
    LIST = 5  # a directory below the root: a file in memory that shows it comes back
    FILE = 6  # any file, by its own path: the descriptor comes back
    NAMES = 7  # the names in a directory, at most `length`: a file in memory that holds them

    @property
    def hands_over(self) -> bool:
        """Whether a descriptor comes back, if all goes well.

        The helper closes its own copy after that answer, which on FUSE can wait as well, and then
        sends FREE. Whether that is to be expected follows from the order and the errno: not
        from a descriptor having arrived, as the kernel drops one that there is no room for.
        """
        return self not in (Operation.LOAD, Operation.READ)

    @property
    def needs_descriptor(self) -> bool:
        """Whether it is done to a descriptor; the others have nothing but a path."""
        return self not in (Operation.ROOT, Operation.FILE)


class Order(NamedTuple):
    """What to do; the descriptor that it is done to travels beside it.

    `number` tells it from the other orders to the same helper.
    """

    operation: Operation
    path: bytes = b""  # for LIST: the packed View, a NUL, and the path
    offset: int = 0
    length: int = 0
    number: int = 0

    def pack(self) -> bytes:
        return _ORDER.pack(self.number, self.operation, self.offset, self.length) + self.path

    @classmethod
    def unpack(cls, message: bytes) -> Self:
        """Raises struct.error or ValueError on a message that `pack` did not make."""
        number, operation, offset, length = _ORDER.unpack_from(message)
        return cls(Operation(operation), message[_ORDER.size :], offset, length, number)


class Reply(NamedTuple):
    """What came of it: an errno (0: done), the facts or bytes that were asked for, and the number
    of the order."""

    errno: int
    content: bytes = b""
    number: int = 0

    def pack(self) -> bytes:
        return _REPLY.pack(self.number, self.errno) + self.content

    @classmethod
    def unpack(cls, message: bytes) -> Self:
        """Raises struct.error on a message that `pack` did not make."""
        number, errno = _REPLY.unpack_from(message)
        return cls(errno, message[_REPLY.size :], number)


FREE: Final = b"free"
"""What a helper sends when it has started, and when it has closed what it handed over."""

_ORDER: Final = struct.Struct("!QBqq")
_REPLY: Final = struct.Struct("!Qi")
