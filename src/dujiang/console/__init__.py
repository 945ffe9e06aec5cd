"""Console: the operations API under /_dj/, health and metrics."""
