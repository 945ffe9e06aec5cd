"""Adapters that live in the port `database`, on whatever it points to."""
