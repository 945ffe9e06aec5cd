"""Contracts: what a version of an app promises to those who read what it wrote, as a file; and what a change of it breaks."""
