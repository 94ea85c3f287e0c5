"""The semantics room: what HTTP means. Pure: bytes and ints in, values out."""
