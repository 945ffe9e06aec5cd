"""App: what a declaration refuses by itself."""

from __future__ import annotations

import pytest

from dujiang import App, Event, Module, Tx
from dujiang.kernel.errors import Declared


class Said(Event):
    """Something was said."""

    n: int


@pytest.mark.parametrize("renamed", [{"site.hear": "site.listen"}, {"site.hear": None}, {"Said": None}])
def test_a_name_that_is_there_cannot_have_been_renamed(renamed: dict[str, str | None]) -> None:
    """Each start would take the reaction's work, or the event's messages, away from it again."""
    module = Module("site")

    @module.react(Said)
    async def hear(tx: Tx, event: Said) -> None:
        """Nothing."""

    with pytest.raises(Declared, match="was renamed or is gone, and has it"):
        App(modules=[module], renamed=renamed)
