"""What lies between a machine and the internet: asked, measured, never guessed.

`stun` is the wire (RFC 8489), `netcheck` the measuring of relays and NAT by it, `report` what
comes out and which relay becomes home.

`portmap` asks a router for a port: `natpmp`, `pcp`, `ssdp` and `upnp` are the wires, `dialects`
with `datagram_asker` and `upnp_asker` the conversations, `mapping` the values that come of them.
"""
