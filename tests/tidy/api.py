"""The public face as text: one line for each public name, so that a change to it is a line in a diff.

    python -m tests.tidy.api            shows how `api.txt` and the code differ
    python -m tests.tidy.api --write    makes `api.txt` say what the code says

Public is what `dujiang.__all__` and `dujiang.columns.__all__` list, with the public methods and properties of listed
classes. What a class inherits from outside of Dujiang, or overrides there, is not ours to promise and is not listed.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from tests.tidy.source import ROOT

FILE = ROOT / "api.txt"
FACES = ("dujiang", "dujiang.columns")

HEAD = "# The public face, a name a line. Made by `python -m tests.tidy.api --write`; a change is one for users.\n"


def text_of(modules: Iterable[ModuleType]) -> str:
    """What `api.txt` holds for these modules."""
    return HEAD + "".join(f"{line}\n" for module in modules for line in lines_of(module))


def lines_of(module: ModuleType) -> Iterator[str]:
    """The lines of one module, in the order of the alphabet."""
    names = getattr(module, "__all__", None)
    if names is None:
        raise AssertionError(f"{module.__name__} has no __all__, so nothing of it is public")
    for name in sorted(names, key=lambda name: (name.lower(), name)):
        yield from lines_of_value(f"{module.__name__}.{name}", getattr(module, name))


def lines_of_value(name: str, value: Any) -> Iterator[str]:
    """One line for a function or a value; for a class one more for each public member of its own."""
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}({bases}){signature(value)}" if bases else f"class {name}{signature(value)}"
        for member in sorted(members(value)):
            yield from lines_of_member(f"{name}.{member}", inspect.getattr_static(value, member))
    elif callable(value) and not hasattr(value, "__origin__"):
        yield f"{kind(value)} {name}{signature(value)}"
    else:
        yield f"value {name}: {plain(type(value).__name__ if not hasattr(value, '__origin__') else repr(value))}"


def lines_of_member(name: str, value: Any) -> Iterator[str]:
    """One line for a method, a property or a class attribute."""
    if isinstance(value, property):
        yield f"property {name}{arrow(value.fget)}"
    elif isinstance(value, (classmethod, staticmethod)):
        yield f"{kind(value.__func__)} {name}{signature(value.__func__)}"
    elif inspect.isfunction(value):
        yield f"{kind(value)} {name}{signature(value)}"
    else:
        yield f"value {name}"


def members(value: type) -> Iterator[str]:
    """The public names that a class, or a base of it that is ours, adds to what it has from others."""
    root = value.__module__.partition(".")[0]
    ours = [base for base in value.__mro__ if base.__module__.partition(".")[0] == root]
    foreign = {name for base in value.__mro__ if base not in ours for name in vars(base)}
    fields = {field for base in ours for field in getattr(base, "__dataclass_fields__", ())}
    yield from {name for base in ours for name in vars(base) if not name.startswith("_")} - fields - foreign


def kind(value: Any) -> str:
    """`async def` or `def`."""
    return "async def" if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value) else "def"


def signature(value: Any) -> str:
    """The signature as it is written; `(...)` where Python knows none."""
    try:
        known = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    empty = inspect.Parameter.empty
    parameters = [
        parameter if parameter.annotation is empty else parameter.replace(annotation=Written(parameter.annotation))
        for parameter in known.parameters.values()
    ]
    answer = known.return_annotation
    return plain(str(known.replace(parameters=parameters, return_annotation=empty))) + (
        "" if answer is empty else f" -> {Written(answer)!r}"
    )


class Written:
    """An annotation that shows itself as it is written in the code, without quotes."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation

    def __repr__(self) -> str:
        text = self.annotation if isinstance(self.annotation, str) else inspect.formatannotation(self.annotation)
        return plain(text)


def arrow(value: Any) -> str:
    """The type that a property answers with."""
    annotation = value.__annotations__.get("return", inspect.Parameter.empty)
    return "" if annotation is inspect.Parameter.empty else f" -> {Written(annotation)!r}"


def plain(text: str) -> str:
    """The text without what differs between Python versions and machines."""
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return re.sub(r"\b(?:typing|collections\.abc|datetime|builtins)\.(?=[A-Za-z])", "", text)


def difference(told: str, made: str) -> list[str]:
    """What the file says and the code does not, and the other way round."""
    lines = difflib.unified_diff(told.splitlines(), made.splitlines(), "api.txt", "the code", lineterm="", n=0)
    return [line for line in lines if not line.startswith("@@")]


def made() -> str:
    """The public face of the code as it is now."""
    return text_of(importlib.import_module(name) for name in FACES if importlib.util.find_spec(name))


def main(arguments: list[str]) -> int:
    """Show the difference, or write the file."""
    if "--write" in arguments:
        FILE.write_text(made(), encoding="utf-8")
        return 0
    told = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    print("\n".join(difference(told, made())))  # noqa: T201  (this is a command)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
