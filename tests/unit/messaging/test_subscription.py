"""Subscriptions: what a declaration may say."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dujiang import Event, Module, Tx
from dujiang.kernel.errors import Declared


class Said(Event):
    """Something was said."""

    n: int


def test_a_start_without_a_zone_is_refused() -> None:
    """A time without a zone means another one on each machine."""
    module = Module("subscriptions")

    async def hear(tx: Tx, event: Said) -> None:
        """Nothing."""

    with pytest.raises(Declared, match="zone"):
        module.react(Said, start=datetime(2026, 1, 1))(hear)  # noqa: DTZ001
    assert module.react(Said, start=datetime(2026, 1, 1, tzinfo=UTC))(hear).start == datetime(2026, 1, 1, tzinfo=UTC)
