"""The experiments of the Flash paper, run again. See `python -m bench.experiments --help`."""
