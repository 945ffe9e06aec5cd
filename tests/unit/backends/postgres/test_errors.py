"""Which error of the port each error of the driver becomes."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from dujiang.backends.postgres.errors import is_lost, translated, unconnected
from dujiang.data.database import (
    Conflict,
    DatabaseRefused,
    DatabaseUnreachable,
    IntegrityFailed,
    StatementFailed,
    StatementsOverlap,
    TransactionFailed,
    TransactionHeld,
    WriteInRead,
)
from dujiang.data.values import ColumnRefused
from dujiang.kernel.errors import DeadlinePassed

URL = "postgresql://host/name"


def of_server(state: str, **fields: str) -> Exception:
    """An error report of the server, as the driver raises it."""
    error: Exception = asyncpg.PostgresError.new({"C": state, "M": "the message", "S": "ERROR", **fields})
    return error


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("23505", IntegrityFailed),
        ("40001", Conflict),
        ("40P01", Conflict),
        ("55P03", Conflict),
        ("25006", WriteInRead),
        ("25P02", TransactionFailed),
        ("25P03", TransactionHeld),
        ("57014", DeadlinePassed),
        ("08006", DatabaseUnreachable),
        ("57P01", DatabaseUnreachable),
        ("57P03", DatabaseUnreachable),
        ("53300", DatabaseUnreachable),
        ("28P01", DatabaseRefused),
        ("3D000", DatabaseRefused),
        ("42601", StatementFailed),
        ("22012", ColumnRefused),
        ("54000", ColumnRefused),
        ("XX000", StatementFailed),
    ],
)
def test_the_sqlstate_decides(state: str, kind: type[Any]) -> None:
    """Each SQLSTATE of the table becomes the error that stands beside it."""
    assert isinstance(translated(of_server(state), url=URL, sql="a_name"), kind)


@pytest.mark.parametrize(
    ("state", "kind"),
    [("23505", "unique"), ("23503", "foreign_key"), ("23514", "check"), ("23502", "not_null"), ("23P01", "other")],
)
def test_a_constraint_has_a_kind_and_a_name(state: str, kind: str) -> None:
    """The constraint's own name, or for NOT NULL its column."""
    named = {"c": "the_column"} if kind == "not_null" else {"n": "the_constraint"}

    error = translated(of_server(state, **named), url=URL, sql="")

    assert isinstance(error, IntegrityFailed)
    assert (error.kind, error.constraint) == (kind, "the_column" if kind == "not_null" else "the_constraint")


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (ConnectionResetError("reset"), DatabaseUnreachable),
        (OSError(), DatabaseUnreachable),
        (asyncpg.ConnectionDoesNotExistError("gone"), DatabaseUnreachable),
        (asyncpg.InterfaceError("connection is closed"), DatabaseUnreachable),
        (asyncpg.InterfaceError("cannot perform operation: another operation is in progress"), StatementsOverlap),
        (asyncpg.InterfaceError("the server expects 2 arguments"), StatementFailed),
        (asyncpg.DataError("invalid input for query argument $1"), ColumnRefused),
        (asyncpg.InvalidCachedStatementError("cached plan"), Conflict),
        (ValueError("of a codec"), StatementFailed),
    ],
)
def test_what_the_driver_finds_itself_is_translated_too(cause: Exception, kind: type[Any]) -> None:
    """Errors without an SQLSTATE go by their class."""
    assert isinstance(translated(cause, url=URL, sql="a_name"), kind)


def test_a_failed_statement_names_state_and_statement() -> None:
    """StatementFailed keeps what is needed to find it."""
    error = translated(of_server("42601"), url=URL, sql="a_name")

    assert str(error) == "the message (SQLSTATE 42601) in: a_name [statement_failed, report]"


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (of_server("28P01"), DatabaseRefused),
        (of_server("3D000"), DatabaseRefused),
        (of_server("57P03"), DatabaseUnreachable),
        (of_server("53300"), DatabaseUnreachable),
        (asyncpg.InterfaceError("invalid connection option"), DatabaseRefused),
        (ValueError("invalid port"), DatabaseRefused),
        (ConnectionRefusedError("refused"), DatabaseUnreachable),
        (TimeoutError(), DatabaseUnreachable),
    ],
)
def test_a_connection_is_refused_or_unreachable(cause: Exception, kind: type[Any]) -> None:
    """What waiting does not cure is refused; the rest is unreachable."""
    assert isinstance(unconnected(cause, url=URL), kind)


def test_a_cancelled_call_is_nobodys_lost_connection() -> None:
    """CancelledError is no sign of the server's state."""
    assert not is_lost(asyncio.CancelledError())
