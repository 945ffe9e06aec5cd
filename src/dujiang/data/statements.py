"""Statements: SQLAlchemy builds and compiles them, the driver runs them; this is the short path between the two.

    statement object --seen before?--------------------------> Prepared: text, fixed arguments, places of the given ones
          | no                                                     ^                       |
          v                                                        |                  run(text, args)
      cache key --same construct seen?--> Form: compiled text,  ---+                       v
          | no                            a plan for each argument, columns         a SQLAlchemy Result
          v
      compile --is every part known?--no--> SQLAlchemy's own execution, on the same transaction

SQLAlchemy's execution of a compiled statement costs several times what the driver needs: events, contexts, an adapter
of the driver's cursor, a greenlet switch. Most of it prepares for cases that one statement does not have, and which
case it is shows in its compiled form. So the form is looked at once. Only what is on the lists of data/forms.py takes
the short path, with SQLAlchemy's own compiler, its processors of values and its result object; everything else is
executed by SQLAlchemy itself on the same connection. A construct that is missing from the lists costs time, never a
wrong answer.

A statement of a module, built once and run with parameters, is recognised by its identity: running it again is one
look-up and one pass over its parameters. A statement built for each call is recognised by SQLAlchemy's cache key.

Cost: these two files read private parts of SQLAlchemy, which is therefore pinned to one minor version.
tests/conformance/test_statements.py runs every construct and type both ways on every database and compares.
"""

from __future__ import annotations

import re
import weakref
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from sqlalchemy import CompoundSelect, Delete, Insert, Select, Update
from sqlalchemy.engine.cursor import _NO_RESULT_METADATA
from sqlalchemy.engine.result import IteratorResult
from sqlalchemy.sql.compiler import WARN_LINTING
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.util import LRUCache

from dujiang.data.binding import FIXED, GIVEN
from dujiang.data.database import WriteInRead
from dujiang.data.forms import Form, form_of
from dujiang.data.values import ColumnRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import BindParameter, Executable
    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.engine.result import ResultMetaData

    from dujiang.data.database import Connection
    from dujiang.data.forms import Params

    AnyResult = IteratorResult[*tuple[Any, ...]]
else:
    AnyResult = IteratorResult

__all__ = ["Prepared", "Result", "execute", "prepare", "refuse_write", "writes"]

FORMS_MAX = 1000
IDENTITIES_MAX = 10_000
NO_PARAMS: Final[Params] = {}
STATEMENTS = (Select, CompoundSelect, Insert, Update, Delete)

# Values that cannot change. A dict in a statement may be another one at the next run; it is then asked again.
STEADY = frozenset({type(None), bool, int, float, str, bytes, Decimal, datetime, date, time, timedelta, UUID})

READS_FIRST = re.compile(r"\s*(?:\(\s*)*(?:select|values|table|show|explain|pragma|with)\b", re.IGNORECASE)
WRITES_INSIDE = re.compile(r"\b(?:insert|update|delete|merge|replace)\b", re.IGNORECASE)


class Result(AnyResult):
    """A SQLAlchemy result, whole in memory: rows by attribute, index and `_mapping[column]`.

    Attributes:
        rowcount: Rows that the statement matched; for a SELECT its rows.
    """

    def __init__(self, metadata: ResultMetaData, rows: Iterable[Any], rowcount: int) -> None:
        super().__init__(metadata, iter(rows))
        self.rowcount = rowcount

    @property
    def returns_rows(self) -> bool:
        """Whether this kind of statement has rows at all."""
        return self._metadata is not _NO_RESULT_METADATA


async def execute(
    connection: Connection,
    dialect: Dialect,
    statement: Executable,
    params: Params | Sequence[Params] | None = None,
) -> Result:
    """Run a statement on an open transaction or read session.

    Args:
        connection: Where.
        dialect: The database's dialect.
        statement: Any SQLAlchemy statement.
        params: Values of its parameters, or a list of such sets: the statement then runs once for each, and the result
            counts the matched rows of all. An empty list runs nothing.

    Raises:
        ColumnRefused: A value does not fit its column; nothing was sent, or the database found what it computed.
        DujiangError: What the port `database` says of failing statements.
        sqlalchemy.exc.SQLAlchemyError: The statement cannot be compiled, or lacks a parameter.
    """
    if params is not None and not hasattr(params, "keys"):
        return await execute_many(connection, dialect, statement, params)
    given = cast("Params", params) or NO_PARAMS
    prepared = prepare(statement, dialect, given)
    if prepared is None:
        return await execute_whole(connection, statement, params)
    text, args = prepared.bind(given)
    try:
        rows, matched = await connection.run(text, args)
    except ColumnRefused as refused:
        raise prepared.form.named(refused) from refused
    return prepared.result(rows, matched)


async def execute_many(
    connection: Connection, dialect: Dialect, statement: Executable, sets: Sequence[Params]
) -> Result:
    """Run a statement once for each set of parameters."""
    if not sets:
        return Result(_NO_RESULT_METADATA, (), 0)
    if len(sets) == 1:
        return await execute(connection, dialect, statement, sets[0])
    names = sets[0].keys()
    prepared = None
    if all(given.keys() == names for given in sets):
        prepared = known_of(dialect).learn(statement, sets[0], many=True)
    if prepared is None:
        return await execute_whole(connection, statement, sets)
    rows = [prepared.bind(given)[1] for given in sets]
    try:
        matched = await connection.run_many(prepared.form.text, rows)
    except ColumnRefused as refused:
        raise prepared.form.named(refused) from refused
    return Result(_NO_RESULT_METADATA, (), matched)


