"""The seam to the packet engine: commands down, events up, nothing else."""
