"""Handlers: what a declared function asks for, found once from its signature.

The first parameter says which world the function lives in (`Tx`, `Read`). Of the others, those whose type the app
provides are injected; the rest is what a FastAPI route may ask for. Everything is decided when the runtime binds the
handler; a call looks nothing up.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from pydantic.fields import FieldInfo

from dujiang.kernel.errors import Declared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


ROUTE = re.compile(r"(GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS) (/\S*)")
# Options of a FastAPI route that would say how an answer is written; the bytes are ours, made before the commit.
NOT_OURS = re.compile(r"response_class|response_model_\w+")


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

    @cached_property
    def marked(self) -> Mapping[str, Any]:
        """Parameters whose default is a mark for requests (`Query(3)`, `Depends(...)`) and no value, by name."""
        return {name: default for name, (_, default) in self.parameters.items() if is_mark(default)}

    @cached_property
    def responses(self) -> tuple[str, ...]:
        """Parameters through which it sets status, headers and cookies of the answer; usually none."""
        return tuple(name for name, (hint, _) in self.parameters.items() if is_response(hint))

    def completed(self, args: tuple[Any, ...], values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` and what a call in Python leaves to FastAPI: defaults inside `Query(3)`, and a Response that nobody reads.

        Args:
            args: What was given by position, the first parameter left out.
            values: What was given by name.

        Raises:
            TypeError: When a dependency, or a required value, was not given.
        """
        if not self.marked and not self.responses:
            return dict(values)
        given = dict(values)
        missing = [name for name in list(self.parameters)[len(args) :] if name not in given]
        for name in missing:
            if name in self.responses:
                from starlette.responses import Response  # noqa: PLC0415  (loads with the first verb)

                given[name] = Response()
            elif name in self.marked:
                given[name] = default_of(name, self.marked[name], self.function)
        return given


def is_mark(default: Any) -> bool:
    """Whether a default is one of FastAPI's marks: `Query(3)`, `Body()`, `Depends(...)`."""
    return isinstance(default, FieldInfo) or is_depends(default)


def is_depends(mark: Any) -> bool:
    """Whether a mark is `Depends(...)` or `Security(...)`; FastAPI is not imported to know it."""
    return any(kind.__module__ == "fastapi.params" and kind.__name__ == "Depends" for kind in type(mark).__mro__)


def default_of(name: str, mark: Any, function: Callable[..., Any]) -> Any:
    """The value that a mark stands for when there is no request. Raises TypeError when it has none."""
    if is_depends(mark):
        raise TypeError(f"{function.__qualname__}() needs {name!r}, which only a request gets from its dependency")
    if mark.is_required():
        raise TypeError(f"{function.__qualname__}() missing 1 required argument: {name!r}")
    return mark.get_default(call_default_factory=True)


def is_response(hint: Any) -> bool:
    """Whether a type is FastAPI's Response, or one of its kinds."""
    from starlette.responses import Response  # noqa: PLC0415

    kind = bare(hint)
    return isinstance(kind, type) and issubclass(kind, Response)


def bare(hint: Any) -> Any:
    """A type without its annotations."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def members_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself when it is none."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def union_of(members: Sequence[Any]) -> Any:
    """The union of types; None (there is no answer) of none."""
    union: Any = members[0] if members else None
    for member in members[1:]:
        union |= member
    return union


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
            how="begin with " + " or ".join(f"`({world.__name__.lower()}: {world.__name__}, ...)`" for world in worlds),
        )
    for name in names[1:]:
        if getattr(bare(hints[name]), "__name__", "") == "BackgroundTasks":
            raise Declared(
                where=where,
                what=f"asks for background tasks ({name}), which a crash of the process loses",
                how="publish an event; a reaction does what shall follow, and survives",
            )
    parameters = {name: (hints[name], signature.parameters[name].default) for name in names[1:]}
    return Handler(function, hints[names[0]], parameters, hints["return"])


class Asking(Protocol):
    """What may ask the app for something: a handler, or all functions of a saga together."""

    @property
    def parameters(self) -> Mapping[str, tuple[Any, Any]]:
        """What it takes, by name: type and default."""
        ...


def provided(handler: Asking, provide: Mapping[Any, Any]) -> dict[str, Any]:
    """The parameters that the app provides, by name."""
    return {name: provide[hint] for name, (hint, _) in handler.parameters.items() if hashable(hint) and hint in provide}


def hashable(hint: Any) -> bool:
    """Whether a type can be a key of `provide`."""
    try:
        hash(hint)
    except TypeError:
        return False
    return True


def method_of(route: str | None, function: Callable[..., Any], *, write: bool) -> str:
    """The method of a route; empty without one. Raises Declared when the route does not fit the verb."""
    if route is None:
        return ""
    where, match = where_of(function), ROUTE.fullmatch(route)
    if match is None:
        raise Declared(where=where, what=f"{route!r} is not a route", how='write "POST /path/{name}"')
    if write and match[1] == "GET":
        raise Declared(where=where, what="a write on GET", how="use POST, PUT, PATCH or DELETE, or declare a read")
    return match[1]


def options_of(options: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Options of a FastAPI route. Raises Declared for one that would be ignored."""
    for name in options:
        if NOT_OURS.fullmatch(name):
            raise Declared(
                where=where_of(function),
                what=f"has the option {name}, which is not taken",
                how="return a model that holds what clients may see, or a Response",
            )
    return options


def refuse_promises(function: Callable[..., Any], idempotency: str, requires: Sequence[str]) -> None:
    """Raise Declared when a write or accept says something else than is known of keys and of what it requires."""
    where = where_of(function)
    if idempotency not in ("optional", "required"):
        raise Declared(where=where, what=f"idempotency={idempotency!r}", how="optional or required")
    if isinstance(requires, str) or set(requires) - {"broker"}:
        raise Declared(where=where, what=f"requires={requires!r}", how='write ("broker",), or nothing')
