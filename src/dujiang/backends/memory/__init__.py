"""Adapters that keep everything in the memory of their process."""
