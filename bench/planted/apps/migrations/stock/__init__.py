"""The migrations of `stock`."""
