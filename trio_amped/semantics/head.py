"""Owns where a request head ends in a stream of bytes, and how large it may be. Pure."""

import re
from typing import Final

from .errors import HttpError

_LINE_SLACK: Final = 32  # bytes of a request line besides its target: method, blanks, version, CRLF
_SHORTEST: Final = 4  # bytes of a field line

_EMPTY_LINES = re.compile(rb"(?:\r\n)*+")

# NUL, a CR that is not followed by LF, a LF that does not follow CR. The last byte of the match
# is the first one at which the fault is certain. (RFC 9112 2.2 allows a bare LF; refusing it
# is what keeps us and any proxy in front of us of one opinion about where a line ends.)
_FAULT = re.compile(rb"\x00|\r[^\n]|(?<!\r)\n")


class Limits:
    """How large a head may be, in bytes or lines.

    - `max_head`: a head, with the empty lines before it and the one that ends it; else 431;
    - `max_target`: a request line with its CRLF has 32 bytes more than that at most; else 414;
    - `max_fields`: field lines (continuation lines count); else 431.
    """

    def __init__(self, max_head: int, max_target: int, max_fields: int) -> None:
        self.head = max_head
        self.line = max_target + _LINE_SLACK  # with its CRLF
        self.lines = max_fields + 1  # without the empty one at the end

    def harmless(self, most_fields: int) -> int:
        """Return up to which size a head with at most so many fields is within all limits."""
        size, fields = min(self.head, self.line), self.lines - 1
        return size if most_fields <= fields else min(size, _SHORTEST * fields)

    def allow(self, size: int, line: int, lines: int) -> bool:
        """Return whether a whole head of so many bytes is within the limits.

        `line`: the bytes of its request line; `lines`: how many there are, with the empty one.
        """
        return size <= self.head and line <= self.line and lines <= self.lines + 1


class HeadReader:
    """Cuts a stream of bytes into request heads (RFC 9112 2.1, 2.2), within `limits`.

    A NUL, a bare CR or a bare LF: 400.

    No answer depends on how the bytes were split: each fault becomes certain at one offset of
    the stream, the lowest offset wins, and at the same offset the lowest status. Each byte is
    looked at a bounded number of times, however small the pieces are.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._fault: tuple[int, str] | None = None
        self._restart()

    def _restart(self) -> None:
        self._head = 0  # where the request line starts, after any empty lines
        self._line = 0  # where the current line starts
        self._seen = 0  # bytes that were looked at
        self._lines = 0  # lines that are finished: the request line and fields

    @property
    def pending(self) -> bool:
        """Whether a part of a head is buffered; whole empty lines before it are none."""
        return len(self._buffer) > self._head

    @property
    def buffered(self) -> bytes:
        """A copy of the bytes after the last head that `next_head` returned."""
        return bytes(self._buffer)

    def take(self) -> bytes:
        """The same, which is no head; what follows it is fed again. After a head alone."""
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken

    def feed(self, data: bytes) -> None:
        """Add bytes of the stream. After an error they are dropped."""
        if self._fault is None:
            self._buffer += data

    def next_head(self) -> bytes | None:
        """One head with its final CRLFCRLF, without empty lines before it (RFC 9112 2.2).

        None if more bytes are needed; bytes after the head stay buffered. Raises HttpError 400,
        414 or 431 at the first fault of the stream, and again at every later call.
        """
        if self._seen == 0 and self._fault is None and (end := self._end_of_usual_head()):
            return self._take(end)
        while self._fault is None:
            if self._lines == 0 and self._seen == self._line:
                self._skip_empty_lines()
            newline = self._buffer.find(b"\n", self._seen)
            stop = newline + 1 or len(self._buffer)
            empty = newline == self._line + 1
            ends_head = empty and self._lines > 0
            self._fault = self._first_fault(stop, newline >= 0, empty, ends_head)
            if self._fault is not None:
                break
            self._seen = stop
            if newline < 0:
                return None
            if ends_head:
                return self._take(stop)
            self._line = stop
            if empty:
                self._head = stop
            else:
                self._lines += 1
        raise HttpError(*self._fault)

    def _end_of_usual_head(self) -> int:
        """Where a head ends that is all there, without a fault; 0: look at it line by line."""
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4 or self._buffer.startswith(b"\r\n") or self._buffer.find(b"\0", 0, end) >= 0:
            return 0
        # Where there are as many of either as of both together, none is alone. To search for
        # _FAULT takes a hundred times as long.
        lines = self._buffer.count(b"\n", 0, end)
        pairs = self._buffer.count(b"\r\n", 0, end)
        if pairs != lines or pairs != self._buffer.count(b"\r", 0, end):
            return 0
        return end if self._limits.allow(end, self._buffer.find(b"\n") + 1, lines) else 0

    def _skip_empty_lines(self) -> None:
        """Pass over the empty lines before a head, of which there may be thousands, at once."""
        empty = _EMPTY_LINES.match(self._buffer, self._seen)
        assert empty is not None
        self._head = self._line = self._seen = empty.end()

    def _take(self, stop: int) -> bytes:
        head = bytes(self._buffer[self._head : stop])
        del self._buffer[:stop]
        self._restart()
        return head

    def _first_fault(
        self, stop: int, ends_line: bool, empty: bool, ends_head: bool
    ) -> tuple[int, str] | None:
        """The fault at the lowest offset of what is new before `stop`, in the current line."""
        faults: list[tuple[int, int, str]] = []
        # From one byte before: a CR at the end of the last piece was undecided.
        malformed = _FAULT.search(self._buffer, max(self._line, self._seen - 1), stop)
        if malformed:
            faults.append((malformed.end() - 1, 400, "NUL, bare CR or bare LF in the head"))
        # A line (a head) of N bytes at most is too long once its Nth byte does not end it.
        line_limit = self._line + self._limits.line
        if self._lines == 0 and line_limit < stop + (not ends_line):
            faults.append((line_limit - 1, 414, "request line too long"))
        if self._limits.head < stop + (not ends_head):
            faults.append((self._limits.head - 1, 431, "head too large"))
        if ends_line and not empty and self._lines == self._limits.lines:
            faults.append((stop - 1, 431, "too many fields"))
        return min(faults)[1:] if faults else None
