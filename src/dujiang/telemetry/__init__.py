"""Telemetry: what a running copy says about itself: metrics, spans, logs, health, named crash points."""
