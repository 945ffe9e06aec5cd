"""Telemetry: what a running copy tells of itself: logs, metrics, spans, health, and named points where a test may kill it."""
