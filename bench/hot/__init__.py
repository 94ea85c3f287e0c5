"""How fast resident files are served, beside other servers. See `python -m bench.hot --help`."""
