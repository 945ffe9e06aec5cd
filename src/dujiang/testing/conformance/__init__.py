"""Conformance: one suite per port; an adapter that passes it keeps the port's numbered promises."""
