"""Being here, this file puts `tests/` on the path: `from vectors.captures import sessions`."""
