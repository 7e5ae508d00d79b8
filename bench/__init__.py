"""Measurements of Warren on this machine; nothing here asserts a speed."""
