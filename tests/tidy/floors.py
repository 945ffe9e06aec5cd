"""Floors: a package imports itself and what stands below it; neighbours on one floor do not know each other.

The table is the house of the architecture page, top to bottom. An import counts wherever it stands, inside a function
or under TYPE_CHECKING too: a dependency that is only looked at is still one that a reader has to follow. Where a lower
floor needs something of a higher one, the higher one hands it in when the app is put together.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.tidy.source import Import, Source

FACE = "dujiang"

# What stands behind a dot is a top-level name of the package; "dujiang" itself is the public face.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("systems",),
    ("cli",),
    ("drill",),
    ("testing",),
    ("contracts",),
    (FACE, "columns"),
    ("app",),
    ("module", "settings", "console"),
    ("backends",),
    ("write", "accept", "read", "react"),
    ("search", "ml", "gateway"),
    ("saga", "realtime"),
    ("caching", "jobs", "locking"),
    ("messaging",),
    ("data",),
    ("resilience",),
    ("telemetry",),
    ("kernel",),
)

HEIGHT = {unit: len(FLOORS) - place for place, floor in enumerate(FLOORS) for unit in floor}


def unit_of(module: str, name: str = "") -> str | None:
    """The unit of the house that a module belongs to; None for a foreign module.

    `from dujiang import kernel` means the package when there is one of that name, else a name of the public face.
    """
    root, _, rest = module.partition(".")
    if root != "dujiang":
        return None
    if rest:
        return rest.partition(".")[0]
    return name if name in HEIGHT else FACE


def upward(source: Source) -> list[str]:
    """Imports of this file that go up or sideways, and units that stand on no floor."""
    own = unit_of(source.module)
    assert own is not None
    if own not in HEIGHT:
        return [source.found(1, f"{own} stands on no floor; give it one in tests/tidy/floors.py")]
    return [
        source.found(line.line, f"{own} (floor {HEIGHT[own]}) may not import {target} (floor {HEIGHT.get(target, 0)})")
        for line in source.imports
        if (target := unit_of(line.module, line.name)) is not None and target != own
        if HEIGHT.get(target, len(FLOORS) + 1) >= HEIGHT[own]
    ]


def foreign_adapters(source: Source) -> list[str]:
    """Imports of an adapter from outside its own technology; only the table of adapters is for everybody."""
    return [
        source.found(line.line, f"{full} is an adapter; it is loaded by `backends.table.load`, and imported by nobody")
        for line in source.imports
        for full in [dotted(line)]
        if full.startswith("dujiang.backends.") and not full.startswith("dujiang.backends.table")
        if source.module.split(".")[:3] != full.split(".")[:3]
    ]


def foreign_systems(source: Source) -> list[str]:
    """Imports by which a system sees more than the public face, itself, and the contracts of the other systems.

    A file that lies directly in `systems/` puts systems together and may name them all.
    """
    parts = source.module.split(".")
    if parts[:2] != ["dujiang", "systems"] or (len(parts) == 3 and not source.package) or len(parts) < 3:
        return []
    findings = []
    for line in source.imports:
        target = dotted(line).split(".")
        if target[0] != "dujiang" or target[:3] == parts[:3] or unit_of(line.module, line.name) in (FACE, "columns"):
            continue
        if target[1] != "systems":
            findings.append(source.found(line.line, f"a system sees the public face only, not {line.module}"))
        elif target[3:4] != ["contract"]:
            findings.append(
                source.found(line.line, f"a system sees of another one its contract only, not {line.module}")
            )
    return findings


def dotted(line: Import) -> str:
    """The longest dotted name of an import."""
    return f"{line.module}.{line.name}" if line.name else line.module


def cycles(sources: Iterable[Source]) -> list[list[str]]:
    """Groups of modules that import each other, lazily or not; sorted, largest first (Tarjan's algorithm).

    What is imported for types alone does not count: inside a unit a part may say whose part it is.
    """
    sources = list(sources)
    known = {source.module for source in sources}
    edges = {
        source.module: {t for line in source.imports if (t := target_of(line, known)) and not line.typing}
        for source in sources
    }
    for source in sources:
        edges[source.module].discard(source.module)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in edges[module]:
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            at = stack.index(module)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                groups.append(sorted(group))

    for module in sorted(edges):
        if module not in index:
            visit(module)
    return sorted(groups, key=lambda group: (-len(group), group))


def target_of(line: Import, known: set[str]) -> str | None:
    """The module of the package that an import reaches: the named one, else the one that holds the name."""
    return next((module for module in (dotted(line), line.module) if module in known), None)
