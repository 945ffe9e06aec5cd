"""The page of violations names every check that the drill makes."""

from __future__ import annotations

import ast
from pathlib import Path

import dujiang.drill
from tests.docs.markdown import ROOT

PAGE = ROOT / "docs" / "reference" / "violations.md"
FOLDER = Path(dujiang.drill.__file__).parent


def kinds() -> set[str]:
    """The invariants that stand as texts in the drill's own checks."""
    found = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Violation":
                found |= {node.args[0].value} if node.args and isinstance(node.args[0], ast.Constant) else set()
    return {str(kind) for kind in found}


def test_every_check_has_a_paragraph_with_its_cure() -> None:
    """A user who meets a violation finds its name as a heading, and below it a cure; no heading is left over."""
    parts = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    sections = {part.partition("\n")[0]: part for part in parts}

    assert sections.keys() - {"Your own laws"} == kinds()
    assert [name for name, text in sections.items() if "Cure: " not in text] == []
