"""Sends a response: head and small bodies in one piece, files by gated windows. Awaits both
the disk and the client, never both at once."""

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

import trio

from ..disk.interface import FRESH, Disk, OpenFile
from ..disk.jobs import admit
from ..semantics.body import FileSpan, hull, inlined
from .transport import WINDOW, Outlet

# Up to here a copy and one send are cheaper than a sendfile (docs/design.md).
_SMALL: Final = 32 * 1024  # bytes
# A file that comes from the disk cannot be faster than that, whose answers come in bursts: smaller
# steps leave the loop to the others in between. They grow with what the disk delivers.
_COLD_STEPS: Final = 8  # in a window

Part: TypeAlias = bytes | memoryview | FileSpan


class BodySender:
    """A body on its way: `prepare` while an error can still be answered, then `send`."""

    def __init__(
        self, transport: Outlet, disk: Disk | None, file: OpenFile | None, body: Sequence[Part]
    ) -> None:
        """`file` and its `disk`: None for a body that is of no file."""
        self._transport = transport
        self._disk = disk
        self._file = file
        self._parts: deque[Part] = deque(body)  # those that are still to be sent
        self._small = min(_SMALL, transport.most_copied)
        self._ready = range(0)  # the gate's answer: this part of the file
        self._asked_at = 0.0

    async def prepare(self) -> None:
        """Have the first bytes of the file at hand. Raises FileChanged, OSError."""
        if self._file is not None and sum(map(len, self._parts)) <= self._small:
            await self._read_parts()
            return
        for index, part in enumerate(self._parts):
            if isinstance(part, FileSpan) and part.length:
                await self._prepare_span(index, part)
                return

    async def _read_parts(self) -> None:
        """Read all parts of the file: at once where they are not far apart."""
        all_of_them = hull(self._parts)
        if all_of_them.length <= self._small:
            content = await self._read_all(all_of_them)
            self._parts = deque([b"".join(inlined(self._parts, content, all_of_them.offset))])
            return
        for index, part in enumerate(self._parts):
            if isinstance(part, FileSpan):
                self._parts[index] = await self._read_all(part)

    async def _read_all(self, span: FileSpan) -> bytes:
        assert self._disk is not None
        assert self._file is not None
        pieces = []
        offset, end = span.offset, span.offset + span.length
        while offset < end:
            pieces.append(await self._disk.read(self._file, offset, end))
            offset += len(pieces[-1])
        return b"".join(pieces)

    async def _prepare_span(self, index: int, span: FileSpan) -> None:
        assert self._disk is not None
        assert self._file is not None
        end = span.offset + span.length
        if self._sends_file(self._file):
            await self._ask_gate(self._file, span.offset, end)
        if not self._sends_file(self._file):
            first = await self._read_some(self._file, span.offset, end)
            self._parts[index] = FileSpan(span.offset + len(first), span.length - len(first))
            self._parts.insert(index, first)

    async def send(self, head: bytes) -> None:
        """Send the head and all of the body. Raises ClientGone, FileChanged, OSError."""
        await self._transport.send(self._with_few_bytes(head), more=any(map(len, self._parts)))
        admit()
        while self._parts:
            part = self._parts.popleft()
            if isinstance(part, FileSpan):
                await self._send_span(part)
            else:
                await self._transport.send(part, more=any(map(len, self._parts)))

    def _with_few_bytes(self, head: bytes) -> bytes:
        """Take the bytes that follow the head off the parts, if they are few, and append them.

        No part stays here as well: a client that does not read must not keep copies of it.
        """
        room = self._transport.most_copied
        while room > 0 and self._parts:
            part = self._parts.popleft()
            if isinstance(part, FileSpan):
                self._parts.appendleft(part)
                break
            if len(part) > room:
                self._parts.appendleft(memoryview(part)[room:])
            head += part[:room]
            room -= len(part)
        return head

    async def _send_span(self, span: FileSpan) -> None:
        assert self._file is not None
        offset, end = span.offset, span.offset + span.length
        while offset < end:
            if self._sends_file(self._file):
                offset += await self._send_some(self._file, offset, end)
                continue
            if not self._file.is_by_copy:
                # Neither a read nor a send that need not wait is a checkpoint.
                await self._transport.turn()
            data = await self._read_some(self._file, offset, end)
            offset += len(data)
            await self._transport.send(data, more=offset < end or any(map(len, self._parts)))

    async def _read_some(self, file: OpenFile, offset: int, end: int) -> bytes:
        """Read what is sent as a copy: no more than the transport wants in memory."""
        assert self._disk is not None
        stop = min(end, offset + self._transport.room)
        if file.is_by_copy:
            return await self._disk.read(file, offset, stop)
        await self._renew_gate(file, offset, end)
        return await self._disk.copy(file, offset, min(self._ready.stop, stop))

    def _sends_file(self, file: OpenFile) -> bool:
        """Return whether sendfile may be tried, as far as the last look at the file has shown."""
        is_by_copy = file.is_by_copy or file.may_be_locked
        return self._transport.can_send_files and not is_by_copy

    async def _send_some(self, file: OpenFile, offset: int, end: int) -> int:
        """Send what the client takes of the bytes that are in memory."""
        await self._transport.turn()
        await self._renew_gate(file, offset, end)
        if not self._sends_file(file):  # it has been written into
            return 0
        step = file.window // _COLD_STEPS if file.is_cold else WINDOW
        stop = min(self._ready.stop, end, offset + step)
        return await self._transport.send_file(file.fd, offset, stop - offset)

    async def _renew_gate(self, file: OpenFile, offset: int, end: int) -> None:
        """Ask the gate, unless it has just said that these bytes are in memory."""
        if offset not in self._ready or trio.current_time() > self._asked_at + FRESH:
            await self._ask_gate(file, offset, end)

    async def _ask_gate(self, file: OpenFile, offset: int, end: int) -> None:
        assert self._disk is not None
        self._ready = range(offset, offset + await self._disk.ready(file, offset, end))
        self._asked_at = trio.current_time()
