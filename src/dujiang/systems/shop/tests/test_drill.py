"""The shop in the drill: killed, delayed and cut off in simulated clusters, its laws hold."""

from __future__ import annotations

import pytest


@pytest.mark.drill("dujiang.systems.shop:app", seeds=5, sweep=False)
def test_nothing_is_lost_doubled_or_oversold() -> None:
    """Five random schedules of faults violate nothing; `dujiang drill dujiang.systems.shop:app` tries more."""
