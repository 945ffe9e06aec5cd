"""x."""

from dujiang.testing.conformance.stage import StageSuite


class DeadCases(StageSuite):
    """x."""
