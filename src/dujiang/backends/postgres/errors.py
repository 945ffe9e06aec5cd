"""Errors of the driver and of the server, in the words of the port.

This is the only place that knows asyncpg's exceptions; above it there are ours alone. The SQLSTATE decides, never a
message:

    23...                   IntegrityFailed, with its kind and the constraint's name
    22... 54000             ColumnRefused, also for an argument that the driver refuses before sending it
    23514 without a name    PartitionMissing
    40001 40P01 55P03       Conflict: the transaction lost and may run again
    0A000, cached plan      Conflict as well: a migration changed a table under a prepared statement; a new run
                            prepares it anew
    25006                   WriteInRead
    25P02                   TransactionFailed
    25P03                   TransactionHeld
    57014                   DeadlinePassed: the server ended the statement
    08... 57P0. 53300       DatabaseUnreachable, like every error of the socket
    28... 3D000             DatabaseRefused
    anything else           StatementFailed

tests/unit/backends/postgres/test_errors.py holds each row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import asyncpg

from dujiang.data.database import (
    Conflict,
    DatabaseRefused,
    DatabaseUnreachable,
    IntegrityFailed,
    PartitionMissing,
    StatementFailed,
    StatementsOverlap,
    TransactionFailed,
    TransactionHeld,
    WriteInRead,
)
from dujiang.data.values import data_refused
from dujiang.kernel.errors import DeadlinePassed

if TYPE_CHECKING:
    from dujiang.kernel.errors import DujiangError

Kind = Literal["unique", "foreign_key", "check", "not_null", "other"]

KIND_OF_STATE: dict[str, Kind] = {
    "23505": "unique",
    "23503": "foreign_key",
    "23514": "check",
    "23502": "not_null",
}
CONFLICT_STATES = frozenset({"40001", "40P01", "55P03"})
AWAY_STATES = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05", "53300"})
# The driver was used wrongly, for instance with too few arguments.
DRIVER_USE = "07001"
IDLE_MS_MAX = 60_000


def says(cause: BaseException) -> str:
    """The text of an error, never empty."""
    return str(cause) or type(cause).__name__


def is_lost(cause: BaseException) -> bool:
    """Whether the error means that the connection is gone, or that nobody answers on it."""
    if isinstance(cause, asyncpg.PostgresError):
        state = str(cause.sqlstate or "")
        return state.startswith("08") or state in AWAY_STATES
    if isinstance(cause, asyncpg.InterfaceError):
        return "closed" in str(cause) or "cancelling" in str(cause)
    return isinstance(cause, OSError | asyncpg.InternalClientError) and not is_stale(cause)


def is_unsent(cause: BaseException) -> bool:
    """Whether the driver found the connection closed before it sent anything."""
    return isinstance(cause, asyncpg.InterfaceError)


def is_stale(cause: BaseException) -> bool:
    """Whether a prepared statement no longer fits the schema; preparing it anew cures it."""
    return isinstance(cause, asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError)


def translated(cause: Exception, *, url: str, sql: str, limit_s: float = 0.0) -> DujiangError:
    """The port's error for what the driver raised.

    Args:
        cause: The driver's exception.
        url: The database, without its password.
        sql: The name of the statement, or its text.
        limit_s: How long the statement was allowed to take, in seconds.
    """
    if is_stale(cause):
        return Conflict(runs=1, why=says(cause))
    if isinstance(cause, asyncpg.PostgresError):
        return of_state(cause, url=url, sql=sql, limit_s=limit_s)
    if is_lost(cause):
        return DatabaseUnreachable(url=url, why=says(cause))
    if isinstance(cause, asyncpg.InterfaceError) and "another operation" in str(cause):
        return StatementsOverlap(sql=sql)
    return StatementFailed(why=says(cause), sqlstate=DRIVER_USE, sql=sql)


def of_state(cause: asyncpg.PostgresError, *, url: str, sql: str, limit_s: float) -> DujiangError:
    """The port's error for an error report of the server."""
    state = str(cause.sqlstate or "")
    if state.startswith("22") or state == "54000":
        return data_refused(state)
    if state.startswith("23"):
        return integrity(cause, state)
    if state in CONFLICT_STATES:
        return Conflict(runs=1, why=says(cause))
    if is_lost(cause):
        return DatabaseUnreachable(url=url, why=says(cause))
    if state.startswith("28") or state == "3D000":
        return DatabaseRefused(url=url, why=says(cause))
    match state:
        case "25006":
            return WriteInRead(sql=sql)
        case "25P02":
            return TransactionFailed(why=says(cause))
        case "25P03":
            return TransactionHeld(where=sql, held_ms=IDLE_MS_MAX)
        case "57014":
            return DeadlinePassed(what=sql, limit_s=limit_s)
    return StatementFailed(why=says(cause), sqlstate=state, sql=sql)


def integrity(cause: asyncpg.PostgresError, state: str) -> IntegrityFailed:
    """A broken constraint; a NOT NULL has no name, so its column stands for it."""
    named = getattr(cause, "constraint_name", None) or getattr(cause, "column_name", None)
    if state == "23514" and not named:  # A check has a name; a row that fits no part of its table breaks none.
        return PartitionMissing(kind="check", constraint="", why=says(cause))
    return IntegrityFailed(kind=KIND_OF_STATE.get(state, "other"), constraint=str(named or ""), why=says(cause))


def unconnected(cause: Exception, *, url: str) -> DujiangError:
    """The port's error for a connection that could not be made: refused for a reason that lasts, or unreachable."""
    if isinstance(cause, asyncpg.PostgresError):
        state = str(cause.sqlstate or "")
        if state.startswith("28") or state in {"3D000", "42501"}:
            return DatabaseRefused(url=url, why=says(cause))
    elif isinstance(cause, asyncpg.InterfaceError | ValueError) and not is_lost(cause):
        return DatabaseRefused(url=url, why=says(cause))
    why = "no answer in time" if isinstance(cause, TimeoutError) else says(cause)
    return DatabaseUnreachable(url=url, why=why)
