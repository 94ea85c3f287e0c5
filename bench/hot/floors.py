"""What is asked of our server, as data: the least or the most of a measure, for each row. Pure.

Where a floor is missed the run fails. A goal is what the server is to reach, and now is or is not.
"""

from bench.hot.rows import HERD, IDLE, PAPER, TLS_IDLE, WORKERS

# Requests a second in those of another server in the same round, ...
TUNED, DEFAULT, EARLIER = "of nginx tuned", "of nginx default", "of bench/BASE"
BETTER, BEST = "of the better nginx", "of the best other"
TASKS_OF_DEFAULT = "lane off, of nginx default"
# ... the CPU time of a request in that of another server in the same round, or in that of row
# plain of ours, ...
CPU_TUNED, CPU_DEFAULT, CPU_EARLIER = "CPU of tuned", "CPU of default", "CPU of BASE"
PLAIN_GETS = "CPU in plain GETs"
# ... how long a hot client waits meanwhile: milliseconds, and in what the best other server takes,
HOT, HOT_OF_BEST = "hot p99, ms", "hot p99 of the best"
# ... how long it takes until all have their answers, and the memory of a connection.
SECONDS, BYTES = "seconds", "bytes"
BYTES_OF_TUNED = "bytes of tuned"

MEASURES = (  # in the order of the report
    *(TUNED, DEFAULT, BETTER, BEST, EARLIER, TASKS_OF_DEFAULT),
    *(
        PLAIN_GETS,
        CPU_TUNED,
        CPU_DEFAULT,
        CPU_EARLIER,
        HOT,
        HOT_OF_BEST,
        SECONDS,
        BYTES,
        BYTES_OF_TUNED,
    ),
)
AT_MOST = {
    CPU_TUNED,
    CPU_DEFAULT,
    CPU_EARLIER,
    PLAIN_GETS,
    HOT,
    HOT_OF_BEST,
    SECONDS,
    BYTES,
    BYTES_OF_TUNED,
}

Bounds = dict[str, float]  # measure -> the least or the most of it

_AS_EVER = {CPU_EARLIER: 1.03}
_CHEAP = {PLAIN_GETS: 1.3, TUNED: 0.6}
_AT_ONCE = {SECONDS: 1.0, HOT: 10.0}
_FAIR = {PLAIN_GETS: 1.6, TUNED: 0.6}

FLOORS: dict[str, Bounds] = {
    "plain": {**_AS_EVER, TUNED: 0.95, TASKS_OF_DEFAULT: 0.2},
    "unique": {**_AS_EVER, TUNED: 0.90},
    "zipf": {PLAIN_GETS: 1.6, TUNED: 0.85},
    "64k": {**_AS_EVER, TUNED: 0.95},
    "1m": {**_AS_EVER, TUNED: 1.10},
    "16m": {**_AS_EVER, TUNED: 1.00},
    "close": {**_AS_EVER, TUNED: 0.5},
    **dict.fromkeys(("range-12k", "origin", "query", "head", "index", "404-random"), _FAIR),
    **dict.fromkeys(("304-tag", "304-date", "304-both", "301", "412", "416", "404"), _CHEAP),
    "range-1m": {TUNED: 1.0},
    "touch": {PLAIN_GETS: 4.0, TUNED: 0.35},
    "first-second": {TUNED: 0.5},
    "log": {PLAIN_GETS: 1.18},  # 15 % fewer requests than without a log
    "http-1.0": {TUNED: 0.6},
    "paper-64": {BEST: 0.75},
    "paper-256": {BEST: 0.85},
    "paper-512": {BEST: 0.85},
    **dict.fromkeys(HERD, _AT_ONCE),
    IDLE: {BYTES: 512},
    "tls": {TUNED: 0.5},
    "tls-64k": {TUNED: 0.6},
    "tls-1m": {TUNED: 0.6},
    "tls-close": {TUNED: 0.5},
    "tls-full": {TUNED: 0.5},
    TLS_IDLE: {BYTES_OF_TUNED: 1.5},
}

_AS_FAST = {TUNED: 1.0}
_THE_BEST = {BEST: 1.0, HOT_OF_BEST: 1.0}
_FASTER = {BETTER: 1.1}

GOALS: dict[str, Bounds] = {
    **dict.fromkeys(("plain", "unique", "64k", "1m", "16m", "close"), _FASTER),
    **dict.fromkeys(("zipf", "range-12k", "origin", "query", "head", "index"), _AS_FAST),
    **dict.fromkeys(("304-tag", "304-date", "304-both", "301", "412", "416"), _AS_FAST),
    **dict.fromkeys(("404", "404-random", "http-1.0", WORKERS), _AS_FAST),
    **dict.fromkeys(("404-overlay", "touch-overlay"), _AS_FAST),
    "range-1m": {TUNED: 1.2},
    "touch": {TUNED: 0.8},
    "first-second": {TUNED: 0.9},
    "log": {PLAIN_GETS: 1.07},  # what it costs nginx
    **dict.fromkeys(PAPER, _THE_BEST),
    IDLE: {BYTES: 512},
}
