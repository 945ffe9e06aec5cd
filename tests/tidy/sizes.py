"""Sizes: a file, a function and the public face stay small enough to be read in one sitting."""

from __future__ import annotations

from tests.tidy.source import FunctionNode, Source, docstring_node, functions

FILE_LINES = 400
TEST_FILE_LINES = 800
FUNCTION_LINES = 60

# Path -> why it may be longer.
ALLOWED: dict[str, str] = {}


def long_file(source: Source, limit: int) -> list[str]:
    """The file, if it has more lines than the limit."""
    lines = source.text.count("\n")
    if lines <= limit or source.path in ALLOWED:
        return []
    return [source.found(limit + 1, f"the file has {lines} lines, {limit} at most; split it by subject")]


def long_functions(source: Source) -> list[str]:
    """Functions with more lines than the limit; decorators and the docstring are not counted."""
    return [
        source.found(node.lineno, f"{node.name} has {lines} lines without its docstring, {FUNCTION_LINES} at most")
        for node in functions(source)
        if (lines := lines_of(node)) > FUNCTION_LINES
    ]


def lines_of(node: FunctionNode) -> int:
    """Lines from `def` to the end, without the docstring."""
    assert node.end_lineno is not None
    doc = docstring_node(node)
    said = (doc.end_lineno or doc.lineno) - doc.lineno + 1 if doc else 0
    return node.end_lineno - node.lineno + 1 - said
