"""Meaning: what compilers of every database share, so that a statement means the same on each.

    parameter of a statement    its rule                            named in errors as
    assigned to a column        the type's, and the length          order.sku, Key(64)
    compared, added, ...        the type's                          a parameter of type Key(64)
    of LIMIT, OFFSET            whole numbers from 0                LIMIT
    right of LIKE               text that ends with no escape       LIKE

A compiler of SQLAlchemy knows all of this once, when it compiles; `MeaningCompiler` keeps it, and puts the rule before
the type's own processor. Both ways into the database (data/statements.py) take their processors from here. What a
parameter is compared with does not limit its length: no column holds the text, so no row is found.

The compilers themselves are in backends/*/compiler.py: what one database must write differently to mean what the other
one means.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import BinaryExpression, BindParameter, TypeDecorator, UnaryExpression, types
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ExpressionClauseList, Grouping
from sqlalchemy.util import memoized_property

from dujiang.data.values import INTERVAL, ColumnRefused, Misfit, Rule, check_text, integer_rule, rule_of, shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Column
    from sqlalchemy.engine.interfaces import Dialect

    Processor = Callable[[Any], Any]

__all__ = ["MeaningCompiler", "checked"]

# The names that SQLAlchemy gives to the parameters of the second and later rows of a VALUES list.
OF_A_ROW = re.compile(r"_m\d+$")
COUNT = integer_rule(32)
# PostgreSQL's, where a LIKE names none.
ESCAPE = "\\"


# SQLAlchemy has no types for its compilers.
COMPILER: Any = SQLCompiler


class MeaningCompiler(COMPILER):  # type: ignore[misc]
    """Puts the rules of data/values.py before the processors of a statement's parameters."""

    def limit_clause(self, select: Any, **options: Any) -> str:
        """LIMIT and OFFSET, whose parameters are remembered."""
        for clause, name in ((select._limit_clause, "LIMIT"), (select._offset_clause, "OFFSET")):  # noqa: SLF001
            if isinstance(clause, BindParameter):
                self.special_binds[clause.key] = (name, count_rule())
        text: str = super().limit_clause(select, **options)
        return text

    def visit_like_op_binary(self, binary: Any, operator: Any, **options: Any) -> str:
        """LIKE, whose pattern is remembered."""
        self._note_pattern(binary)
        text: str = super().visit_like_op_binary(binary, operator, **options)
        return text

    def visit_not_like_op_binary(self, binary: Any, operator: Any, **options: Any) -> str:
        """NOT LIKE."""
        self._note_pattern(binary)
        text: str = super().visit_not_like_op_binary(binary, operator, **options)
        return text

    def visit_ilike_op_binary(self, binary: Any, operator: Any, **options: Any) -> str:
        """ILIKE."""
        self._note_pattern(binary)
        text: str = super().visit_ilike_op_binary(binary, operator, **options)
        return text

    def visit_not_ilike_op_binary(self, binary: Any, operator: Any, **options: Any) -> str:
        """NOT ILIKE."""
        self._note_pattern(binary)
        text: str = super().visit_not_ilike_op_binary(binary, operator, **options)
        return text

    def _note_pattern(self, binary: Any) -> None:
        end = binary.right
        # The end of a pattern that is put together, and what `lower` is applied to.
        while isinstance(end, (BinaryExpression, ExpressionClauseList, UnaryExpression, Grouping)):
            if isinstance(end, ExpressionClauseList):
                end = end.clauses[-1]
            else:
                end = end.right if isinstance(end, BinaryExpression) else end.element
        if isinstance(end, BindParameter):
            escape = binary.modifiers.get("escape")
            self.special_binds[end.key] = ("LIKE", pattern_rule(ESCAPE if escape is None else escape))

    @memoized_property
    def special_binds(self) -> dict[str, tuple[str, Rule]]:
        """Parameters with a rule of their own, by key: the name of their place, and the rule."""
        return {}

    @memoized_property
    def assigned_columns(self) -> dict[str, Column[Any]]:
        """The columns to which parameters are assigned as they are, by the parameters' names."""
        if not (self.isinsert or self.isupdate) or self.compile_state is None:
            return {}
        state: Any = self.compile_state
        columns = state.dml_table.c
        given = {
            value.key: columns[key]
            for key, value in (state._dict_parameters or {}).items()  # noqa: SLF001
            if isinstance(value, BindParameter) and isinstance(key, str) and key in columns
        }
        found = {}
        for bind, name in self.bind_names.items():
            key = OF_A_ROW.sub("", name)
            if bind._is_crud and key in columns:  # noqa: SLF001
                found[name] = columns[key]
            elif bind.key in given:
                found[name] = given[bind.key]
        return found

    @memoized_property
    def _bind_processors(self) -> Any:
        plain = COMPILER._bind_processors.fget(self)  # noqa: SLF001  (what this one extends)
        processors: dict[str, Any] = {}
        for bind, name in self.bind_names.items():
            if bind in self.literal_execute_params:
                continue
            inner = plain.get(name)
            if isinstance(bind.type, types.TupleType):
                parts = zip(bind.type.types, inner or [None] * len(bind.type.types), strict=True)
                processors[name] = tuple(checked(part, own, self.dialect) for part, own in parts)
            elif bind.key in self.special_binds:
                place, rule = self.special_binds[bind.key]
                processors[name] = ruled(rule, place, inner, nullable=place == "LIKE")
            else:
                processors[name] = checked(bind.type, inner, self.dialect, self.assigned_columns.get(name))
        return {name: processor for name, processor in processors.items() if processor is not None}


