"""Caching: answers of reads that are kept, and never given once they are known to be outdated."""
