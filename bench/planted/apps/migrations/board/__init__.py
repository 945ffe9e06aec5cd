"""The migrations of `board`."""
