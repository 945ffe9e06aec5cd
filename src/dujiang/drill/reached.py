"""Reached: the `sometimes` that stand in an app's source, so that one that is never reached shows with 0.

The source is read, never run: the modules of the app's functions, and what these import from their own package. A text that
is made at run time is not found; it counts from the first time it is reached.
"""

from __future__ import annotations

import ast
import inspect
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from dujiang.app.declaration import App

NAME = "sometimes"


def places_named(app: App) -> list[str]:
    """What each `sometimes` of an app says, sorted."""
    return sorted({said for tree in trees(app) for said in said_in(tree)})


def trees(app: App) -> Iterator[ast.AST]:
    """The source of the app's modules, each once."""
    functions = [verb.function for verb in app.verbs()] + [external.function for external in app.externals()]
    waiting = sorted({str(function.__module__) for function in functions})
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name in seen or module is None:
            continue
        seen.add(name)
        try:
            tree = ast.parse(inspect.getsource(module))
        except (OSError, TypeError):  # Made by no file.
            continue
        yield tree
        root = name.partition(".")[0]
        waiting.extend(other for other in imported(tree, module) if other.partition(".")[0] == root)


def imported(tree: ast.AST, module: ModuleType) -> Iterator[str]:
    """The modules that a module may import, by their whole names."""
    package = (module.__package__ or "").split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*above, *([node.module] if node.module else [])])
            yield whole
            yield from (f"{whole}.{alias.name}" for alias in node.names)


def said_in(tree: ast.AST) -> Iterator[str]:
    """The texts given to `sometimes`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            called, first = node.func, node.args[0]
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name == NAME and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value
