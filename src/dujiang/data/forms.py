"""Forms: what is left of a statement once SQLAlchemy has compiled it, and whether every part of it is known.

A form is made of four things: the text, where each argument comes from, what it goes through on the way to the driver,
and what the columns go through on the way back. All four are SQLAlchemy's own; this module only looks at them once
instead of at every run. `form_of` is the gate of data/statements.py: it answers None for everything that is not on its
lists.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import ARRAY, BindParameter, ColumnElement, TypeDecorator, types
from sqlalchemy.engine.cursor import CursorResultMetaData
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.sqltypes import _AbstractInterval

from dujiang.data.binding import EXTRACTED, FIXED, GIVEN, binder
from dujiang.data.values import UNNAMED, ColumnRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Executable
    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.engine.result import ResultMetaData

    from dujiang.data.binding import Binder

    Params = Mapping[str, Any]
    Processor = Callable[[Any], Any] | None

__all__ = ["Form", "form_of"]

# Types whose values go through processors alone, whatever the statement around them; and TypeDecorators of them.
TYPES = (
    types.Integer,
    types.String,
    types.Boolean,
    types.Date,
    types.DateTime,
    types.Time,
    _AbstractInterval,
    types.NumericCommon,
    types.LargeBinary,
    types.Uuid,
    types.Enum,
    types.JSON,
    types.JSON.JSONElementType,
    types.NullType,
)

# PostgreSQL's numbers of its numeric types; SQLAlchemy chooses a processor by what the database says it sends.
OID_OF: Final[dict[type, int]] = {float: 701, int: 23}
OID_NUMERIC = 1700


class Form:
    """The compiled form of equal statements that are run with parameters of the same names.

    Attributes:
        text: SQL in the driver's parameter style.
        plan: For each argument, in order: where its value comes from, which one, and what it goes through.
        bind: Makes the text and the arguments by the plan; see data/binding.py.
        expands: The text depends on the values: an IN list, or a value that is written into the text.
        returns_rows: The statement has rows of its own; not those that SQLAlchemy asks for to learn a new key.
    """

    __slots__ = ("_columns", "_compiled", "_dialect", "_sources", "bind", "expands", "plan", "returns_rows", "text")

    def __init__(
        self, compiled: SQLCompiler, dialect: Dialect, sources: dict[str, tuple[int, Any]], *, returns_rows: bool
    ) -> None:
        self.text = compiled.string
        self.expands = bool(compiled.literal_execute_params or compiled.post_compile_params)
        self.returns_rows = returns_rows
        processors = cast("Mapping[str, Any]", compiled._bind_processors)  # noqa: SLF001
        self.plan = [(*sources[name], processors.get(name)) for name in compiled.positiontup or ()]
        self.bind: Binder = binder(self.text, () if self.expands else self.plan)
        self._compiled = compiled
        self._dialect = dialect
        self._sources = sources
        self._columns: CursorResultMetaData | None = None

    def expanded(self, extracted: Sequence[BindParameter[Any]], params: Params) -> tuple[str, list[Any]]:
        """The text and the arguments of a statement whose text depends on them."""
        values = {}
        for name, (source, what) in self._sources.items():
            if source == GIVEN:
                values[name] = params[what]
            else:
                values[name] = what if source == FIXED else extracted[what].effective_value
        state = self._compiled._process_parameters_for_postcompile(values)  # noqa: SLF001
        processors = {**self._compiled._bind_processors, **state.processors}  # noqa: SLF001
        args = []
        for name in state.positiontup or ():
            value = state.parameters[name]
            processor = cast("Processor", processors.get(name))
            args.append(value if processor is None else processor(value))
        return state.statement, args

    def named(self, refused: ColumnRefused) -> ColumnRefused:
        """What the database refused, with the columns whose values the statement lets it compute."""
        state: Any = self._compiled.compile_state
        table, values = getattr(state, "dml_table", None), getattr(state, "_dict_parameters", None)
        if refused.column != UNNAMED or table is None or not values:
            return refused
        names = [key for key, value in values.items() if isinstance(value, ColumnElement)]
        computed = [f"{table.name}.{key}" for key in names if not isinstance(values[key], BindParameter)]
        if not computed:
            return refused
        return ColumnRefused(column=" or ".join(computed), value="what is computed for it", why=refused.why)

    def columns_of(self, statement: Executable | None) -> ResultMetaData:
        """SQLAlchemy's description of the columns, which finds them by the column objects of this very statement."""
        context: Any = Context(self._compiled, self._dialect, statement)
        if self._columns is None:
            described = [(column.keyname, None) for column in self._compiled._result_columns]  # noqa: SLF001
            parent: Any = SimpleNamespace(context=context)
            self._columns = CursorResultMetaData(parent, cast("Any", described))
        return self._columns if statement is None else self._columns._adapt_to_context(context)  # noqa: SLF001


