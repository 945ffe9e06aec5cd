"""The migrations of the app that is explored."""
