"""A soak: clients of every kind on a real server, with faults that come and go at random.

`python -m bench.soak --minutes N`: no request may remain unanswered that no fault has hit, and at
the end nothing may be left of it all. Awaits.

`site` has the files, `clients` the load, `tls` their side of TLS, `faults` the faults and their
draw by a seed, `judge` the rules by which a failure is the fault's or the server's, `processes`
what may remain.
"""
