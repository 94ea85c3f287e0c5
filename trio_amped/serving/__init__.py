"""The serving room: the only one that awaits sockets. Accept, connection, handler, body."""
