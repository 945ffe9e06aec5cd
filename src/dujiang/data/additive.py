"""Additive: whether a script only added something, so that code which does not know the script can go on.

    before ─► script ─► after      the tables as the database describes them, all in the script's own transaction
       └────► compared ◄──┘        only added: a row `additive:["dj_version_shop", "0001", "0002"]` in dj_counter

An older program cannot read the scripts of a newer one, so whoever runs a script says what it was. An older program that
finds itself behind follows these rows from its own last revision to that of the store; if they lead there, its tables are
all there as it knows them, and a deploy can be taken back without a restore.

Added are tables, views, columns that may be NULL or have a default, and indexes that forbid nothing. Everything else on a
table that was there counts as a change: a column that is gone, renamed or of another type, a default, a constraint, a unique
index, a trigger. What a script does to rows is not seen; a script whose update changes the meaning of what older code reads
says so by `additive = False`, and one that knows better by `additive = True`, beside its `revision`.

Rejected: comparing the tables of the older code with the store, since their types are not the same in both descriptions, and
the platform's own tables have no such description; a promise of each author, which is forgotten on the day it matters.
tests/unit/data/test_additive.py makes each kind of change on both databases.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy

if TYPE_CHECKING:
    from dujiang.data.history import History

__all__ = ["Shape", "additions", "leads", "only_added", "remember", "shape_of"]

KEPT_IN = "dj_counter"
PREFIX = "additive:"

REMEMBER = sqlalchemy.text("INSERT INTO dj_counter (name, value) VALUES (:name, 1) ON CONFLICT DO NOTHING")
REMEMBERED = sqlalchemy.text("SELECT name FROM dj_counter WHERE name >= 'additive:' AND name < 'additive;'")
RULES_OF_A_FILE = sqlalchemy.text(
    """SELECT type, tbl_name, name, coalesce(sql, '') FROM sqlite_master
       WHERE type IN ('trigger', 'view') OR (type = 'index' AND sql LIKE 'CREATE UNIQUE%')"""
)
RULES_OF_A_SERVER = sqlalchemy.text(
    """SELECT 'index', tablename, indexname, indexdef FROM pg_indexes
       WHERE schemaname = current_schema() AND indexdef LIKE 'CREATE UNIQUE%'
       UNION ALL SELECT 'view', viewname, viewname, definition FROM pg_views WHERE schemaname = current_schema()
       UNION ALL SELECT 'trigger', c.relname, t.tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t
       JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace
       UNION ALL SELECT 'constraint', c.relname, k.conname, pg_get_constraintdef(k.oid) FROM pg_constraint k
       JOIN pg_class c ON c.oid = k.conrelid WHERE k.contype <> 'n' AND c.relnamespace = current_schema()::regnamespace"""
)


@dataclass(frozen=True)
class Shape:
    """The tables of a store.

    Attributes:
        columns: By table and name: type, whether it may be NULL, its default, and whether the database fills it.
        rules: Kind, table, name and text of what forbids or does something.
    """

    columns: dict[str, dict[str, tuple[str, bool, str, bool]]]
    rules: frozenset[tuple[str, str, str, str]]


def shape_of(connection: sqlalchemy.Connection) -> Shape:
    """The tables as the database describes them now."""
    inspector = sqlalchemy.inspect(connection)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # An index on an expression is told as a warning; the rules below hold it.
        found = inspector.get_multi_columns()
        columns = {str(table): {each["name"]: described(each) for each in told} for (_, table), told in found.items()}
        server = connection.dialect.name == "postgresql"
        rules = {tuple(map(str, row)) for row in connection.execute(RULES_OF_A_SERVER if server else RULES_OF_A_FILE)}
        if not server:
            rules |= rules_inside(inspector)
    return Shape(columns, frozenset(rules))  # type: ignore[arg-type]


def described(column: Any) -> tuple[str, bool, str, bool]:
    """What matters of a column."""
    filled = bool(column.get("identity") or column.get("computed")) or column.get("autoincrement") is True
    return (repr(column["type"]), bool(column["nullable"]), str(column.get("default")), filled)


def rules_inside(inspector: sqlalchemy.Inspector) -> set[tuple[str, ...]]:
    """The constraints that an embedded store keeps in the text of its tables."""
    asked = (
        ("key", {name: [told] for name, told in inspector.get_multi_pk_constraint().items()}),
        ("unique", inspector.get_multi_unique_constraints()),
        ("foreign", inspector.get_multi_foreign_keys()),
        ("check", inspector.get_multi_check_constraints()),
    )
    return {
        (kind, str(table), str(each.get("name")), json.dumps(each, sort_keys=True, default=str))
        for kind, found in asked
        for (_, table), told in found.items()
        for each in told or ()
    }


def only_added(before: Shape, after: Shape) -> bool:
    """Whether everything that was there is there as it was, and nothing new forbids or does anything to it."""
    for table, columns in before.columns.items():
        now = after.columns.get(table)
        if now is None or any(now.get(name) != told for name, told in columns.items()):
            return False
        for name in now.keys() - columns.keys():
            _, nullable, default, filled = now[name]
            if not nullable and default == "None" and not filled:
                return False
    views = {name for kind, name, _, _ in before.rules if kind == "view"}
    there = before.columns.keys() | views
    return before.rules == {rule for rule in after.rules if rule[1] in there}


def remember(connection: sqlalchemy.Connection, history: History, before: str, revision: str) -> None:
    """Write down that the script from one revision to the next only added something."""
    if sqlalchemy.inspect(connection).has_table(KEPT_IN):
        connection.execute(REMEMBER, {"name": PREFIX + json.dumps([history.table, before, revision])})


def additions(connection: sqlalchemy.Connection, history: History) -> dict[str, str]:
    """The scripts of a history that only added something: from which revision to which."""
    if not sqlalchemy.inspect(connection).has_table(KEPT_IN):
        return {}
    found = [json.loads(row[0].removeprefix(PREFIX)) for row in connection.execute(REMEMBERED)]
    return {before: revision for table, before, revision in found if table == history.table}


def leads(steps: dict[str, str], source: str, target: str) -> bool:
    """Whether such scripts lead from one revision to another."""
    seen: set[str] = set()
    while source != target:
        if source in seen or source not in steps:
            return False
        seen.add(source)
        source = steps[source]
    return True
