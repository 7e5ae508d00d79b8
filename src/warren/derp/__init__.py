"""DERP, the relay protocol, both ends, without sockets (PROTOCOL §4).

The order on a connection: `upgrade` (HTTP/1.1; left out in a fast start and over WebSocket) →
`login` (who is it? sealed boxes both ways) → `frames`. `metacert` is how a relay's key travels
inside TLS, which makes the fast start possible.
"""
