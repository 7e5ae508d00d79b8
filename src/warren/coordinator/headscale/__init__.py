"""Takes over a network from Headscale: its database is read, and becomes records of ours."""
