"""Resilience: what keeps a failure small. Knows nothing of databases or messages."""
