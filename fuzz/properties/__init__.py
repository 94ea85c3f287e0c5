"""The properties: each module has a subject, and lists its targets in `TARGETS`."""
