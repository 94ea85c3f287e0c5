"""The load that reads every answer, and the only one that ends with its plan. Blocks.

    python -m bench.hot.exact PORT PLAN CONNECTIONS SECONDS CPU,...

wrk sums up what came, knows no HEAD, and reads 8 KiB at a time, so that with large files it would
be wrk that is measured. This one checks the status and the length of each answer, lets the kernel
drop the bodies (MSG_TRUNC), and counts each to its last byte. PLAN is a file of JSON, see `Plan`;
with 0 seconds it is carried out once. It answers with one line of JSON, as wrk.lua does.
"""

import itertools
import json
import select
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.hot.answers import Wrong, read_head, request
from bench.hot.processes import idle_seconds
from bench.hot.workloads import Ask, Workload
from bench.servers import HOST

FIRST = 2048  # bytes that are looked at: a head and, if it is short, its body
BUFFER = 8 << 20
PATIENCE = 600.0  # seconds for a plan that is carried out once


@dataclass(frozen=True)
class Plan:
    """What to ask for."""

    requests: list[tuple[str, int]]  # each with the length that its answer has to name
    order: list[int]
    status: int
    has_body: bool
    may_end: bool

    @classmethod
    def of(cls, workload: Workload, asks: Sequence[Ask], lengths: Mapping[str, int]) -> "Plan":
        numbers = {ask: number for number, ask in enumerate(dict.fromkeys(asks))}
        requests = [(request(workload, ask).decode(), lengths[ask[0]]) for ask in numbers]
        order = [numbers[ask] for ask in asks]
        return cls(requests, order, workload.status, workload.has_body, workload.may_end)

    def asks(self) -> list[tuple[bytes, int]]:
        made = [(request.encode(), length) for request, length in self.requests]
        return [made[number] for number in self.order]


@dataclass
class Report:
    """What came: whole answers and, at the end, parts of some."""

    requests: float = 0.0
    bytes: int = 0
    seconds: float = 0.0
    idle: float = 0.0  # seconds in which the server's cores had nothing to do
    error: str = ""


class Ended(Wrong):
    """The connection ended where an answer was to begin."""


class Client:
    """One connection, with one request under way."""

    def __init__(self, port: int, plan: Plan) -> None:
        self._port, self._plan = port, plan
        self._head, self._length, self._left = b"", 0, 0
        self.is_complete = self.closes = False
        self.answers = 0
        self.todo: tuple[bytes, int] | None = None
        self.connect()

    def connect(self) -> None:
        """Begin to; the socket is writable when it is connected."""
        self.answers = 0
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex((HOST, self._port))

    def ask(self) -> None:
        """Send what is to do. It is small: an idle socket takes it whole."""
        assert self.todo is not None
        request, self._length = self.todo
        self._head, self._left = b"", 0
        self.is_complete = self.closes = False
        self.socket.send(request)

    @property
    def part(self) -> float:
        """How much of an answer is there that is not complete."""
        return 1 - self._left / self._length if self._left else 0.0

    def receive(self, view: memoryview) -> int:
        """Take what is there, and say how many bytes that was."""
        taken = 0
        if not self._left:
            taken = self._begin()
            if not self._left:
                return taken
        try:
            count = self.socket.recv_into(view, min(self._left, BUFFER), socket.MSG_TRUNC)
        except BlockingIOError:
            return taken
        if not count:
            raise Wrong(f"the connection ended {self._left} bytes before the body did")
        self._left -= count
        self.is_complete = not self._left
        return taken + count

    def _begin(self) -> int:
        """Receive the head, and what comes with it of the body."""
        data = self.socket.recv(FIRST)
        if not data:
            raise Wrong("it ended in the head") if self._head else Ended("it ended before the head")
        self._head += data
        end = self._head.find(b"\r\n\r\n") + 4
        if end >= 4:
            head = read_head(self._head[:end], self._plan.status)
            if head.length != self._length:
                raise Wrong(f"its length is {head.length}, not {self._length}")
            self.closes = head.closes
            self._left = head.length * self._plan.has_body - (len(self._head) - end)
            if self._left < 0:
                raise Wrong("more was sent than asked for")
            self.is_complete = not self._left
        return len(data)


class Load:
    """Connections that carry out a plan, again and again or once."""

    def __init__(self, port: int, plan: Plan, connections: int, is_once: bool) -> None:
        self._plan, asks = plan, plan.asks()
        self._asks = iter(asks) if is_once else itertools.cycle(asks)
        self._is_once = is_once
        self._epoll = select.epoll()
        self._view = memoryview(bytearray(BUFFER))
        self._clients: dict[int, Client] = {}
        self.report = Report()
        for _ in range(connections):
            self._watch(Client(port, plan))

    def run(self, seconds: float) -> None:
        begun = time.perf_counter()
        end = begun + (PATIENCE if self._is_once else seconds)
        while self._clients and (now := time.perf_counter()) < end:
            for fd, events in self._epoll.poll(end - now):
                self._serve(self._clients[fd], events)
        if self._is_once and self._clients:
            raise Wrong(f"not done within {PATIENCE:.0f} s")
        self.report.seconds = time.perf_counter() - begun
        self.report.requests += sum(client.part for client in self._clients.values())

    def close(self) -> None:
        self._epoll.close()
        for client in self._clients.values():
            client.socket.close()

    def _serve(self, client: Client, events: int) -> None:
        if events & select.EPOLLOUT:
            self._epoll.modify(client.socket.fileno(), select.EPOLLIN)
            self._ask(client)
            return
        try:
            self.report.bytes += client.receive(self._view)
        except (Ended, ConnectionError):
            if not (self._plan.may_end and client.answers):
                raise
            self._reconnect(client)
            return
        if client.is_complete:
            self.report.requests += 1
            client.answers, client.todo = client.answers + 1, None
            if client.closes:
                self._reconnect(client)
            else:
                self._ask(client)

    def _ask(self, client: Client) -> None:
        client.todo = client.todo or next(self._asks, None)
        if client.todo:
            client.ask()
        else:
            self._forget(client)

    def _reconnect(self, client: Client) -> None:
        self._forget(client)
        client.connect()
        self._watch(client)

    def _watch(self, client: Client) -> None:
        self._clients[client.socket.fileno()] = client
        self._epoll.register(client.socket.fileno(), select.EPOLLOUT)

    def _forget(self, client: Client) -> None:
        del self._clients[client.socket.fileno()]
        client.socket.close()


def main(arguments: list[str]) -> None:
    port, file, connections, seconds, cpus = arguments
    plan = Plan(**json.loads(Path(file).read_text()))
    servers = [int(cpu) for cpu in cpus.split(",")]
    load = Load(int(port), plan, int(connections), not float(seconds))
    try:
        idle = idle_seconds(servers)
        load.run(float(seconds))
        load.report.idle = idle_seconds(servers) - idle
    except (Wrong, OSError) as error:
        load.report.error = str(error) or type(error).__name__
    print(json.dumps(asdict(load.report)))


if __name__ == "__main__":
    main(sys.argv[1:])
