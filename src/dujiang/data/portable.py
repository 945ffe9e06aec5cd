"""Portable: what a migration script asks about its store, instead of naming a product.

    from alembic import op
    from dujiang.data.portable import has_partitions

    def upgrade() -> None:
        tail = "PARTITION BY RANGE (seq)" if has_partitions(op) else ""

The answers are those of the capabilities that the adapters declare (data/database.py); tests/unit/data/test_migrate.py
holds the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy.types import TypeEngine

__all__ = ["Op", "bytes_type", "has_many_writers", "has_partitions", "key_type", "partial_index"]

SERVERS = frozenset({"postgresql"})


class Op(Protocol):
    """What is used of `alembic.op`."""

    def get_context(self) -> MigrationContext:
        """The migration that runs."""
        ...

    def create_index(self, index_name: str | None, table_name: str, columns: Any, **options: Any) -> Any:
        """Create an index."""
        ...


def has_many_writers(op: Op) -> bool:
    """Whether several processes may write at once; otherwise one process owns the store."""
    return op.get_context().dialect.name in SERVERS


def has_partitions(op: Op) -> bool:
    """Whether a table can be made of parts that are dropped whole."""
    return op.get_context().dialect.name in SERVERS


def key_type(op: Op) -> str:
    """The SQL type of text that is compared by its bytes."""
    return 'TEXT COLLATE "C"' if has_many_writers(op) else "TEXT"


def bytes_type(op: Op) -> str:
    """The SQL type of bytes."""
    kind: TypeEngine[Any] = sqlalchemy.LargeBinary()
    return kind.compile(op.get_context().dialect)


def partial_index(op: Op, name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    """Create an index of the rows for which `where` holds."""
    condition = sqlalchemy.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)
