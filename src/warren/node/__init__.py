"""The node: joins a network, keeps its map, and steers the packet engine."""
