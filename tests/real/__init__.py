"""A real server process, real files, a real client: what a user would see."""
