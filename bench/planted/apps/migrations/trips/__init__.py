"""The migrations of `trips`."""
