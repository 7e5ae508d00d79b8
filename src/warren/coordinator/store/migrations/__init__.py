"""Alembic's room: every released schema, step by step."""
