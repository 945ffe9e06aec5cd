"""Words: every module says what it is, every test says what it holds.

Public classes and functions of the product are held to a docstring by ruff's D rules.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.tidy.source import FunctionNode, Source, docstring_node

SHORT = 12


def undocumented_module(source: Source) -> list[str]:
    """The file, if it does not open with a docstring that says something."""
    doc = docstring_node(source.tree)
    if doc is None:
        return [source.found(1, "the module has no docstring; say what it is and, if it is hard, why it is so")]
    if len(str(doc.value).strip()) < SHORT:
        return [source.found(1, f"the module's docstring says nothing: {doc.value!r}")]
    return []


def undocumented_tests(source: Source) -> list[str]:
    """Tests whose docstring is missing or does not begin with a sentence."""
    findings = []
    for node in collected(source.tree):
        doc = docstring_node(node)
        first = str(doc.value).strip().split("\n\n")[0].strip() if doc else ""
        if not first:
            findings.append(source.found(node.lineno, f"{node.name} has no docstring; say which behaviour it holds"))
        elif not first.endswith((".", "?", "!", ":")) or len(first) < SHORT:
            findings.append(source.found(node.lineno, f"{node.name}: the docstring is no sentence: {first!r}"))
    return findings


def collected(tree: ast.AST) -> Iterator[FunctionNode]:
    """Functions that pytest collects: at the top, and in classes named Test."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FunctionNode) and node.name.startswith("test_"):
            yield node
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from collected(node)
