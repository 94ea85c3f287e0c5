"""Owns what a body is: data, so that its length is known before any of it is read. Pure."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class FileSpan:
    """A part of the open file: `offset` and `length` in bytes. Its len() is its length."""

    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


Body: TypeAlias = tuple[bytes | FileSpan, ...]


def inlined(body: Body, content: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
    """Return the parts of a body whose file has this content, which is not copied."""
    view = memoryview(content)
    return tuple(
        view[part.offset : part.offset + part.length] if isinstance(part, FileSpan) else part
        for part in body
    )
