"""The simulated world: files, a disk, clients and their servers, on virtual time.

`disk` fails, waits and changes as it is planned; `requests` are made up; `clients` do what they
are told; `hosts` serve in all three ways; `scenes` put that together, and judge what came of it;
`runs` makes one run of it, which can be replayed; `points` enumerates where it can be cancelled;
`reference` says what the answers should have been.
"""
