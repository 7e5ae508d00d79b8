"""Warren: a mesh VPN that a person can run whole."""

__version__ = "0.1.0"
