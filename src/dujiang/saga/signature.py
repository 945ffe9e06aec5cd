"""Signature: what the function of a step asks for, checked when the class of its saga is made.

    async def step(tx: Tx, state: S, ...) -> R                         local: one transaction
    async def step(call: Call, state: S, ...) -> Ok[R] | Failed | Unknown
    async def undo(tx or call, state: S, done: R | None, ...)

What stands behind these parameters the app provides, by type.
"""

from __future__ import annotations

import inspect
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from dujiang.kernel.errors import Declared
from dujiang.messaging.call import Call
from dujiang.messaging.tx import Tx
from dujiang.saga.outcome import Failed, Ok, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OUTCOMES = (Ok, Failed, Unknown)


@dataclass(frozen=True, eq=False)
class Signature:
    """The signature of one function.

    Attributes:
        function: The function.
        local: Whether it is a transaction; otherwise its effect lies outside.
        asks: What the app must provide, by parameter: type and default.
        result: The type of what it gives.
    """

    function: Callable[..., Any]
    local: bool
    asks: Mapping[str, tuple[Any, Any]]
    result: Any


def where_of(function: Any) -> str:
    """File, line and name of a function, for messages."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return name if code is None else f"{code.co_filename}:{code.co_firstlineno} {name}"


def signature_of(function: Callable[..., Any], state: Any, *, undoes: Signature | None = None) -> Signature:
    """Read the function of a step, or of what undoes one.

    Args:
        function: The function.
        state: The type of the saga's state.
        undoes: The step that it undoes.

    Raises:
        Declared: When it is not what a step must be.
    """
    where = where_of(function)
    if not inspect.iscoroutinefunction(function):
        raise Declared(where=where, what="is not an async function", how="write `async def`")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        what = f"has an annotation that cannot be read: {error}"
        raise Declared(where=where, what=what, how="import the name") from None
    parameters = inspect.signature(function).parameters
    untyped = [name for name in (*parameters, "return") if name not in hints]
    if untyped:
        how = "annotate every parameter and the answer"
        raise Declared(where=where, what=f"has no type for: {', '.join(untyped)}", how=how)
    names = list(parameters)
    own = 2 if undoes is None else 3
    shape = "(tx: Tx, state: S)" if undoes is None else "(tx: Tx, state: S, done: R | None)"
    first = hints[names[0]] if names else None
    if len(names) < own or not isinstance(first, type) or not issubclass(first, (Tx, Call)):
        how = f"begin with `{shape}`, or with `call: Call` for an effect outside"
        raise Declared(where=where, what="does not begin as a step does", how=how)
    if hints[names[1]] != state:
        what = f"takes {shown(hints[names[1]])}, and the state of its saga is {shown(state)}"
        raise Declared(where=where, what=what, how=f"write `{names[1]}: {shown(state)}`")
    local = issubclass(first, Tx)
    if undoes is not None:
        refuse_other_result(where, names[2], hints[names[2]], undoes)
    asks = {name: (hints[name], parameters[name].default) for name in names[own:]}
    result = hints["return"] if local or undoes is not None else value_of(where, hints["return"])
    if undoes is None:
        refuse_unstorable(where, result)
    return Signature(function, local, asks, result)


def members_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself when it is none."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def value_of(where: str, hint: Any) -> Any:
    """What is kept of a step outside: R of `Ok[R] | Failed | Unknown`. Raises Declared."""
    kinds = {typing.get_origin(member) or member: member for member in members_of(hint)}
    if Ok not in kinds or not set(kinds) <= set(OUTCOMES):
        how = "return `Ok[R] | Failed | Unknown`: that it happened, that it did not, that nobody can say"
        raise Declared(where=where, what=f"has an effect outside and returns {shown(hint)}", how=how)
    found = typing.get_args(kinds[Ok])
    return found[0] if found else Any


def refuse_other_result(where: str, name: str, hint: Any, undoes: Signature) -> None:
    """Raise Declared when an undo does not take what its step gives."""
    result = type(None) if undoes.result is None else undoes.result
    taken = {type(None) if member is None else member for member in members_of(hint)}
    wanted = {type(None) if member is None else member for member in members_of(result)} | {type(None)}
    if Any in taken or object in taken or Any in wanted or wanted <= taken:
        return
    if undoes.local and wanted - {type(None)} <= taken:
        return  # A step that is a transaction has always a result when it is undone.
    full = shown(result) if result is type(None) else f"{shown(result)} | None"
    what = f"takes {name}: {shown(hint)}, and the step that it undoes gives {shown(undoes.result)}"
    raise Declared(where=where, what=what, how=f"write `{name}: {full}`; None means that the outcome is not known")


def refuse_unstorable(where: str, result: Any) -> None:
    """Raise Declared when what a step gives has no JSON form."""
    try:
        TypeAdapter(result).json_schema(mode="serialization")
    except Exception:  # noqa: BLE001  (Pydantic has many ways to say that a type is none of its own)
        how = "return what has a JSON form: a model, a text, a number, None"
        raise Declared(where=where, what=f"gives {shown(result)}, which cannot be kept", how=how) from None


def shown(hint: Any) -> str:
    """A type, for messages."""
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
