"""Names: no file with a name that says nothing, and none that nobody uses."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.tidy.floors import dotted
from tests.tidy.source import Source

EMPTY = frozenset("util utils common helper helpers manager managers base misc stuff core lib tools".split())

DOTTED = re.compile(r"(dujiang(?:\.\w+)+)(?::\w+)?")

# Module -> why nobody needs to import it. A `__main__` is run by name.
ENTRIES = {
    "dujiang.cli.main": "The console script of pyproject.toml.",
    "dujiang.columns": "Public: column types.",
    "dujiang.drill.marker": "A plugin of pytest; the entry point of pyproject.toml.",
    "dujiang.telemetry.events": "Public: the table of spans and metrics; docs/reference/events.md is made from it.",
}


def empty_name(source: Source) -> list[str]:
    """The file, if its name, or that of a folder above it, says nothing about what is inside."""
    findings = []
    for part in source.module.split(".")[1:]:
        if part in EMPTY or (EMPTY & set(part.split("_")) and not part.startswith("test_")):
            findings.append(source.found(1, f"{part!r} says nothing about what is inside; name the thing itself"))
        elif part.startswith("_") and part != "__main__":
            findings.append(
                source.found(1, f"{part!r}: public is what `__all__` lists; file names carry no underscore")
            )
    return findings


def unused(sources: Iterable[Source], users: Iterable[Source] = ()) -> list[str]:
    """Modules that nobody imports or names.

    A dotted name in a string counts, because adapters, commands and systems are loaded by name. Packages are not looked
    at, only their modules; migrations are found by their folder.

    Args:
        sources: The package.
        users: Further files whose imports count, for what is shipped to be used from outside.
    """
    sources = list(sources)
    used: set[str] = set(ENTRIES)
    for source in [*sources, *users]:
        for line in source.imports:
            used |= {line.module, dotted(line)} - {source.module}
        for _, text in source.strings:
            used |= {match[1] for match in [DOTTED.fullmatch(text)] if match and match[1] != source.module}
    return [
        source.found(1, f"{source.module} is imported by nobody; use it, or remove it")
        for source in sources
        if not source.package and source.module not in used
        if ".migrations." not in source.module and not source.module.endswith("__main__")
    ]
