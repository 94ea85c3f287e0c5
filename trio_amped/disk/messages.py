"""The wire format between the event loop and a helper. Pure.

One message an order and one or two replies, over a SOCK_SEQPACKET socket that keeps them apart;
descriptors travel beside them (SCM_RIGHTS, unix(7)).
"""

import array
import enum
import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, Self, TypeAlias

# A reply to READ carries the bytes: below the least that net.core.wmem_default has been.
MAX_READ: Final = 64 * 1024
MAX_MESSAGE: Final = MAX_READ + 1024

MAX_PATHS: Final = 8  # of one FETCH: a file, and one beside it for each coding
ANCILLARY_SIZE: Final = socket.CMSG_SPACE(MAX_PATHS * array.array("i").itemsize)


Rights: TypeAlias = Sequence[tuple[int, int, bytes]]


def rights(*descriptors: int) -> Rights:
    """What goes beside a message with these descriptors; nothing without any."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]


def descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message."""
    return [number for _, _, data in ancillary for number in array.array("i", data)]


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
    FETCH = 8  # as OPEN, others beside it, and then LOAD the part that is wanted first
    DIGEST = 9  # the first `length` bytes of a file: a digest of them

    @property
    def hands_over(self) -> bool:
        """Whether a descriptor comes back, if all goes well."""
        return self not in (Operation.LOAD, Operation.READ, Operation.DIGEST)

    @property
    def needs_descriptor(self) -> bool:
        """Whether it is done to a descriptor; the others have nothing but a path."""
        return self not in (Operation.ROOT, Operation.FILE)


class Wish(NamedTuple):
    """What is needed together with a path: others `beside` it, and a part of the file to be loaded.

    The first `choices` of those beside may stand for the path: the first that is a regular file is
    the one of which the part is loaded, and else the path itself. The part is as in an `Order`.
    """

    beside: tuple[bytes, ...] = ()
    choices: int = 0
    offset: int = 0
    length: int = 0


class Order(NamedTuple):
    """What to do; the descriptor that it is done to travels beside it."""

    operation: Operation
    path: bytes = b""  # for LIST: the packed View, a NUL, and the path
    offset: int = 0  # for FETCH: below 0 from the end of the file
    length: int = 0
    choices: int = 0  # for FETCH
    crosses: bool = False  # for OPEN and FETCH: it may lead on to another mount

    @classmethod
    def fetch(cls, path: bytes, wish: "Wish") -> Self:
        """The order to open a path, and whatever is needed together with it."""
        paths = b"\0".join((path, *wish.beside))
        return cls(Operation.FETCH, paths, wish.offset, wish.length, wish.choices)

    @property
    def paths(self) -> list[bytes]:
        """The path of a FETCH, and those beside it."""
        return self.path.split(b"\0")

    @property
    def most_descriptors(self) -> int:
        """How many may come back. There may be less: the kernel drops those that have no room."""
        if self.operation is Operation.FETCH:
            return len(self.paths)
        return int(self.operation.hands_over)

    def pack(self, number: int) -> bytes:
        """A message; the number tells this order from the others to the same helper."""
        head = _ORDER.pack(number, self.operation, self.offset, self.length, *self[4:])
        return head + self.path

    @classmethod
    def unpack(cls, message: bytes) -> tuple[int, Self]:
        """Raises struct.error or ValueError on a message that `pack` did not make."""
        number, operation, *rest = _ORDER.unpack_from(message)
        return number, cls(Operation(operation), message[_ORDER.size :], *rest)


class Reply(NamedTuple):
    """What came of an order: an errno (0: done), and the facts or bytes that were asked for.

    `is_first`: the helper has more to do for this order, and sends a second reply when that is
    done: the rest of the order, or the close of its own copy of what it has handed over, which
    can wait on FUSE and network file systems.
    """

    errno: int
    content: bytes = b""
    is_first: bool = False

    def pack(self, number: int) -> bytes:
        """A message; the number is that of the order."""
        return _REPLY.pack(number, self.errno, self.is_first) + self.content

    @classmethod
    def unpack(cls, message: bytes) -> tuple[int, Self]:
        """Raises struct.error or ValueError on a message that `pack` did not make."""
        number, errno, is_first = _REPLY.unpack_from(message)
        if is_first > 1:
            raise ValueError(f"not a reply: {message[: _REPLY.size]!r}")
        return number, cls(errno, message[_REPLY.size :], bool(is_first))


FREE: Final = b"free"
"""What a helper sends when it has started."""

_ORDER: Final = struct.Struct("!QBqqB?")
_REPLY: Final = struct.Struct("!QiB")
