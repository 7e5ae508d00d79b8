"""How large the numbers of options may be, for the full command line and for the quick one."""

from __future__ import annotations

MAX_PORT = 65_535
MAX_THREADS = 16
"""Threads that take packets in, and as many that send (`warren daemon --threads`)."""
