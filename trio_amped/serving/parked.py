"""What the lane knows of a connection, and of those that wait for the same. Never waits."""

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from ..disk.misses import Arrivals, Miss
from ..semantics.body import Body
from ..stats import Stats
from . import sending
from .clients import Peer, Whose
from .entrance import Entrance
from .replies import Reply
from .tls import TlsSocket
from .transport import tls_of
from .wire import Wire


class Parked:
    """A connection without a task; its owner is the lane for as long as it is in the lane's dict.

    It is idle, or has `rest`: bytes that were received, and are to be answered when there is room
    for answers, or, if it `waits`, when something has come from the disk.
    """

    __slots__ = (
        "asked_at",
        "client",
        "deadline",
        "entrance",
        "is_new",
        "is_proxy",
        "lingers",
        "misses",
        "own",
        "rest",
        "send",
        "sock",
        "waits",
        "watched",
        "whose",
    )

    def __init__(
        self, sock: Wire, entrance: Entrance, deadline: float, is_new: bool, whose: Whose
    ) -> None:
        self.sock = sock
        self.entrance = entrance
        self.send: Callable[[Any, Reply, Stats], Body] = sending.send  # what it takes of an answer
        if isinstance(sock, TlsSocket):
            self.send = sending.send_encrypted
        self.whose = whose
        self.is_proxy = whose.forwarding is not None  # `hear` is to be called with each request
        self.deadline = deadline
        self.is_new = is_new
        self.watched = 0  # for these events
        self.rest = b""
        self.lingers = 0  # our side has ended: so many bytes of theirs are still read
        self.waits = False
        self.misses = 0  # of the request that it waits with, so far
        self.asked_at = 0.0  # the trio time of the first of them
        self.own: Peer | None = None  # who is at the other end, once that was needed
        self.client: Peer | None = None  # who has asked; that is another one behind a proxy

    def meet(self) -> Peer:
        """Return who has asked."""
        if self.client is None:
            self.client = self.own = Peer(self.whose.address, tls_of(self.sock))
        return self.client

    def hear(self, head: bytes) -> Peer:
        """Note and return who has sent a request that a trusted proxy passes on, by its head."""
        self.client = client = self.whose.sender(head, self.own or self.meet())
        return client

    @property
    def is_busy(self) -> bool:
        """Whether it waits for the disk, its turn, or the end of the client's side."""
        return self.waits or bool(self.lingers)

    @property
    def is_idle(self) -> bool:
        """Whether no request is pending."""
        return not (self.is_busy or self.rest)


class Group:
    """Connections whose next request has missed the same, which is asked for once."""

    __slots__ = ("came", "following", "miss", "parked")

    def __init__(self, miss: Miss, came: Arrivals) -> None:
        miss.hold(came)
        miss.__traceback__ = miss.__context__ = None  # which keep frames alive, and all of theirs
        self.miss = miss
        self.parked: list[Parked] = []
        self.came = came
        self.following: Groups = {}  # of the same connections, when they have missed more


Groups: TypeAlias = dict[Hashable, Group]
"""By the question that is asked."""
