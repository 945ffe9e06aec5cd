"""Dujiang: you write the domain, it supplies the production architecture."""
