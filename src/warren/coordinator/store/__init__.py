"""The database: the only room that knows SQL.

Everything that the coordinator decides on is in memory (`snapshot`); the database is its
durable copy. So there are few statements here: read all at start, write one delta at a time.
"""

from warren.coordinator.store.connecting import StoreAway, StoreProblem
from warren.coordinator.store.database import AuditQuestion, Store

__all__ = ["AuditQuestion", "Store", "StoreAway", "StoreProblem"]
