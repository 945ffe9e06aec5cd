"""History: which scripts make a part of the schema, and which table records how far they were run.

Apart from data/migrate.py, because a start whose tables are current asks for no more than this and loads no Alembic.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LOCK", "PLATFORM", "History"]

# Upgrades of one server database wait for each other by an advisory lock of this number: the letters "dujiang".
LOCK = int.from_bytes(b"dujiang")


@dataclass(frozen=True)
class History:
    """One history of scripts.

    Attributes:
        name: The module's name; empty for the platform's.
        package: The package that holds the scripts.
    """

    name: str
    package: str

    @property
    def table(self) -> str:
        """The table that records its version."""
        return f"dj_version_{self.name}" if self.name else "dj_version"

    def __str__(self) -> str:
        return self.name or "dujiang"


PLATFORM = History("", "dujiang.data.migrations.versions")
