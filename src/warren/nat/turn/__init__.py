"""TURN, both ends, without sockets (RFC 8656): a relay for who can't be reached directly."""
