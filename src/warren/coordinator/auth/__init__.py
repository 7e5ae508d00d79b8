"""How a machine comes to belong to the network (PROTOCOL §2.8)."""
