"""Serve files at a UNIX socket, for a proxy such as nginx: `python examples/unix_socket.py PATH`.

Try `curl --unix-socket PATH http://localhost/`. Each request is written to stdout when it has been
answered, by the hook that a log of requests is made with.
"""

import socket
import sys
from pathlib import Path

import trio

import trio_amped

SITE = Path(__file__).parent / "site"


def tell(answer: trio_amped.Answered) -> None:
    milliseconds = 1000 * answer.seconds
    print(answer.status, answer.method, answer.target, f"{milliseconds:.1f} ms", flush=True)


def remove_if_left(path: Path) -> None:
    """Remove a socket at which nobody listens; what else is there is for `bind` to tell."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


async def main(path: str) -> None:
    with trio.socket.socket(socket.AF_UNIX) as sock:
        try:
            await sock.bind(path)
        except OSError as error:
            sys.exit(f"{path}: {error.strerror}")
        sock.listen()
        server = trio_amped.Server(trio_amped.Config(root=SITE, on_request=tell))
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(server.serve, [trio.SocketListener(sock)])
            print(f"serving at {address}", flush=True)


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "trio_amped.socket")
    remove_if_left(place)  # by an earlier run
    try:
        trio.run(main, str(place))
    except* KeyboardInterrupt:
        remove_if_left(place)
