"""Benchmarks: one file per claim, each beside its peer and its limit. README.md says how to run and read them."""
