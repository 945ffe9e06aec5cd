"""A model of the cache that processes share, for the simulation."""
