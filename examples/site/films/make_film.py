"""Makes sieve.webm, a minute of the sieve of Eratosthenes, by ffmpeg: python3 make_film.py"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
COLUMNS, ROWS, CELL = 64, 36, 5  # numbers in a row, rows of them, and dots on a side of each
FRAMES = 10  # a second
TURN = 4  # seconds for each prime: its multiples go in the first three
FADE = 5  # frames in which what goes grows dark

GROUND, GONE = (19, 27, 26), (36, 48, 46)
HERE_STILL, ITSELF, GOING = (23, 150, 138), (240, 250, 248), (245, 180, 91)

LAST = COLUMNS * ROWS
PRIMES = [p for p in range(2, 49) if all(p % factor for factor in range(2, p))]


def goes_at() -> dict[int, int]:
    """The frame in which each number that is no prime goes."""
    frames = {1: 0}
    for turn, prime in enumerate(PRIMES):
        multiples = range(prime * prime, LAST + 1, prime)
        for place, number in enumerate(multiples):
            late = place * 3 * FRAMES // len(multiples)
            frames.setdefault(number, turn * TURN * FRAMES + late)
    return frames


def color(number: int, frame: int, gone: dict[int, int]) -> tuple[int, int, int]:
    """Of a number in a frame."""
    if number == PRIMES[frame // (TURN * FRAMES)]:
        return ITSELF
    age = frame - gone.get(number, 10**6)
    if age < 0:
        return HERE_STILL
    left = max(FADE - age, 0) / FADE
    red, green, blue = (round(b + (a - b) * left) for a, b in zip(GOING, GONE, strict=True))
    return red, green, blue


def film() -> Iterator[bytes]:
    """Each frame: rows of dots of three bytes."""
    gone = goes_at()
    gap = bytes(GROUND) * COLUMNS * CELL
    for frame in range(len(PRIMES) * TURN * FRAMES):
        rows = []
        for first in range(1, LAST, COLUMNS):
            colors = (color(number, frame, gone) for number in range(first, first + COLUMNS))
            line = b"".join(bytes(each) * (CELL - 1) + bytes(GROUND) for each in colors)
            rows.append(line * (CELL - 1) + gap)
        yield b"".join(rows)


def main() -> None:
    size = f"{COLUMNS * CELL}x{ROWS * CELL}"
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(FRAMES), "-i", "-")
    coded = ("-c:v", "libvpx-vp9", "-crf", "48", "-b:v", "0", "-g", "150", "-pix_fmt", "yuv420p")
    argv = ["ffmpeg", "-v", "error", "-y", *raw, *coded, "-row-mt", "1", str(HERE / "sieve.webm")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as ffmpeg:
        assert ffmpeg.stdin
        for frame in film():
            ffmpeg.stdin.write(frame)
    if ffmpeg.returncode:
        raise SystemExit("ffmpeg failed")


if __name__ == "__main__":
    main()
