"""Peer relays: a machine of the network passes datagrams on between two others (PROTOCOL §5.12).

`server` is the machine that relays; `client` finds, for one peer, a way through such machines.
"""
