"""ts2021, the control protocol's transport, both ends, without sockets (PROTOCOL §2, §3.3).

The order on a connection: `upgrade` (HTTP/1.1 or WebSocket) → `handshake` (Noise IK) →
`records` (sealed frames) → `early` (one payload of the server) → `channel` (HTTP/2) →
`mapstream` (the frames inside a map response's body).
"""
