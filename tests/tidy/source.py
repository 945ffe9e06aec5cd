"""Source: one Python file as the tidy tests see it: its module name, its text, its tree.

Every checker is a function from a `Source` to findings, so that a test can feed it a few bad lines and see them caught.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "dujiang"
SHIPPED_TESTS = re.compile(r"src/dujiang/systems/\w+/tests/")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported name.

    Attributes:
        line: Where it stands.
        module: The absolute dotted name behind `import` or `from`.
        name: What follows `import` in a `from ... import`; empty otherwise.
        typing: Whether it stands under `if TYPE_CHECKING:`.
    """

    line: int
    module: str
    name: str = ""
    typing: bool = False


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        module: Its dotted name, such as `dujiang.kernel.clock`; of a package the package's own.
        text: What stands in it.
        path: Where it is, relative to the repository.
        package: Whether it is an `__init__.py`.
    """

    module: str
    text: str
    path: str = "snippet.py"
    package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text, filename=self.path)

    @cached_property
    def imports(self) -> list[Import]:
        """Every import of the file: at the top, inside functions, under TYPE_CHECKING, and by a literal name."""
        return list(self._imports())

    @cached_property
    def strings(self) -> list[tuple[int, str]]:
        """Every string constant with its line, parts of f-strings included, docstrings left out."""
        documented = [node for node in ast.walk(self.tree) if isinstance(node, Documented)]
        skipped = {id(doc) for node in documented if (doc := docstring_node(node)) is not None}
        constants = (node for node in ast.walk(self.tree) if isinstance(node, ast.Constant) and id(node) not in skipped)
        return [(node.lineno, node.value) for node in constants if isinstance(node.value, str)]

    def found(self, line: int, says: str) -> str:
        """A finding in the form that editors can jump to."""
        return f"{self.path}:{line}: {says}"

    def _imports(self) -> Iterator[Import]:
        typing = {id(inner) for node in ast.walk(self.tree) if is_typing(node) for inner in ast.walk(node)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(line=node.lineno, module=alias.name, typing=id(node) in typing)
            elif isinstance(node, ast.ImportFrom):
                module = self._absolute(node)
                for alias in node.names:
                    yield Import(line=node.lineno, module=module, name=alias.name, typing=id(node) in typing)
            elif isinstance(node, ast.Call) and (literal := literal_import(node)):
                yield Import(line=node.lineno, module=literal)

    def _absolute(self, node: ast.ImportFrom) -> str:
        """The module of a `from` import, with leading dots resolved."""
        if not node.level:
            return node.module or ""
        parts = self.module.split(".")
        kept = parts[: len(parts) - node.level + self.package]
        return ".".join([*kept, *([node.module] if node.module else [])])


def is_typing(node: ast.AST) -> bool:
    """Whether this is `if TYPE_CHECKING:`."""
    if not isinstance(node, ast.If):
        return False
    return getattr(node.test, "id", getattr(node.test, "attr", "")) == "TYPE_CHECKING"


def literal_import(node: ast.Call) -> str:
    """The module that `import_module("name")` or `__import__("name")` loads; empty for any other call."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in ("import_module", "__import__") or not node.args:
        return ""
    target = node.args[0]
    return target.value if isinstance(target, ast.Constant) and isinstance(target.value, str) else ""


def docstring_node(node: Documented) -> ast.Constant | None:
    """The constant that is the docstring of a module, class or function."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first.value
    return None


def functions(source: Source) -> Iterator[FunctionNode]:
    """Every function of the file, methods and inner ones included."""
    return (node for node in ast.walk(source.tree) if isinstance(node, FunctionNode))


@lru_cache
def sources(folder: Path) -> tuple[Source, ...]:
    """Every Python file below a folder of the repository, in order."""
    base = ROOT / "src" if folder.is_relative_to(ROOT / "src") else ROOT
    return tuple(
        read(path, base) for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts and path.is_file()
    )


def read(path: Path, base: Path) -> Source:
    """The source of one file whose module name counts from `base`."""
    parts = list(path.relative_to(base).with_suffix("").parts)
    package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if package else parts)
    return Source(module, path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)), package)


def product() -> tuple[Source, ...]:
    """The files of the package itself, without the tests that are shipped with a system."""
    return tuple(source for source in sources(PACKAGE) if not SHIPPED_TESTS.match(source.path))


def suite() -> tuple[Source, ...]:
    """The files of the test suite, and the tests that are shipped with a system."""
    shipped = (source for source in sources(PACKAGE) if SHIPPED_TESTS.match(source.path))
    return (*sources(ROOT / "tests"), *shipped)


def benches() -> tuple[Source, ...]:
    """The benchmarks, without the peers, which are kept as their authors would write them."""
    return tuple(source for source in sources(ROOT / "bench") if not source.path.startswith("bench/peers"))


def tell(findings: list[str]) -> str:
    """Findings as the message of a failing test."""
    return "\n".join(["", *findings, f"{len(findings)} found"])
