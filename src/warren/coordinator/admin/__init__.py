"""The administration API: plain HTTP with JSON over a Unix socket that only its owner may open."""
