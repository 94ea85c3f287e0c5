"""Sends a response: head and small bodies in one piece, files by gated windows. Awaits both
the disk and the client, never both at once."""

from typing import Final

import trio

from ..disk.interface import FRESH, Disk, OpenFile
from ..semantics.body import Body, FileSpan
from .transport import Outlet

# Up to here a copy and one send are cheaper than a sendfile (docs/design.md).
_SMALL: Final = 32 * 1024  # bytes
_STEP: Final = 512 * 1024  # bytes of a file in one turn
# A file that comes from the disk cannot be faster than that, whose answers come in bursts: smaller
# steps leave the loop to the others in between. They grow with what the disk delivers.
_COLD_STEPS: Final = 8  # in a window


class BodySender:
    """A body on its way: `prepare` while an error can still be answered, then `send`."""

    def __init__(
        self, transport: Outlet, disk: Disk | None, file: OpenFile | None, body: Body
    ) -> None:
        """`file` and its `disk`: None for a body that is of no file."""
        self._transport = transport
        self._disk = disk
        self._file = file
        self._parts: list[bytes | FileSpan] = list(body)
        self._ready = range(0)  # the gate's answer: this part of the file
        self._asked_at = 0.0

    async def prepare(self) -> None:
        """Have the first bytes of the file at hand. Raises FileChanged, OSError."""
        if sum(map(len, self._parts)) <= _SMALL:
            for index, part in enumerate(self._parts):
                if isinstance(part, FileSpan):
                    self._parts[index] = await self._read_all(part)
            return
        for index, part in enumerate(self._parts):
            if isinstance(part, FileSpan) and part.length:
                await self._prepare_span(index, part)
                return

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
            first = await self._disk.read(self._file, span.offset, end)
            rest = FileSpan(span.offset + len(first), span.length - len(first))
            self._parts[index : index + 1] = [first, rest]

    async def send(self, head: bytes) -> None:
        """Send the head and all of the body. Raises ClientGone, FileChanged, OSError."""
        if all(isinstance(part, bytes) for part in self._parts):
            await self._transport.send(b"".join((head, *self._parts)))  # type: ignore[arg-type]
            return
        await self._transport.send(head, more=True)
        for number, part in enumerate(self._parts, 1):
            if isinstance(part, bytes):
                await self._transport.send(part, more=number < len(self._parts))
            else:
                await self._send_span(part)

    async def _send_span(self, span: FileSpan) -> None:
        assert self._disk is not None
        assert self._file is not None
        offset, end = span.offset, span.offset + span.length
        while offset < end:
            if self._sends_file(self._file):
                offset += await self._send_some(self._file, offset, end)
                continue
            stop = end
            if self._transport.can_send_files and not self._file.is_by_copy:
                # Neither a read nor a send that need not wait is a checkpoint.
                await self._transport.turn()
                stop = min(end, offset + _STEP)
            data = await self._disk.read(self._file, offset, stop)
            await self._transport.send(data)
            offset += len(data)

    def _sends_file(self, file: OpenFile) -> bool:
        """Return whether sendfile may be tried, as far as the last look at the file has shown."""
        is_by_copy = file.is_by_copy or file.may_be_locked
        return self._transport.can_send_files and not is_by_copy

    async def _send_some(self, file: OpenFile, offset: int, end: int) -> int:
        """Send what the client takes of the bytes that are in memory."""
        await self._transport.turn()
        if offset not in self._ready or trio.current_time() > self._asked_at + FRESH:
            await self._ask_gate(file, offset, end)
            if not self._sends_file(file):  # it has been written into
                return 0
        step = file.window // _COLD_STEPS if file.is_cold else _STEP
        stop = min(self._ready.stop, end, offset + step)
        return await self._transport.send_file(file.fd, offset, stop - offset)

    async def _ask_gate(self, file: OpenFile, offset: int, end: int) -> None:
        assert self._disk is not None
        self._ready = range(offset, offset + await self._disk.ready(file, offset, end))
        self._asked_at = trio.current_time()
