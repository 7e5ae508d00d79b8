"""Fuzz targets: every parser of outside bytes, each with seeds from the recording.

`python -m fuzz` (`make fuzz`) runs them; `make test` runs each one's entry on seeded mutations.
"""
