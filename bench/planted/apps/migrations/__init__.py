"""The migrations of the planted applications, one package for each."""
