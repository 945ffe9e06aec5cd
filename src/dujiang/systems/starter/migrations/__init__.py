"""The migrations of the notes."""
