"""State: the rows of the user's tables, to be compared: before and after a repetition, with and without a crash.

Between two runs ids, times and random texts differ without meaning anything, so they are masked: integers that are too
large for a count, and long runs of digits or hexadecimal digits. What differs between two calm runs all the same is a
column that tells how it went, not what came of it, and is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dujiang.drill.world import World

COUNT_MAX = 1 << 40
LONG = re.compile(r"[0-9a-fA-F]{12,}|[0-9a-fA-F-]{20,}")
OURS = ("dj_", "sqlite_", "alembic_")
EVENTS = "SELECT 'events of ' || topic, count(*) FROM dj_outbox GROUP BY topic ORDER BY topic"
# A saga turns back when its time is over, or its tries are: which ones do follows from what a fault has taken.
LATE = "sagas that turned back"
TURNED_BACK = "SELECT count(DISTINCT saga_id) FROM dj_saga_step WHERE kind IN (3, 4, 8, 9)"
ROWS_SHOWN = 3

Tables = dict[str, list[list[Any]]]


@dataclass(frozen=True)
class Calm:
    """The rows at the end of a run in which nothing happened.

    Attributes:
        rows: Of each table, as a bag.
        without: Columns that differ between two such runs.
    """

    rows: dict[str, Counter[str]]
    without: dict[str, set[str]]

    @classmethod
    def of(cls, first: Tables, second: Tables) -> Calm:
        """What two calm runs have in common."""
        without = unsteady(first, second)
        return cls(canonical(first, without), without)

    def differs(self, tables: Tables) -> str:
        """How the end of another run differs, in one sentence; empty when it does not, or when other sagas turned back."""
        found = canonical(jsonable(tables), self.without)
        return "" if found.get(LATE) != self.rows.get(LATE) else difference(self.rows, found)


def jsonable(tables: Mapping[str, list[list[Any]]]) -> Tables:
    """Tables without bytes."""
    return {
        name: [[value.hex() if isinstance(value, bytes) else value for value in row] for row in rows]
        for name, rows in tables.items()
    }


def tables_of(world: World) -> Tables:
    """Every table of the user, its column names first, its rows in an order of their own; and the events by topic."""
    found: Tables = {}
    for name in world.store.tables():
        if not name.startswith(OURS) and not name.endswith("_version"):
            columns = [row[1] for row in world.store.rows(f'PRAGMA table_info("{name}")')]
            rows = world.store.rows(f'SELECT * FROM "{name}"')
            found[name] = [columns, *sorted((list(row) for row in rows), key=repr)]
    for name, count in world.store.rows(EVENTS):
        found[name] = [["count"], [count]]
    found[LATE] = [["count"], *([count] for (count,) in world.store.rows(TURNED_BACK))]
    return found


def masked(value: Any) -> Any:
    """A value without what differs between any two runs."""
    if isinstance(value, int) and abs(value) >= COUNT_MAX:
        return "#"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return LONG.sub("#", value) if isinstance(value, str) else value


def canonical(tables: Mapping[str, list[list[Any]]], without: Mapping[str, set[str]]) -> dict[str, Counter[str]]:
    """The rows of each table as a bag, masked, without some columns."""
    found = {}
    for name, (columns, *rows) in tables.items():
        kept = [place for place, column in enumerate(columns) if column not in without.get(name, ())]
        found[name] = Counter(", ".join(f"{columns[place]}={masked(row[place])!r}" for place in kept) for row in rows)
    return found


def unsteady(first: Mapping[str, list[list[Any]]], second: Mapping[str, list[list[Any]]]) -> dict[str, set[str]]:
    """Columns whose values differ between two calm runs."""
    found: dict[str, set[str]] = {}
    for name, (columns, *rows) in first.items():
        others = second.get(name, [columns])[1:]
        for place, column in enumerate(columns):
            if bag(rows, place) != bag(others, place):
                found.setdefault(name, set()).add(column)
    return found


def bag(rows: list[list[Any]], place: int) -> Counter[str]:
    """The values of one column, masked."""
    return Counter(repr(masked(row[place])) for row in rows)


def difference(wanted: Mapping[str, Counter[str]], found: Mapping[str, Counter[str]]) -> str:
    """What is missing and what is too much, in one sentence; empty when they are equal."""
    said = []
    for name in sorted({*wanted, *found}):
        missing, extra = wanted.get(name, Counter()) - found.get(name, Counter()), Counter(found.get(name, {}))
        extra -= wanted.get(name, Counter())
        for word, rows in (("lacks", missing), ("has besides", extra)):
            shown = "; ".join(
                f"{count} x ({row})" if count > 1 else f"({row})" for row, count in list(rows.items())[:ROWS_SHOWN]
            )
            if shown:
                said.append(f"{name} {word} {shown}")
    return ", ".join(said)


def changed(before: Tables, after: Tables) -> str:
    """How two states of one run differ; exact."""
    plain = [
        {name: Counter(repr(row) for row in rows) for name, (_, *rows) in tables.items()} for tables in (before, after)
    ]
    return difference(plain[0], plain[1])
