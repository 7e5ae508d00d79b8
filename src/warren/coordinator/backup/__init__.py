"""Backups of a server: one file with its keys, certificates and all rows of its database."""
