"""Locking: named locks that all processes of an installation share."""
