"""The notes in the drill: killed, delayed and cut off in simulated clusters, their laws hold."""

from __future__ import annotations

import pytest


@pytest.mark.drill("dujiang.systems.starter:app", seeds=5, sweep=False)
def test_nothing_is_lost_or_doubled() -> None:
    """Five random schedules of faults violate nothing; `dujiang drill` also kills at every place where a handler waits."""
