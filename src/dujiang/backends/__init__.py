"""Backends: one folder for each technology, one file in it for each port that the technology serves.

Adapters are imported by nobody; `table.load` finds them by the scheme of a setting. Drivers are imported nowhere else.
"""
