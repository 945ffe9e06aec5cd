"""Our side of each claim, on the public face only."""
