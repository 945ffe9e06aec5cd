"""Schema: whether the tables are what the code expects, and bringing them there.

state      embedded store        server database
empty      made                  made
current    -                     -
pending    upgraded at start     refused: `dujiang migrate` first, because other processes run on it
ahead      refused               refused
dirty      refused               refused
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.data.database import Database
    from dujiang.module import Module


class Schema:
    """The tables of one store.

    Args:
        database: The store.
        modules: The modules whose tables it holds.
    """

    def __init__(self, database: Database, modules: Sequence[Module]) -> None:
        self._database = database
        self._modules = modules
        self.was_empty = False

    async def prepare(self) -> None:
        """Bring the tables in order as the table above says."""
        raise NotImplementedError
