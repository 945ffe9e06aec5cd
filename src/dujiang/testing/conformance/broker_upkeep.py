"""x."""

from dujiang.testing.conformance.stage import StageSuite


class UpkeepCases(StageSuite):
    """x."""
