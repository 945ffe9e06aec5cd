"""The migrations of `ledger`."""
