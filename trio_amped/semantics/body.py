"""Owns what a body is: data, so that its length is known before any of it is read. Pure."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(slots=True)  # to make one takes three times as long if it is frozen
class FileSpan:
    """A part of the open file: `offset` and `length` in bytes. Its len() is its length."""

    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


Body: TypeAlias = tuple[bytes | FileSpan, ...]


def inlined(
    body: Body, content: bytes | memoryview, start: int = 0
) -> tuple[bytes | memoryview, ...]:
    """Return the parts of a body whose file has this content, which is not copied.

    `start`: the offset of the content in the file.
    """
    view = memoryview(content)
    return tuple(
        [
            view[part.offset - start : part.offset - start + part.length]
            if isinstance(part, FileSpan)
            else part
            for part in body
        ]
    )
