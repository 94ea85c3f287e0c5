"""The simulated world: disks, clients and the reference server, made of trio and virtual time."""
