"""The rows of the benchmark, in the order of the report. Pure."""

from dataclasses import replace

from bench.hot.files import KIB, MIB, ZIPF_FILES, touch_sizes, zipf_sizes
from bench.hot.workloads import BROWSER, DATE, ID, RANGE, TAG, Workload, plain

_ZIPF = Workload(
    "zipf",
    f"{ZIPF_FILES} files of 0.5 to 64 KiB by Zipf's law, the same head",
    tuple(zipf_sizes()),
    BROWSER,
    warms_up=True,
)
_RANGES = plain("Range: bytes=1000000-1004095,5000000-5004095,9000000-9004095")
_BOTH = (f"If-None-Match: {TAG}", f"If-Modified-Since: {DATE}")
# Of all servers; the rows after these are for those whose CPU time is the question.
_CLASSIC = (
    Workload("plain", "one file of 1 KiB"),
    Workload(
        "unique", "1 KiB, a browser's head with a fresh cookie and id each time", head=BROWSER
    ),
    _ZIPF,
    Workload("64k", "one file of 64 KiB", ("/64k",), connections=32, load="exact"),
    Workload("1m", "one file of 1 MiB", ("/1m",), connections=8, load="exact"),
    Workload("16m", "one file of 16 MiB", ("/16m",), connections=4, load="exact"),
    Workload("close", "1 KiB, a connection for each request", head=plain("Connection: close")),
    Workload("pipeline", "1 KiB, 16 requests at once (for information)", depth=16),
)
# nginx has TLS 1.2 and 1.3 as well. wrk has no handshake for a connection that it keeps, and where
# it makes one anew it resumes its session: by tickets, which both servers have. s_time has no
# sessions, and asks by HTTP/1.0, without a Host.
_TLS = (
    Workload("tls", "by TLS: 1 KiB", tls=True),
    Workload("tls-64k", "by TLS: one file of 64 KiB", ("/64k",), connections=32, tls=True),
    Workload("tls-1m", "by TLS: one file of 1 MiB", ("/1m",), connections=8, tls=True),
    Workload(
        "tls-close",
        "by TLS: 1 KiB, a session resumed for each request",
        head=plain("Connection: close"),
        tls=True,
    ),
    Workload(
        "tls-full",
        "by TLS: 1 KiB, a whole handshake for each request, with a key of RSA-2048",
        version="1.0",
        connections=4,
        load="s_time",
        tls=True,
        key="rsa",
    ),
)
_KINDS = (
    Workload(
        "range-12k",
        "12 KiB at random places of a file of 16 MiB",
        ("/16m",),
        plain(f"Range: bytes={RANGE}"),
        status=206,
        span=12 * KIB,
    ),
    Workload(
        "range-1m",
        "1 MiB at random places of a file of 16 MiB",
        ("/16m",),
        plain(f"Range: bytes={RANGE}"),
        status=206,
        span=MIB,
        connections=8,
        load="exact",
    ),
    Workload("multirange", "three ranges of 4 KiB of 16 MiB", ("/16m",), _RANGES, status=206),
    Workload("304-tag", "304 by If-None-Match", head=plain(_BOTH[0]), status=304),
    Workload("304-date", "304 by If-Modified-Since", head=plain(_BOTH[1]), status=304),
    Workload("304-both", "304 by both, as browsers ask", head=plain(*_BOTH), status=304),
    Workload("404", "a name that is not there", ("/gone",), status=404),
    Workload("404-random", "another such name each time", (f"/gone-{ID}",), status=404),
    Workload("301", "a folder without its slash", ("/folder",), status=301),
    Workload(
        "412",
        "If-Match with another tag",
        head=plain('If-Match: "x"'),
        status=412,
        load="exact",
        may_end=True,  # nginx 1.22 says keep-alive then, and closes
    ),
    Workload("416", "a range behind the end", head=plain("Range: bytes=9999-"), status=416),
    Workload("head", "HEAD, 1 KiB", method="HEAD", load="exact"),
    Workload("query", "1 KiB, another query string each time", (f"/1k?v={ID}",)),
    Workload("origin", "1 KiB, asked by another site", head=plain("Origin: https://a.example")),
    Workload(
        "http-1.0",
        "1 KiB by HTTP/1.0 as ab asks, a connection each",
        head=plain("User-Agent: ApacheBench/2.3", "Accept: */*"),
        version="1.0",
    ),
    Workload("index", "1 KiB, the index.html of a folder", ("/folder/",)),
)
_TOUCH = Workload(
    "touch",
    "50 000 files of 1 KiB in memory, each once, after a start of the server",
    tuple(touch_sizes()),
    load="exact",
    connections=32,
    is_fresh=True,
    once=True,
)
_LOGGED = Workload(
    "log",
    "1 KiB, with an access log in the format `combined`",
    is_fresh=True,
    warms_up=True,
    logs=True,
)
_FRESH = (
    _TOUCH,
    replace(
        _ZIPF,
        name="first-second",
        what="zipf in the first second after a start",
        warms_up=False,
        is_fresh=True,
    ),
    Workload(
        "404-overlay",
        "404-random on overlayfs; ours as nobody, the files are root's",
        (f"/gone-{ID}",),
        status=404,
        is_fresh=True,
        warms_up=True,
        overlay=True,
    ),
    _LOGGED,
    replace(
        _TOUCH,
        name="touch-overlay",
        what="touch on overlayfs; ours as nobody, the files are root's",
        overlay=True,
    ),
)
WORKLOADS = {workload.name: workload for workload in (*_CLASSIC, *_TLS, *_KINDS, *_FRESH)}

PAPER = {f"paper-{size}": size for size in (64, 256, 512)}  # MiB of files
HERD = {"herd-new": True, "herd-cold": False}  # whether the file is a new one
CLIENTS = 3000  # of a herd
MEMORY = 160  # MiB that the kernel may keep of the files of `paper`
WORKERS, IDLE, TLS_IDLE = "workers", "idle", "tls-idle"

ROWS = {
    **{workload.name: workload.what for workload in WORKLOADS.values()},
    WORKERS: "1 KiB, 2 processes that serve, and the load on the same two cores",
    **{
        name: f"{size} MiB of files, {MEMORY} MiB of them in memory" for name, size in PAPER.items()
    },
    "herd-new": "3 000 clients ask at once for a file that has just been made",
    "herd-cold": "3 000 clients ask at once for a file of a fresh mount",
    IDLE: "the memory of an idle connection",
    TLS_IDLE: "the memory of an idle connection by TLS",
}
CLASSIC = (*(workload.name for workload in _CLASSIC), WORKERS, IDLE)
TLS = (*(workload.name for workload in _TLS), TLS_IDLE)
KINDS = tuple(workload.name for workload in _KINDS)
FRESH = tuple(workload.name for workload in _FRESH)
PAPER_NEEDS = ("root", "loop", "blkio", "memory")
NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(PAPER, PAPER_NEEDS),
    **dict.fromkeys(HERD, ("root", "loop")),
    **{name: ("nobody", "overlay") for name in FRESH if WORKLOADS[name].overlay},
}
