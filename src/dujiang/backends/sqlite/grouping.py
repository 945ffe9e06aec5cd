"""Grouping: a column of a SELECT that is neither grouped nor inside an aggregate.

    SELECT name, count(*) FROM item            no row is meant: SQLite takes the name of some row, PostgreSQL refuses
    SELECT id, name FROM item GROUP BY id      fine: the key decides the name

Only what is surely wrong is found; a statement with parts that this module does not know is let through. So it holds
for statements that SQLAlchemy built, and not for text.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.sql.elements import ColumnClause, FunctionFilter, Label, Over, TextClause, WithinGroup
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.schema import Table
from sqlalchemy.sql.selectable import SelectBase, Subquery

__all__ = ["bare_column"]

AGGREGATES = frozenset(
    {
        "avg",
        "count",
        "group_concat",
        "json_group_array",
        "json_group_object",
        "max",
        "min",
        "string_agg",
        "sum",
        "total",
    }
)


def bare_column(select: Any) -> Any:
    """A column that stands bare among groups, or None."""
    columns = [part for raw in select._raw_columns for part in getattr(raw, "_select_iterable", (raw,))]  # noqa: SLF001
    grouped = [unlabelled(part) for part in select._group_by_clauses]  # noqa: SLF001
    if not grouped and not any(aggregates(part) for part in columns):
        return None
    if not all(isinstance(part, (ColumnClause, FunctionElement)) and is_plain(part) for part in grouped):
        return None
    return next((bare for part in columns if (bare := bare_inside(part, grouped)) is not None), None)


def unlabelled(part: Any) -> Any:
    """An expression without its label, or the reference to it."""
    while isinstance(part, Label) or type(part).__name__ == "_label_reference":
        part = part.element
    return part


def is_plain(part: Any) -> bool:
    """Whether an expression is no text of SQL."""
    return not getattr(part, "is_literal", False)


def is_aggregate(part: Any) -> bool:
    """Whether this very expression is an aggregate. A `max` of several values is none, on SQLite alone."""
    if isinstance(part, (FunctionFilter, WithinGroup)):
        return True
    return isinstance(part, FunctionElement) and getattr(part, "name", "").lower() in AGGREGATES


def is_opaque(part: Any) -> bool:
    """Whether an expression has rows, or a window, of its own; or is text."""
    return isinstance(part, (SelectBase, Subquery, Over, TextClause)) or hasattr(part, "scalar_subquery")


def aggregates(part: Any) -> bool:
    """Whether an expression holds an aggregate of its own SELECT."""
    if is_opaque(part):
        return False
    return is_aggregate(part) or any(aggregates(child) for child in part.get_children())


def bare_inside(part: Any, grouped: list[Any]) -> Any:
    """The first bare column of an expression, or None."""
    part = unlabelled(part)
    if is_opaque(part) or is_aggregate(part) or any(same(part, one) for one in grouped):
        return None
    if isinstance(part, ColumnClause):
        return part if is_plain(part) and part.table is not None and not decided(part, grouped) else None
    return next((bare for child in part.get_children() if (bare := bare_inside(child, grouped)) is not None), None)


def same(part: Any, one: Any) -> bool:
    """Whether two expressions are the same for a group."""
    if isinstance(part, ColumnClause) and isinstance(one, ColumnClause):
        return bool(part.shares_lineage(one))
    return bool(part.compare(one))


def decided(column: Any, grouped: list[Any]) -> bool:
    """Whether the key of the column's table is grouped, so that there is one value in each group."""
    table = getattr(column.table, "element", column.table)
    if not isinstance(table, Table):
        return True  # Of a subquery, a CTE: not looked into.
    keys = list(table.primary_key.columns)
    columns = [one for one in grouped if isinstance(one, ColumnClause)]
    return bool(keys) and all(any(key.shares_lineage(one) for one in columns) for key in keys)
