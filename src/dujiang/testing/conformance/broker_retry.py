"""x."""

from dujiang.testing.conformance.stage import StageSuite


class RetryCases(StageSuite):
    """x."""
