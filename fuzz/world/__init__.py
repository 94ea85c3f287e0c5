"""The simulated world: files, a disk, clients and their servers, on virtual time.

`disk` fails, waits and changes as it is planned; `hosts` serve it in all three ways; `clients` do
what they are told; `runs` makes one run of it all, which can be replayed; `points` enumerates where
it can be cancelled; `reference` says what the answers should have been.
"""
