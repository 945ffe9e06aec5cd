"""The migrations of `payments`."""
