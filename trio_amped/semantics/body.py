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


def inlined(body: Body, content: bytes | memoryview) -> tuple[bytes, ...]:
    """Return the parts of a body whose file has this content."""
    return tuple(
        part if isinstance(part, bytes) else bytes(content[part.offset : part.offset + part.length])
        for part in body
    )
