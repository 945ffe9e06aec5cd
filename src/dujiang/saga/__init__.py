"""Sagas: a few steps in different places, all of which happen, or are undone in reverse order."""
