"""Owns how several parts of a file are sent as one body (RFC 9110 14.6). Pure."""

from hashlib import blake2s

from .body import Body, FileSpan
from .ranges import Ranges


def content_range(offset: int, length: int, size: int) -> bytes:
    """The value of Content-Range (RFC 9110 14.4)."""
    return b"bytes %d-%d/%d" % (offset, offset + length - 1, size)


def multipart(ranges: Ranges, size: int, media_type: bytes, tag: bytes) -> tuple[bytes, Body]:
    """The type, and the body, of an answer with several parts.

    `size` (in bytes), `media_type` and `tag` are those of the whole (b"": it has no
    tag). The delimiter is made from its entity tag. It need not be secret: who writes it into a
    file spoils their own file.
    """
    delimiter = blake2s(tag, digest_size=15).hexdigest().encode()
    # CRLF comes before the first delimiter as well: RFC 2046 5.1.1 allows it, zsync needs it.
    start = b"\r\n--%b\r\nContent-Type: %b\r\nContent-Range: bytes " % (delimiter, media_type)
    body: list[bytes | FileSpan] = []
    for offset, length in ranges:
        body += (
            b"%b%d-%d/%d\r\n\r\n" % (start, offset, offset + length - 1, size),
            FileSpan(offset, length),
        )
    body.append(b"\r\n--%s--\r\n" % delimiter)
    return b"multipart/byteranges; boundary=" + delimiter, tuple(body)
