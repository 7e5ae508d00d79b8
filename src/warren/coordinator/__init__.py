"""The coordinator: who belongs to the network, and what each machine is told about it."""
