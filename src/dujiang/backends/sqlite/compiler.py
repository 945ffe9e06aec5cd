r"""What SQLite must be told otherwise, so that a statement means what it means on PostgreSQL.

    of itself SQLite                                   here
    takes LIKE without an escape character             ESCAPE '\' where none is given, as on PostgreSQL
    puts NULL before everything                        NULL counts as the largest, unless the statement says otherwise
    divides by zero to NULL                            it fails
    compares a number with a text                      refused, SQLSTATE 42883
    adds a number to a date's text                     refused, SQLSTATE 0A000
    picks some row for a column that is not grouped    refused, SQLSTATE 42803
    stores anything in a column of any type            CHECK constraints, written beside each column's type
    makes a number of a JSON text in a JSON column     the column is TEXT

All of it happens when a statement is compiled, which is once. The letters of LIKE are told apart by a setting of the
connection (file.py). What a table was made by other means than SQLAlchemy's DDL has no CHECKs; its parameters are looked
at all the same (data/meaning.py), only what SQL computes is not.

The marks in the CHECKs are the SQLSTATE of the refusal (errors.py reads them). They have no names, because Alembic's
batch mode copies named ones to tables that do not have the column any more.

testing/conformance/values.py and statements.py hold this to what PostgreSQL does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import nulls_first, nulls_last, types
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler, SQLiteDDLCompiler, SQLiteTypeCompiler
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import TextClause, UnaryExpression
from sqlalchemy.sql.expression import ClauseList, Join
from sqlalchemy.sql.schema import Column
from sqlalchemy.sql.sqltypes import _AbstractInterval
from sqlalchemy.sql.visitors import iterate

from dujiang.backends.sqlite.grouping import bare_column
from dujiang.data.database import StatementFailed
from dujiang.data.forms import unwrapped
from dujiang.data.meaning import MeaningCompiler
from dujiang.data.values import BITS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DDLCompiler", "StatementCompiler", "TypeCompiler"]

T = TypeVar("T")

ESCAPE: Final = "\\"
COMPARING = {operators.eq, operators.ne, operators.lt, operators.le, operators.gt, operators.ge}
ADDING = {operators.add, operators.sub}
NULLS = {operators.nulls_first_op, operators.nulls_last_op}

# PostgreSQL compares values of one family with each other.
FAMILIES: tuple[tuple[type[Any], str], ...] = (
    (types.Integer, "number"),
    (types.NumericCommon, "number"),
    (types.Enum, "text"),
    (types.String, "text"),
    (types.Boolean, "boolean"),
    (types.Date, "date"),
    (types.DateTime, "date"),
    (types.Time, "time"),
    (_AbstractInterval, "interval"),
    (types.LargeBinary, "bytes"),
    (types.Uuid, "uuid"),
)
TEMPORAL = {"date", "time", "interval"}


# SQLAlchemy has no types for its compilers.
STATEMENTS: Any = SQLiteCompiler
TABLES: Any = SQLiteDDLCompiler
KINDS: Any = SQLiteTypeCompiler


class StatementCompiler(MeaningCompiler, STATEMENTS):  # type: ignore[misc]
    """Statements."""

    def limit_clause(self, select: Any, **options: Any) -> str:
        """LIMIT and OFFSET; the -1 that SQLAlchemy needs for an OFFSET alone is no parameter."""
        text: str = super().limit_clause(select, **options)
        if select._limit_clause is None and select._offset_clause is not None:  # noqa: SLF001
            text = "\n LIMIT -1 OFFSET " + self.process(select._offset_clause, **options)  # noqa: SLF001
        return text

    def visit_like_op_binary(self, binary: Any, operator: Any, **options: Any) -> str:
        """LIKE."""
        text: str = super().visit_like_op_binary(escaped(binary), operator, **options)
        return text

    def visit_not_like_op_binary(self, binary: Any, operator: Any, **options: Any) -> str:
        """NOT LIKE."""
        text: str = super().visit_not_like_op_binary(escaped(binary), operator, **options)
        return text

    def visit_truediv_binary(self, binary: Any, operator: Any, **options: Any) -> str:
        """Division that keeps the fraction."""
        return self._dividing(super().visit_truediv_binary, binary, operator, options)

    def visit_floordiv_binary(self, binary: Any, operator: Any, **options: Any) -> str:
        """Division of whole numbers."""
        return self._dividing(super().visit_floordiv_binary, binary, operator, options)

    def visit_mod_binary(self, binary: Any, operator: Any, **options: Any) -> str:
        """The rest of a division."""
        return self._dividing(super().visit_mod_binary, binary, operator, options)

    def _dividing(self, write: Callable[..., str], binary: Any, operator: Any, options: dict[str, Any]) -> str:
        if options.get("literal_binds"):
            return write(binary, operator, **options)  # Of a CHECK or an index, which takes no function of ours.
        divisor = self.process(binary.right, **options)
        left = self.process(binary.left, **options)
        safe = f"CASE {divisor} WHEN 0 THEN dj_divided_by_zero() ELSE {divisor} END"
        if operator is operators.truediv:
            return f"{left} / ({safe} + 0.0)"
        return f"{left} {'%' if operator is operators.mod else '/'} {safe}"

    def visit_binary(self, binary: Any, *args: Any, **options: Any) -> str:
        """An operator between two expressions, which have to be of one kind."""
        if binary.operator in COMPARING or binary.operator in ADDING:
            left, right = (family(side.type, self.dialect) for side in (binary.left, binary.right))
            if binary.operator in COMPARING and left and right and left != right:
                raise self.refused(f"there is no comparison of {left} with {right}", "42883", binary)
            if binary.operator in ADDING and {left, right} & TEMPORAL:
                raise self.refused("SQLite keeps dates and times as text; count with them in Python", "0A000", binary)
        text: str = super().visit_binary(binary, *args, **options)
        return text

    def refused(self, why: str, sqlstate: str, element: Any) -> StatementFailed:
        """The error that PostgreSQL would have for a statement."""
        return StatementFailed(why=why, sqlstate=sqlstate, sql=str(element)[:300])

    def visit_select(self, select_stmt: Any, *args: Any, **options: Any) -> str:
        """A SELECT, whose columns are grouped if any of them is."""
        bare = bare_column(select_stmt)
        if bare is not None:
            raise self.refused(f"{bare} is neither grouped nor inside an aggregate", "42803", bare)
        text: str = super().visit_select(select_stmt, *args, **options)
        return text

    def order_by_clause(self, select: Any, **options: Any) -> str:
        """ORDER BY, with NULL as the largest value."""
        outer = has_outer_join(select)
        parts = []
        for clause in select._order_by_clauses:  # noqa: SLF001
            text = self.process(clause, **options)
            if text:
                parts.append(text + nulls_of(clause, outer=outer))
        return f" ORDER BY {', '.join(parts)}" if parts else ""

    def visit_over(self, over: Any, **options: Any) -> str:
        """A window, in the same order."""
        if over.order_by is not None and len(over.order_by):
            over = over._clone()  # noqa: SLF001
            over.order_by = ClauseList(*(ordered(clause) for clause in over.order_by.clauses))
        text: str = super().visit_over(over, **options)
        return text


class TypeCompiler(KINDS):  # type: ignore[misc]
    """Names of types."""

    def visit_JSON(self, type_: Any, **options: Any) -> str:  # noqa: N802  (SQLAlchemy's name)
        """TEXT: a column called JSON would make a double of a long number."""
        return "TEXT"


class DDLCompiler(TABLES):  # type: ignore[misc]
    """Tables, whose columns take values of their type alone."""

    def get_column_specification(self, column: Column[Any], **options: Any) -> str:
        """A column, with the CHECKs of its type."""
        made: str = super().get_column_specification(column, **options)
        name = self.preparer.format_column(column)
        if column.computed is not None:
            return made
        checks = checks_of(unwrapped(column.type, self.dialect), name)
        return made + "".join(f" CHECK ({text} /* {state} */)" for text, state in checks)


def checks_of(kind: Any, name: str) -> list[tuple[str, str]]:
    """What a column's values have to be, each with the SQLSTATE of the refusal."""
    stored = f"typeof({name}) IN ('{{}}', 'null')"
    for numbers, bits in BITS:
        if isinstance(kind, numbers):
            whole = stored.format("integer")
            least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            return [(whole if bits == 64 else f"{whole} AND {name} BETWEEN {least} AND {most}", "22003")]
    if isinstance(kind, types.Float):
        return [(f"{stored.format('real')} AND abs({name}) <= 1.7976931348623157e308", "22003")]
    if isinstance(kind, types.Boolean):
        return [(f"{name} IN (0, 1)", "22P02")]
    if isinstance(kind, types.LargeBinary):
        return [(stored.format("blob"), "22P02")]
    if isinstance(kind, types.Uuid):
        return [(f"{stored.format('text')} AND length({name}) = 32", "22P02")]
    for moments, function in ((types.Time, "time"), (types.DateTime, "datetime"), (types.Date, "date")):
        if isinstance(kind, moments):
            read = f"{name} IS NULL OR {function}({name}) IS NOT NULL"
            return [(f"{stored.format('text')} AND ({read})", "22007")]
    if isinstance(kind, types.Enum):
        return [(f"{name} IN ({', '.join(map(quoted, kind.enums))})", "22P02")]
    if isinstance(kind, types.String):
        checks = [(stored.format("text"), "22P02")]
        return checks if kind.length is None else [*checks, (f"length({name}) <= {kind.length}", "22001")]
    return []


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def escaped(binary: Any) -> Any:
    """A LIKE with the escape character that PostgreSQL takes when none is named."""
    if binary.modifiers.get("escape") is not None:
        return binary
    binary = binary._clone()  # noqa: SLF001
    binary.modifiers = {**binary.modifiers, "escape": ESCAPE}
    return binary


