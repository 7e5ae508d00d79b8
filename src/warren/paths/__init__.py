"""Which way a peer is reached: one machine per peer, without sockets or clocks (PROTOCOL §5)."""
