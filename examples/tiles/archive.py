"""A PMTiles archive (version 3) of the primes on Ulam's spiral: `python archive.py primes.pmtiles`.

Zoom 4 has a dot for each of the first 16 777 216 numbers, teal if it is prime; each zoom below has
the mean of four. The format: https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md
"""

import gzip
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ZOOM = 4  # the largest
TILE = 256  # dots on each side of a tile
SIDE = TILE << ZOOM
LEAF = 64  # entries of a leaf directory
GZIP, NONE, PNG = 2, 1, 2  # as the format has them


class Entry(NamedTuple):
    """Where a tile, or a leaf directory (`run` 0), is: bytes, from the start of its section."""

    id: int
    offset: int
    length: int
    run: int = 1


def spiral() -> bytearray:
    """SIDE rows of SIDE bytes: 1 for a prime. The numbers are wound around 1 in the middle."""
    limit = SIDE * SIDE + 1
    is_prime = bytearray([1]) * limit
    is_prime[0:2] = b"\0\0"
    for number in range(2, SIDE + 1):
        if is_prime[number]:
            multiples = range(number * number, limit, number)
            is_prime[multiples.start :: number] = bytes(len(multiples))
    dots = bytearray(SIDE * SIDE)
    place, number = (SIDE // 2) * SIDE + SIDE // 2 - 1, 1
    steps = (1, -SIDE, -1, SIDE)  # right, up, left, down
    for leg in range(2 * SIDE - 1):  # two legs of each length
        step, length = steps[leg % 4], leg // 2 + 1
        length = min(length, limit - number)
        stop = place + step * length
        dots[place : stop if stop >= 0 else None : step] = is_prime[number : number + length]
        place, number = stop, number + length
    return dots


def halved(dots: bytes, side: int) -> bytes:
    """Half as many rows and columns, with sums of four; no sum is above 255, see `colors`."""
    rows = [dots[start : start + side] for start in range(0, side * side, side)]
    made = []
    for above, below in zip(rows[::2], rows[1::2], strict=True):
        parts = (above[::2], above[1::2], below[::2], below[1::2])
        total = sum(int.from_bytes(part, "big") for part in parts)  # all the columns at once
        made.append(total.to_bytes(side // 2, "big"))
    return b"".join(made)


def colors(levels: int) -> bytes:
    """A palette for sums up to `levels`: paper where 3 % are primes, or less; teal from 15 %."""
    paper, teal = (244, 248, 247), (15, 118, 110)
    shares = [min(max(count / levels - 0.03, 0) / 0.12, 1) for count in range(256)]
    ends = list(zip(paper, teal, strict=True))
    return bytes(round(a + (b - a) * share) for share in shares for a, b in ends)


def png(rows: list[bytes], palette: bytes) -> bytes:
    """An image with a palette of 256 colors, a byte for each dot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    image = zlib.compress(b"".join(b"\0" + row for row in rows), 6)
    parts = chunk(b"IHDR", head) + chunk(b"PLTE", palette) + chunk(b"IDAT", image)
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


def tile_id(zoom: int, x: int, y: int) -> int:
    """The number of a tile: all of the zooms below, then along Hilbert's curve."""
    number, side = ((1 << 2 * zoom) - 1) // 3, 1 << zoom
    half = side >> 1
    while half:
        right, low = int(x & half > 0), int(y & half > 0)
        number += half * half * ((3 * right) ^ low)
        if not low:
            if right:
                x, y = side - 1 - x, side - 1 - y
            x, y = y, x
        half >>= 1
    return number


def tiles() -> Iterator[tuple[int, bytes]]:
    """The number and the image of each tile."""
    dots, levels = bytes(spiral()), 1
    for zoom in range(ZOOM, -1, -1):
        side, palette = TILE << zoom, colors(levels)
        for y in range(1 << zoom):
            for x in range(1 << zoom):
                corner = y * TILE * side + x * TILE
                starts = range(corner, corner + TILE * side, side)
                rows = [dots[start : start + TILE] for start in starts]
                yield tile_id(zoom, x, y), png(rows, palette)
        if zoom:
            dots, levels = halved(dots, side), levels * 4


def varint(number: int) -> bytes:
    """Seven bits in each byte, the lowest first; the highest bit says that more follow."""
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])


def directory(entries: list[Entry]) -> bytes:
    """Its columns one after the other; an offset of 0 says: right after the one before."""
    numbers = [len(entries)]
    ids = [each.id for each in entries]
    numbers += [number - before for before, number in zip([0, *ids[:-1]], ids, strict=True)]
    numbers += [each.run for each in entries]
    numbers += [each.length for each in entries]
    end = None
    for each in entries:
        numbers.append(0 if each.offset == end else each.offset + 1)
        end = each.offset + each.length
    return gzip.compress(b"".join(map(varint, numbers)), mtime=0)


def archive() -> bytes:
    """The whole file: header, root directory, metadata, leaf directories, tiles."""
    images = sorted(tiles())
    data, entries = bytearray(), []
    for number, image in images:
        entries.append(Entry(number, len(data), len(image)))
        data += image
    leaves, roots = bytearray(), []
    for start in range(0, len(entries), LEAF):
        leaf = directory(entries[start : start + LEAF])
        roots.append(Entry(entries[start].id, len(leaves), len(leaf), run=0))
        leaves += leaf
    root = directory(roots)
    about = {"name": "Primes", "description": "The primes below 16 777 217 on Ulam's spiral"}
    metadata = gzip.compress(json.dumps(about).encode(), mtime=0)

    places, start = [], 127
    for part in (root, metadata, leaves, data):
        places += [start, len(part)]
        start += len(part)
    counts = [len(entries)] * 3  # tiles, entries, and different ones
    world = (-180_0000000, -85_0511287, 180_0000000, 85_0511287)
    header = b"PMTiles\x03" + struct.pack("<11Q", *places, *counts)
    header += struct.pack("<BBBBBB4iBii", 1, GZIP, NONE, PNG, 0, ZOOM, *world, 0, 0, 0)
    return header + root + metadata + leaves + data


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(archive())
