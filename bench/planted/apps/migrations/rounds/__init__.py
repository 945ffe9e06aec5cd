"""The migrations of `rounds`."""