def checked(
    kind: types.TypeEngine[Any], inner: Processor | None, dialect: Dialect, column: Column[Any] | None = None
) -> Processor | None:
    """A type's processor with its rule before it.

    Args:
        kind: The type, as the statement has it.
        inner: Its own processor.
        dialect: The database's.
        column: The column that takes the value.
    """
    place = f"a parameter of type {kind!r}" if column is None else f"{column.table.name}.{column.name}, {kind!r},"
    real = kind._unwrapped_dialect_impl(dialect)  # noqa: SLF001
    if isinstance(kind, types.Interval):
        return ruled(INTERVAL, place, inner)  # SQLAlchemy's own decorator, of a datetime on SQLite.
    if isinstance(kind, TypeDecorator):
        while isinstance(real, TypeDecorator):
            real = real.impl_instance
        return decorated(kind, real, place, inner, assigned=column is not None)
    if isinstance(real, types.JSON):
        return named(place, inner)
    rule = rule_of(real, getattr(real, "length", None) if column is not None else None)
    return inner if rule is None else ruled(rule, place, inner)


def ruled(rule: Rule, place: str, inner: Processor | None, *, nullable: bool = True) -> Processor:
    """A processor with a rule before it."""
    fit = rule.fit

    def process(value: Any) -> Any:
        if value is not None or not nullable:
            try:
                value = fit(value)
            except Misfit as misfit:
                raise ColumnRefused(column=place, value=shape(value), why=str(misfit)) from None
        return value if inner is None else inner(value)

    process.__dict__["quick"] = rule.quick
    return process


def decorated(
    kind: TypeDecorator[Any], real: types.TypeEngine[Any], place: str, inner: Processor | None, *, assigned: bool
) -> Processor | None:
    """The processor of a decorator: the rule of what it makes of the value comes after it."""
    own = named(place, inner)
    quick = getattr(kind, "quick_form", None)
    text = isinstance(real, types.String) and not isinstance(real, types.Enum)
    length = getattr(real, "length", None) if assigned else None
    rule = rule_of(real, length) if text or isinstance(real, (types.Integer, types.Float)) else None
    # What has a quick form checks itself, but for the length of a text.
    process = own if rule is None or (quick is not None and not text) else followed(rule, place, own)
    if process is not None and quick is not None:
        process.__dict__["quick"] = quick(assigned=assigned)
    return process


def followed(rule: Rule, place: str, own: Processor | None) -> Processor:
    """A processor with a rule after it."""

    def process(given: Any) -> Any:
        value = given if own is None else own(given)
        try:
            return value if value is None else rule.fit(value)
        except Misfit as misfit:
            raise ColumnRefused(column=place, value=shape(given), why=str(misfit)) from None

    return process


def named(place: str, inner: Processor | None) -> Processor | None:
    """A processor that checks by itself, with the place in its errors."""
    if inner is None:
        return None

    def process(value: Any) -> Any:
        try:
            return inner(value)
        except ColumnRefused as refused:
            raise ColumnRefused(column=place, value=refused.value, why=refused.why) from None

    return process


def count_rule() -> Rule:
    """Whole numbers from 0: PostgreSQL refuses a LIMIT below, SQLite takes it for none at all."""

    def fit(value: Any) -> int:
        number = int(COUNT.fit(value))
        if number < 0:
            raise Misfit("it takes whole numbers from 0")
        return number

    return Rule(fit)


def pattern_rule(escape: str) -> Rule:
    """Patterns whose last character is not an escape; PostgreSQL refuses one when it gets that far."""

    def fit(value: Any) -> Any:
        check_text(value)
        if escape and (len(value) - len(value.rstrip(escape))) % 2:
            raise Misfit(f"the pattern ends with the escape character {escape}")
        return value

    return Rule(fit)