def family(kind: Any, dialect: Any) -> str:
    """The family of a type; empty for one that may be anything."""
    real = unwrapped(kind, dialect)
    return next((name for one, name in FAMILIES if isinstance(real, one)), "")


def has_outer_join(select: Any) -> bool:
    """Whether a column that is never NULL may be NULL in a row of this SELECT."""
    if any(flags["isouter"] or flags["full"] for *_, flags in getattr(select, "_setup_joins", ())):
        return True
    return any(isinstance(part, Join) and (part.isouter or part.full) for part in iterate(select))


def nulls_of(clause: Any, *, outer: bool) -> str:
    """What stands after a term of ORDER BY so that NULL is the largest value."""
    inner = getattr(clause, "element", clause)
    descends = False
    for part in (clause, inner):
        if isinstance(part, TextClause) or (isinstance(part, UnaryExpression) and part.modifier in NULLS):
            return ""
        if isinstance(part, UnaryExpression) and part.modifier is operators.desc_op:
            descends = True
            inner = part.element
    if isinstance(inner, Column) and not inner.nullable and not outer:
        return ""
    return " NULLS FIRST" if descends else " NULLS LAST"


def ordered(clause: Any) -> Any:
    """A term of the order of a window, with NULL as the largest value."""
    placed = nulls_of(clause, outer=True)
    if not placed:
        return clause
    return nulls_first(clause) if "FIRST" in placed else nulls_last(clause)
