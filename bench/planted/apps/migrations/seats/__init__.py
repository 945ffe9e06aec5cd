"""The migrations of `seats`."""
