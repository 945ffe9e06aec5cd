"""The peers, each run by the interpreter of its own environment."""