async def execute_whole(
    connection: Connection, statement: Executable, params: Params | Sequence[Params] | None
) -> Result:
    """Let SQLAlchemy execute a statement on the same transaction."""
    returning = getattr(statement, "_returning", ()) or not statement.is_dml
    async with connection.orm_connection() as whole:
        if not returning and isinstance(params, (list, tuple)):
            # Given the whole list, drivers do not count.
            counts = [(await whole.execute(statement, given)).rowcount for given in params]
            return Result(_NO_RESULT_METADATA, (), sum(counts))
        done = await whole.execute(statement, params)
        if not returning or not done.returns_rows:
            return Result(_NO_RESULT_METADATA, (), done.rowcount)
        metadata = done._metadata._for_freeze()  # noqa: SLF001
        rows = [tuple(row) for row in done.fetchall()]
        return Result(metadata, rows, len(rows))


def prepare(statement: Executable, dialect: Dialect, params: Params = NO_PARAMS) -> Prepared | None:
    """The statement, ready to run with parameters of these names; None if SQLAlchemy has to execute it."""
    known = known_of(dialect)
    prepared = known.by_identity.get((id(statement), *params))
    if prepared is not None and prepared.statement() is statement:
        return prepared
    return known.learn(statement, params)


class Prepared:
    """One statement and the names of its parameters: what is left to do is to put the values in.

    Attributes:
        bind: Gives the text and the arguments in the driver's order for the given parameters. Raises KeyError if one
            is missing, ColumnRefused if one does not fit.
        form: The compiled form, shared with equal statements.
        statement: A weak reference to the statement.
        steady: The values that the statement itself holds cannot change between two runs.
    """

    __slots__ = ("_seen", "bind", "form", "statement", "steady")

    def __init__(self, form: Form, statement: Executable, extracted: Sequence[BindParameter[Any]]) -> None:
        self.form = form
        self.statement: weakref.ref[Executable] = weakref.ref(statement)
        self._seen: ResultMetaData | None = None
        fixed: list[Any] = []
        self.steady = not any(bind.callable for bind in extracted)
        for source, what, processor in () if form.expands else form.plan:
            if source == GIVEN:
                fixed.append(None)
            else:
                value = what if source == FIXED else extracted[what].effective_value
                self.steady = self.steady and (type(value) in STEADY or isinstance(value, Enum))
                fixed.append(value if processor is None else processor(value))
        self.bind: Callable[[Params], tuple[str, list[Any]]] = (
            partial(form.expanded, extracted) if form.expands else partial(form.bind, fixed)
        )

    def result(self, rows: list[Sequence[Any]], matched: int) -> Result:
        """The result of a run."""
        if not self.form.returns_rows:
            return Result(_NO_RESULT_METADATA, (), matched)
        if self._seen is None:
            self._seen = self.form.columns_of(self.statement())
        return Result(self._seen, rows, matched)


class Known:
    """What one dialect has learned."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._forms: LRUCache[Any, Form | None] = LRUCache(FORMS_MAX)
        self.by_identity: dict[tuple[Any, ...], Prepared] = {}

    def learn(self, statement: Executable, params: Params, *, many: bool = False) -> Prepared | None:
        """Prepare a statement that is not known by its identity."""
        if not isinstance(statement, STATEMENTS) or statement._execution_options:  # noqa: SLF001
            return None
        key = statement._generate_cache_key()  # noqa: SLF001
        if key is None or key.params:
            return None
        names = tuple(sorted(params))
        try:
            form = self._forms[key.key, names, many]
        except KeyError:
            form = self._forms[key.key, names, many] = self._compile(statement, key, names, many=many)
        if form is None:
            return None
        prepared = Prepared(form, statement, key.bindparams)
        if prepared.steady and not many:
            self._remember((id(statement), *params), prepared, statement)
        return prepared

    def _remember(self, identity: tuple[Any, ...], prepared: Prepared, statement: Executable) -> None:
        by_identity = self.by_identity
        if len(by_identity) >= IDENTITIES_MAX:
            by_identity.clear()
        # The id of a statement that is gone may be given to another one; the reference is compared before use.
        prepared.statement = weakref.ref(statement, lambda _: by_identity.pop(identity, None))
        by_identity[identity] = prepared

    def _compile(self, statement: Any, key: Any, names: tuple[str, ...], *, many: bool) -> Form | None:
        compiled = statement._compiler(  # noqa: SLF001
            self._dialect,
            cache_key=key,
            column_keys=list(names),
            for_executemany=many,
            linting=self._dialect.compiler_linting | WARN_LINTING,
        )
        return form_of(compiled, self._dialect, names, many=many)


def known_of(dialect: Dialect) -> Known:
    """What the dialect has learned; it is kept with the dialect, to live as long."""
    known: Known | None = dialect.__dict__.get("dujiang_known")
    if known is None:
        known = dialect.__dict__["dujiang_known"] = Known(dialect)
    return known


def writes(statement: Executable) -> bool:
    """Whether a statement writes, in itself or in a WITH part. Of bare text this is judged by its words."""
    if statement.is_dml:
        return True
    if isinstance(statement, TextClause):
        return not READS_FIRST.match(statement.text) or WRITES_INSIDE.search(statement.text) is not None
    return any(getattr(part, "is_dml", False) for part in iterate(cast("Any", statement)))


def refuse_write(statement: Executable) -> None:
    """Raise WriteInRead for a statement that is plainly a write. What hides deeper, the database refuses."""
    if statement.is_dml:
        raise WriteInRead(sql=str(statement)[:500])
