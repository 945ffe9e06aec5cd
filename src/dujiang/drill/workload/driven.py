"""Driven: which operations other code of the app runs already, so that a drill need not call them by themselves.

An operation has no path; somebody calls it: a handler inside its own transaction, a seed, a workload. Whoever reads the
code sees the name there, and so does this module: it follows the names that the app's own functions use, through plain
functions of the same package, and never runs anything. What is called by a name that is only made at run time is not
found; then the operation is called twice as often, by its driver and by the drill.
"""

from __future__ import annotations

from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dujiang.app.declaration import App


def driven(app: App) -> set[Any]:
    """The verbs that functions of the app name: handlers other than the verb itself, seeds, laws and workloads."""
    verbs = {verb: verb.function for verb in app.verbs()}
    roots: list[tuple[Any, Callable[..., Any]]] = list(verbs.items())
    roots += [(None, module.seed) for module in app.modules if module.seed is not None]
    roots += [(None, each.check) for each in app.invariants()]
    roots += [(None, each.function) for each in app.workloads()]
    found: set[Any] = set()
    for verb, function in roots:
        found |= reached(function, verbs) - {verb}
    return found


def reached(function: Callable[..., Any], verbs: dict[Any, Any]) -> set[Any]:
    """The verbs that a function names, itself or through plain functions of its package."""
    package = str(getattr(function, "__module__", "")).partition(".")[0]
    found: set[Any] = set()
    seen: set[int] = set()
    waiting: list[Any] = [function]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        for value in named_by(each):
            if is_verb(value, verbs):
                found.add(value)
            elif isinstance(value, FunctionType) and value.__module__.partition(".")[0] == package:
                waiting.append(value)
    return found


def is_verb(value: Any, verbs: dict[Any, Any]) -> bool:
    """Whether a value is one of the verbs; a value that cannot be hashed is none."""
    return hasattr(value, "handler") and hasattr(value, "kind") and value in verbs


def named_by(function: Any) -> Iterator[Any]:
    """The values behind the names that a function's code uses: globals, members of modules, and closed-over variables."""
    if not isinstance(function, FunctionType):
        return
    names = {name for code in codes(function.__code__) for name in code.co_names}
    values = [function.__globals__[name] for name in sorted(names) if name in function.__globals__]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            values.append(cell.cell_contents)
        except ValueError:
            names.discard(name)  # Not yet filled.
    for value in values:
        yield value
        if isinstance(value, ModuleType):
            yield from (vars(value)[name] for name in sorted(names) if name in vars(value))


def codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)
