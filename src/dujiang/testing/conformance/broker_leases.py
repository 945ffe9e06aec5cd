"""x."""

from dujiang.testing.conformance.stage import StageSuite


class LeaseCases(StageSuite):
    """x."""
