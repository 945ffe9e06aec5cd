"""The migrations of `wallet`."""
