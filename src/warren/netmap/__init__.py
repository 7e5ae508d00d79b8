"""The values of the control plane, and how maps grow by deltas.

Both ends of the wire use this room: the coordinator makes a view for each node and sends
`diff(last_sent, view)`; the node keeps `fold(view, response)`.
"""
