"""Kernel: the only package that touches time, chance, ids and tasks.

Everything above asks a `Node` for its clock, entropy and tasks. One running copy of an app has one node; a simulation
gives each of its copies a node of its own, and one seed then replays a whole cluster in one process.
"""