class Context:
    """What SQLAlchemy's description of columns asks of an execution."""

    _translate_colname = None

    def __init__(self, compiled: SQLCompiler, dialect: Dialect, statement: Executable | None) -> None:
        self.compiled = compiled
        self.dialect = dialect
        self.invoked_statement = statement
        self.result_column_struct = (compiled._result_columns, True, False, False, False)  # noqa: SLF001

    def get_result_processor(self, kind: types.TypeEngine[Any], _name: str, _coltype: object) -> Processor:
        """The processor of a column's values."""
        dialect = self.dialect
        if dialect.name != "postgresql" or not isinstance(unwrapped(kind, dialect), types.NumericCommon):
            return kind._cached_result_processor(dialect, None)  # noqa: SLF001

        # The short path is not told what the database sends, but the driver's value shows it.
        def process(value: Any) -> Any:
            oid = OID_OF.get(type(value), OID_NUMERIC)
            processor = kind._cached_result_processor(dialect, oid)  # noqa: SLF001
            return value if processor is None else processor(value)

        return process


def form_of(compiled: Any, dialect: Dialect, names: tuple[str, ...], *, many: bool) -> Form | None:
    """The form of a compiled statement; None if one of its parts is not known."""
    if not isinstance(compiled, SQLCompiler) or not compiled.positional or compiled.schema_translate_map:
        return None
    writing: Any = compiled.compile_state.statement if is_write(compiled) else None  # type: ignore[union-attr]
    returning = writing is not None and bool(writing._returning)  # noqa: SLF001
    expands = compiled.literal_execute_params or compiled.post_compile_params
    if many and (writing is None or returning or compiled.implicit_returning or expands):
        return None
    if not known_columns(compiled, dialect) or not known_binds(compiled, dialect):
        return None
    sources = sources_of(compiled, names)
    if sources is None:
        return None
    return Form(compiled, dialect, sources, returns_rows=writing is None or returning)


def is_write(compiled: SQLCompiler) -> bool:
    """Whether the statement itself writes; its WITH parts aside."""
    return compiled.isinsert or compiled.isupdate or compiled.isdelete


def known_columns(compiled: SQLCompiler, dialect: Dialect) -> bool:
    """Whether each column of the result is one that SQLAlchemy rendered, of a known type."""
    ordered = compiled._ordered_columns and not compiled._textual_ordered_columns  # noqa: SLF001
    if not ordered or compiled._ad_hoc_textual or compiled._loose_column_name_matching:  # noqa: SLF001
        return False
    return all(
        known_type(column.type, dialect) and not any(getattr(part, "is_literal", False) for part in column.objects)
        for column in compiled._result_columns  # noqa: SLF001
    )


def known_binds(compiled: SQLCompiler, dialect: Dialect) -> bool:
    """Whether each parameter is of a known type."""
    return all(known_type(bind.type, dialect, tuples=True) for bind in compiled.bind_names)


def known_type(kind: types.TypeEngine[Any], dialect: Dialect, *, tuples: bool = False) -> bool:
    """Whether values of a type go through its processors alone."""
    if tuples and isinstance(kind, types.TupleType):
        return all(known_type(part, dialect) for part in kind.types)
    real = unwrapped(kind, dialect)
    if isinstance(real, ARRAY):
        # The processor of an array of numbers depends on what the database says it sends.
        item = unwrapped(real.item_type, dialect)
        return isinstance(item, TYPES) and not isinstance(item, types.NumericCommon)
    return isinstance(real, TYPES)


def unwrapped(kind: types.TypeEngine[Any], dialect: Dialect) -> types.TypeEngine[Any]:
    """The dialect's own type below decorators and variants."""
    real = kind._unwrapped_dialect_impl(dialect)  # noqa: SLF001
    while isinstance(real, TypeDecorator):
        real = real.impl_instance
    return real


def sources_of(compiled: SQLCompiler, names: tuple[str, ...]) -> dict[str, tuple[int, Any]] | None:
    """Where the value of each parameter comes from, by its name in the text; None if only SQLAlchemy can tell.

    The order of the cases is that of SQLCompiler.construct_params.
    """
    match = compiled._cache_key_bind_match  # noqa: SLF001
    if compiled.cache_key is None or match is None:
        return None
    extracted = {twin: place for place, bind in enumerate(compiled.cache_key[1]) for twin in match[0][bind]}
    sources: dict[str, tuple[int, Any]] = {}
    for bind, name in compiled.bind_names.items():
        if bind.key in names:
            sources[name] = (GIVEN, bind.key)
        elif name in names:
            sources[name] = (GIVEN, name)
        elif bind.required:
            return None  # SQLAlchemy's own error says it best.
        elif bind in extracted:
            sources[name] = (EXTRACTED, extracted[bind])
        elif bind.callable:
            return None
        else:
            sources[name] = (FIXED, bind.value)
    defaults = [(column, column._default_description_tuple) for column in compiled.insert_prefetch]  # noqa: SLF001
    defaults += [(column, column._onupdate_description_tuple) for column in compiled.update_prefetch]  # noqa: SLF001
    for column, (value, is_scalar, _, _) in defaults:
        if not is_scalar:
            return None
        sources[compiled._within_exec_param_key_getter(column)] = (FIXED, value)  # noqa: SLF001
    return sources
