"""Codes: each error of the product has one of its own, in words, and says whose move it is.

A code is stored under idempotency keys and in dead letters, and is the name of a page: two errors may not share one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from tests.tidy.source import Source

WORDS = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
MOVES = ("fix", "choose", "wait", "report")


def wrong_codes(sources: Iterable[Source]) -> list[str]:
    """Codes that stand in two classes or are no snake_case words, and moves that do not exist."""
    findings = []
    seen: dict[str, str] = {}
    for source in sources:
        for node, name, value in class_values(source.tree):
            if name == "move" and value not in MOVES:
                findings.append(source.found(node.lineno, f"{node.name}: {value!r} is no move; it is one of {MOVES}"))
            if name != "code":
                continue
            if not WORDS.fullmatch(value):
                findings.append(
                    source.found(node.lineno, f"{node.name}: the code {value!r} is not in snake_case words")
                )
            if value in seen:
                findings.append(source.found(node.lineno, f"{node.name}: the code {value!r} is that of {seen[value]}"))
            seen[value] = node.name
    return findings


def class_values(tree: ast.Module) -> Iterator[tuple[ast.ClassDef, str, str]]:
    """The attributes of classes that are a literal string: class, name, value."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or not is_error(node):
            continue
        for line in node.body:
            if not isinstance(line, ast.Assign | ast.AnnAssign) or not isinstance(line.value, ast.Constant):
                continue
            for target in line.targets if isinstance(line, ast.Assign) else [line.target]:
                if isinstance(target, ast.Name) and isinstance(line.value.value, str):
                    yield node, target.id, line.value.value


def is_error(node: ast.ClassDef) -> bool:
    """Whether a class declares itself an error: it has a code, beside a move, a status or something that it says."""
    targets = {
        target.id
        for line in node.body
        if isinstance(line, ast.Assign | ast.AnnAssign)
        for target in (line.targets if isinstance(line, ast.Assign) else [line.target])
        if isinstance(target, ast.Name)
    }
    return "code" in targets and bool(node.bases)
