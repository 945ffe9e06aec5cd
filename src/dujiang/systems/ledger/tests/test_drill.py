"""The ledger in the drill: killed, delayed and cut off in simulated clusters, its books balance."""

from __future__ import annotations

import pytest


@pytest.mark.drill("dujiang.systems.ledger:app", seeds=5, sweep=False)
def test_no_money_is_made_lost_or_moved_twice() -> None:
    """Five random schedules of faults violate nothing; `dujiang drill dujiang.systems.ledger:app` tries more."""
