"""The servers of the experiments: ours in the shapes of the paper, and others. Pure."""

from dataclasses import replace

from bench.experiments.figure import Series
from bench.hot.peers import DEFAULT, OURS, PEERS, TUNED, Peer

AMPED, PROCESSES, SPED, ALWAYS, STARLETTE = OURS, f"{OURS}-process", "sped", "always", "uvicorn"
AIO = "nginx-aio"
NGINX = (DEFAULT, TUNED, AIO)


def ours(name: str, what: str, *options: str) -> Peer:
    """Return our server with these options."""
    base = PEERS[OURS]
    return replace(base, name=name, what=what, command=(*base.command, *options))


SHAPES = {
    peer.name: peer
    for peer in (
        PEERS[AMPED],
        PEERS[PROCESSES],
        ours(SPED, "trio_amped `--gate never`", "--gate", "never"),
        ours(ALWAYS, "trio_amped `--gate always`", "--gate", "always"),
        *(PEERS[name] for name in NGINX),
        PEERS[STARLETTE],
    )
}
SERIES = (
    Series(AMPED, "AMPED, threads", "ours"),
    Series(PROCESSES, "AMPED, processes", "ours", "--", "s"),
    Series(SPED, "SPED (--gate never)", "sped", "-", "v"),
    Series(ALWAYS, "a helper for every read (--gate always)", "always", "-", "^"),
    Series(DEFAULT, "nginx, default", "nginx", "-", "o"),
    Series(TUNED, "nginx, tuned", "nginx", "--", "s"),
    Series(AIO, "nginx, aio threads", "nginx", ":", "D"),
    Series(STARLETTE, "Starlette on uvicorn", "python", "-", "P"),
)
FILE_SERVERS = tuple(series for series in SERIES if series.name != STARLETTE)
