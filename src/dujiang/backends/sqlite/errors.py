"""What SQLite's refusals mean in the words of the port; the only module that reads driver exceptions.

SQLSTATEs are those that PostgreSQL gives for the same mistake, so that a message reads the same on both databases.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import apsw

from dujiang.data.database import (
    Conflict,
    DatabaseRefused,
    DatabaseUnreachable,
    DiskFailed,
    DiskFull,
    IntegrityFailed,
    StatementFailed,
    WriteInRead,
)
from dujiang.data.values import data_refused

if TYPE_CHECKING:
    from typing import Literal

    from dujiang.kernel.errors import DujiangError

# The driver's own errors, and what Python raises while the driver converts a parameter.
DRIVER_ERRORS = (apsw.Error, ArithmeticError, TypeError, ValueError, MemoryError)

# What the storage says, as opposed to what a statement says. After these a group is not worth a word of blame.
STORAGE_ERRORS = (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.NoMemError)

KINDS: dict[int, Literal["unique", "foreign_key", "check", "not_null", "other"]] = {
    apsw.SQLITE_CONSTRAINT_UNIQUE: "unique",
    apsw.SQLITE_CONSTRAINT_PRIMARYKEY: "unique",
    apsw.SQLITE_CONSTRAINT_ROWID: "unique",
    apsw.SQLITE_CONSTRAINT_FOREIGNKEY: "foreign_key",
    apsw.SQLITE_CONSTRAINT_CHECK: "check",
    apsw.SQLITE_CONSTRAINT_NOTNULL: "not_null",
}

STATES = (
    (re.compile(r"no such table"), "42P01"),
    (re.compile(r"no such column|has no column named"), "42703"),
    (re.compile(r"no such function|wrong number of arguments to function"), "42883"),
    (re.compile(r"ambiguous column name"), "42702"),
    (re.compile(r"already exists"), "42P07"),
    (re.compile(r"no such savepoint"), "3B001"),
    (re.compile(r"syntax error|incomplete input|unrecognized token"), "42601"),
)

# The mark that compiler.py leaves in the CHECK of a column's type.
MARK = re.compile(r"/\* (\w{5}) \*/$")

SHOWN_MAX = 300


def shown(text: str) -> str:
    """A statement as errors show it: on one line, and not for ever."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_MAX else line[: SHOWN_MAX - 3] + "..."


def translated(cause: BaseException, text: str, url: str) -> DujiangError:
    """The port's error for a driver's error that `text` met."""
    why = str(cause) or type(cause).__name__
    if isinstance(cause, apsw.ConstraintError):
        return refused_by_constraint(cause)
    if isinstance(cause, STORAGE_ERRORS):
        return failed(cause, url)
    if isinstance(cause, apsw.ReadOnlyError):
        return WriteInRead(sql=shown(text))
    if isinstance(cause, (apsw.CorruptError, apsw.NotADBError)):
        return StatementFailed(why=f"the file is damaged: {why}", sqlstate="XX001", sql=shown(text))
    if isinstance(cause, (apsw.BusyError, apsw.LockedError)):
        return Conflict(runs=1, why=f"another program holds the file: {why}")
    state = state_of(cause, why)
    if state.startswith("22") or state == "54000":
        return data_refused(state)
    return StatementFailed(why=why, sqlstate=state, sql=shown(text))


def refused_by_constraint(cause: apsw.ConstraintError) -> DujiangError:
    """The error for a violated constraint; SQLite names columns, not constraints, and for a foreign key neither."""
    why = str(cause)
    code = code_of(cause)
    if code == apsw.SQLITE_CONSTRAINT_DATATYPE:
        return data_refused("22P02")
    mark = MARK.search(why)
    if mark is not None:
        return data_refused(mark[1])
    named = why.partition("constraint failed: ")[2]
    return IntegrityFailed(kind=KINDS.get(code, "other"), constraint=named, why=why)


def code_of(cause: BaseException) -> int:
    """SQLite's extended result code; 0 for an error that is not SQLite's."""
    return getattr(cause, "extendedresult", 0)


def failed(cause: BaseException, url: str) -> DatabaseUnreachable:
    """The error for a failure below the database."""
    if isinstance(cause, apsw.FullError) or code_of(cause) == apsw.SQLITE_IOERR_SHMSIZE:
        return DiskFull(url=url, why="there is no room for another page")
    if isinstance(cause, apsw.IOError):
        name = apsw.mapping_extended_result_codes.get(code_of(cause), "SQLITE_IOERR")
        return DiskFailed(url=url, why=f"{cause} ({name})" if str(cause) else str(name))
    return DatabaseUnreachable(url=url, why=str(cause) or type(cause).__name__)


def state_of(cause: BaseException, why: str) -> str:
    """The SQLSTATE that fits."""
    if isinstance(cause, ZeroDivisionError):
        return "22012"
    if isinstance(cause, OverflowError) or why == "integer overflow":
        return "22003"
    if isinstance(cause, (UnicodeError, apsw.TooBigError)):
        return "22021" if isinstance(cause, UnicodeError) else "54000"
    if isinstance(cause, (apsw.BindingsError, apsw.MismatchError, TypeError, ValueError)):
        return "22P02"
    return next((state for pattern, state in STATES if pattern.search(why)), "HY000")


def lost(cause: BaseException, url: str, runs: int) -> DujiangError:
    """The error of a member whose groups were lost as often as we try."""
    if isinstance(cause, STORAGE_ERRORS):
        return failed(cause, url)
    return Conflict(runs=runs, why=f"SQLite did not commit: {cause}")


def unopened(cause: BaseException, url: str) -> DujiangError:
    """The error for a file that cannot be opened as a store."""
    if isinstance(cause, (apsw.IOError, apsw.FullError)):
        return failed(cause, url)
    return DatabaseRefused(url=url, why=str(cause) or type(cause).__name__)
