"""Planted bugs: realistic mistakes, each in one place, that `dujiang drill` must find by itself."""
