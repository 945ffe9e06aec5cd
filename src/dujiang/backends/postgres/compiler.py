"""What PostgreSQL must be told otherwise, so that a statement means what it means on SQLite.

    of itself PostgreSQL                                   here
    orders text by the language of the database            text columns are made with COLLATE "C", the order of bytes
    divides whole numbers to 16 decimals or more           to a double, as SQLite does
    sums BIGINTs to a NUMERIC                              to a BIGINT, which fails when it is too large
    averages whole numbers to a NUMERIC                    to a double

With "C", LIKE, ILIKE, lower and upper know the letters of ASCII alone, as on SQLite, and an index on text serves LIKE.
A column that names a collation keeps it. What a table was made by other means has the collation that it was given.

testing/conformance/values.py and statements.py hold this to what SQLite does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import cast, types
from sqlalchemy.dialects.postgresql.asyncpg import PGCompiler_asyncpg
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.sql.elements import FunctionFilter, Over

from dujiang.data.meaning import MeaningCompiler

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StatementCompiler", "TypeCompiler"]

BYTES: Final = ' COLLATE "C"'


# SQLAlchemy has no types for its compilers.
STATEMENTS: Any = PGCompiler_asyncpg
KINDS: Any = PGTypeCompiler


class StatementCompiler(MeaningCompiler, STATEMENTS):  # type: ignore[misc]
    """Statements."""

    def render_bind_cast(self, type_: Any, dbapi_type: Any, sqltext: str) -> str:
        """The type of a parameter, which has the collation of what it is compared with."""
        text: str = super().render_bind_cast(type_, dbapi_type, sqltext)
        return text.removesuffix(BYTES)

    def visit_truediv_binary(self, binary: Any, operator: Any, **options: Any) -> str:
        """Division that keeps the fraction."""
        if isinstance(binary.left.type, types.Integer) and isinstance(binary.right.type, types.Integer):
            binary = binary._clone()  # noqa: SLF001
            binary.right = cast(binary.right, types.Double)
        text: str = super().visit_truediv_binary(binary, operator, **options)
        return text

    def visit_sum_func(self, function: Any, **options: Any) -> str:
        """A sum."""
        return self._number(function, self._aggregate, options)

    def visit_avg_func(self, function: Any, **options: Any) -> str:
        """An average."""
        return self._number(function, self._aggregate, options)

    def visit_funcfilter(self, funcfilter: Any, **options: Any) -> str:
        """An aggregate of some rows."""
        return self._number(funcfilter, super().visit_funcfilter, options)

    def visit_over(self, over: Any, **options: Any) -> str:
        """An aggregate of a window."""
        return self._number(over, super().visit_over, options)

    def _aggregate(self, function: Any, **options: Any) -> str:
        return f"{function.name}{self.function_argspec(function, **options)}"

    def _number(self, element: Any, write: Callable[..., str], options: dict[str, Any]) -> str:
        """The text of an aggregate, cast as a whole to the type that it has on SQLite."""
        if options.get("inside_number"):
            return write(element, **options)
        text = write(element, inside_number=True, **options)
        kind = kind_of_number(element)
        return f"CAST({text} AS {kind})" if kind else text


def kind_of_number(element: Any) -> str:
    """The type that an aggregate is cast to; empty for those that have it anyway."""
    while isinstance(element, (Over, FunctionFilter)):
        element = element.element if isinstance(element, Over) else element.func
    parts = [part.type for part in getattr(element, "clauses", ())]
    match getattr(element, "name", "").lower():
        case "sum" if all(isinstance(kind, types.BigInteger) for kind in parts):
            return "BIGINT"
        case "avg" if all(isinstance(kind, types.Integer) for kind in parts):
            return "DOUBLE PRECISION"
    return ""


class TypeCompiler(KINDS):  # type: ignore[misc]
    """Names of types."""

    def _render_string_type(
        self, name: str, length: int | None, collation: str | None, *rest: Any, **options: Any
    ) -> str:
        text: str = super()._render_string_type(name, length, collation, *rest, **options)
        return text if collation or name == "CHAR" else text + BYTES
