"""What lies between a machine and the internet: asked, measured, never guessed.

`stun` is the wire (RFC 8489), `netcheck` the measuring of relays and NAT by it, `report` what
comes out and which relay becomes home.
"""
