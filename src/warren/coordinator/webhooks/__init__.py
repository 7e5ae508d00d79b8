"""Webhooks: who is told of what, in the service's form (PROTOCOL §13), and how it gets there.

`events` makes events of what changes, `subscriptions` and `outbox` decide what is kept for whom,
`messages` writes and signs it, `sender` brings it there. What waits is in the database, written
in the transaction of the change that it tells of.
"""
