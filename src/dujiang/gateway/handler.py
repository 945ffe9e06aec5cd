"""Handlers: what a declared function asks for, found once from its signature.

The first parameter says which world the function lives in (`Tx`, `Read`). Of the others, those whose type the app
provides are injected; the rest is what a FastAPI route may ask for. Everything is decided when the runtime binds the
handler; a call looks nothing up.
"""

from __future__ import annotations

import inspect
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dujiang.kernel.errors import Declared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def where_of(function: Callable[..., Any]) -> str:
    """File and line of a function, for messages."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno} {function.__qualname__}"


@dataclass(frozen=True, eq=False)
class Handler:
    """A declared function and its resolved signature.

    Attributes:
        function: The function itself.
        first: The type of its first parameter.
        parameters: The others by name: (annotation with extras, default or Parameter.empty).
        answer: The annotation of what it returns.
    """

    function: Callable[..., Any]
    first: Any
    parameters: Mapping[str, tuple[Any, Any]]
    answer: Any = field(default=None)


def inspected(function: Callable[..., Any], *, worlds: tuple[type, ...]) -> Handler:
    """Read a function's signature. Raises Declared when it is not typed or lives in the wrong world.

    Args:
        function: The declared function.
        worlds: Types that its first parameter may have.
    """
    where = where_of(function)
    if not inspect.iscoroutinefunction(function):
        raise Declared(where=where, what="is not an async function", how="write `async def`")
    signature = inspect.signature(function)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise Declared(
            where=where, what=f"has an annotation that cannot be read: {error}", how="import the name"
        ) from None
    untyped = [name for name in signature.parameters if name not in hints]
    if untyped or "return" not in hints:
        missing = ", ".join([*untyped, *(["return"] if "return" not in hints else [])])
        raise Declared(where=where, what=f"has no type for: {missing}", how="annotate every parameter and the answer")
    names = list(signature.parameters)
    wanted = " or ".join(world.__name__ for world in worlds)
    if not names or not isinstance(hints[names[0]], type) or not issubclass(hints[names[0]], worlds):
        raise Declared(
            where=where,
            what=f"its first parameter is not {wanted}",
            how=f"begin with `({wanted.lower()}: {wanted}, ...)`",
        )
    parameters = {name: (hints[name], signature.parameters[name].default) for name in names[1:]}
    return Handler(function, hints[names[0]], parameters, hints["return"])


def provided(handler: Handler, provide: Mapping[Any, Any]) -> dict[str, Any]:
    """The parameters that the app provides, by name."""
    return {name: provide[hint] for name, (hint, _) in handler.parameters.items() if hashable(hint) and hint in provide}


def hashable(hint: Any) -> bool:
    """Whether a type can be a key of `provide`."""
    try:
        hash(hint)
    except TypeError:
        return False
    return True
