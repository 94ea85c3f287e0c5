"""Makes primes.txt and ../images/spiral.png, the same bytes every time: python3 make_files.py"""

import struct
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMIT = 2_000_000
SIDE = 257  # odd, so that the spiral has a middle


def sieve(limit: int) -> bytearray:
    """One byte for each number below limit: 1 for a prime (Eratosthenes)."""
    is_prime = bytearray([1]) * limit
    is_prime[0:2] = b"\0\0"
    for number in range(2, int(limit**0.5) + 1):
        if is_prime[number]:
            multiples = range(number * number, limit, number)
            is_prime[multiples.start :: number] = bytes(len(multiples))
    return is_prime


def spiral(is_prime: bytearray, side: int) -> list[bytearray]:
    """Ulam's spiral: 1 in the middle, the numbers wound around it, a dot for each prime."""
    rows = [bytearray(side) for _ in range(side)]
    x = y = side // 2
    dx, dy = 1, 0
    number, length = 1, 1
    while True:
        for _ in range(2):  # two legs of each length, then one longer
            for _ in range(length):
                rows[y][x] = is_prime[number]
                if number == side * side:
                    return rows
                x, y, number = x + dx, y + dy, number + 1
            dx, dy = dy, -dx
        length += 1


def png(rows: list[bytearray]) -> bytes:
    """One bit for each dot: 0 is transparent, 1 is a teal that suits light and dark pages."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    def packed(row: bytearray) -> bytes:
        bits = "".join(map(str, row)).ljust(-len(row) // 8 * -8, "0")
        return b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 1, 3, 0, 0, 0)
    # Level 0 stores without compressing: every zlib then writes the same bytes.
    pixels = zlib.compress(b"".join(map(packed, rows)), 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", bytes.fromhex("ffffff 17968a"))
        + chunk(b"tRNS", b"\0\xff")
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def main() -> None:
    is_prime = sieve(LIMIT)
    primes = [number for number in range(LIMIT) if is_prime[number]]
    (HERE / "primes.txt").write_text("".join(f"{prime}\n" for prime in primes))
    (HERE.parent / "images" / "spiral.png").write_bytes(png(spiral(is_prime, SIDE)))


if __name__ == "__main__":
    main()
