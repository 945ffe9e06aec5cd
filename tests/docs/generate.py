"""Generate: the reference pages, made from the code that they describe.

    python -m tests.docs.generate            names the pages that differ from the code
    python -m tests.docs.generate --write    writes them

Nothing on these pages is written by hand, so that nothing on them can be out of date; test_reference.py holds that.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import dujiang
from dujiang.caching import cache, shared
from dujiang.data import columns, database, types
from dujiang.gateway.problems import faces_caller
from dujiang.kernel.errors import DujiangError
from dujiang.kernel.problem import INPUT_CODES
from dujiang.messaging import broker
from dujiang.settings.declared import OPERATIONAL, SETTINGS
from dujiang.telemetry import events
from dujiang.telemetry.metrics import METRICS
from dujiang.testing import history
from tests.tidy import api

DOCS = Path(__file__).parents[2] / "docs"
MADE = "<!-- Made by `python -m tests.docs.generate --write`; do not edit. -->\n"
HEADING = re.compile(r"([A-Z][\w ]*):")
PLACEHOLDER = re.compile(r"\{\w+\}")
# Errors of commands, of a start, and of the servers that tests start.
WITHOUT_CLIENTS = (
    "dujiang.cli.",
    "dujiang.settings.",
    "dujiang.testing.",
    "dujiang.backends.table",
    "dujiang.app.schema",
    "dujiang.contracts.",
    "dujiang.drill.",
)
ENTRY = re.compile(r"(\*{0,2}[\w, ]+): (.*)")
# A sentence ends at a full stop before a space and something that begins one; "e.g." and "1." end none.
SENTENCE = re.compile(r"(?<=[a-z0-9)`\"'*_\]][.?!]) (?=[A-Z`\"(])")


def settings_page() -> str:
    """docs/reference/settings.md."""
    parts = [
        "# Settings\n",
        sentences(
            "A setting stands in `dujiang.toml` in the current folder, in a variable `DUJIANG_<NAME>`, or in a flag of the "
            "command. A later one of these wins over an earlier one. An unknown name is refused with the nearest known one, "
            "and every mistake is told at once, with file and line. `dujiang doctor` shows the resolved values, where each "
            "comes from, and masks secrets."
        ),
    ]
    for row in SETTINGS:
        default = "follows from other settings" if row.default is None else f"`{toml(row.default)}`"
        lines = [f"## {row.name}\n", sentences(row.means), "", f"- variable: `{row.variable}`"]
        lines += [f"- takes: {row.kind.says}", f"- default: {default}"]
        if row.special:
            lines.append(f"- special: {row.special}")
        parts.append("\n".join([*lines, "", sentences(row.follows)]))
    rows = "\n".join(f"| `{name}` | {means} |" for name, means in OPERATIONAL.items())
    parts.append(f"## For tests\n\nThese variables are no settings.\n\n| variable | means |\n|---|---|\n{rows}")
    return "\n\n".join(parts)


def toml(value: Any) -> str:
    """A default as it would stand in dujiang.toml."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(toml(each) for each in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def errors_page() -> str:
    """docs/errors.md: a section for each code, under the anchor that problem documents name."""
    kinds = sorted(error_classes(), key=lambda kind: kind.code)
    rows = "\n".join(f"| [{k.code}](#{k.code}) | {k.move} | {status_seen(k)} | {k.title()} |" for k in kinds)
    head = sentences(
        "Every error has a code that never changes its meaning, and a move that says whose turn it is. "
        "The HTTP status and whether work is tried again follow from the move, unless the class names a closer status. "
        "A response is `application/problem+json`; its `type` is the address of a page about its code, "
        "`/docs/errors/` and the code, which the server itself serves. `/docs/errors` lists all of them, "
        "an application's own refusals included."
    )
    moves = (
        "| move | whose turn | HTTP | a reaction |\n|---|---|---|---|\n"
        "| `fix` | change the request, the code or a setting | 400 | dead at once |\n"
        "| `choose` | the caller decides | 409 | dead at once |\n"
        "| `wait` | try again later | 503 | tried again |\n"
        "| `report` | a bug, in the application or here | 500 | tried again |"
    )
    inside = sentences(
        "What only the operator can change is not shown to a client: the answer holds the title and a `trace_id`, the log "
        "holds the rest, and a `fix` of that kind is 500 for a client. The column HTTP says what a client sees; a dash "
        "stands where an error belongs to a command or a start and no client can meet it."
    )
    others = sentences(
        "An `HTTPException` gets the words of its status as its code, for example `not_found` or `forbidden`. "
        "An exception that is none of these is `internal`, 500, move `report`."
    )
    inputs = sentences(
        "When one thing is wrong with the values of a request, or several that share a code, that code is the answer's: "
        "422, move `fix`, with the places in the member `errors`. A code that a field type of an application invents "
        "leads to `invalid_body`."
    )
    parts = ["# Errors\n", head, moves, inside, others, f"| code | move | HTTP | what |\n|---|---|---|---|\n{rows}"]
    told = "\n".join(f"| `{code}` | {means} |" for code, means in INPUT_CODES.items())
    tail = f"## Values that are not taken\n\n{inputs}\n\n| code | what |\n|---|---|\n{told}"
    return "\n\n".join([*parts, *(error_section(kind) for kind in kinds), tail])


def errors_data() -> str:
    """src/dujiang/gateway/errors.json: what the server tells of the package's own codes (gateway/pages.py)."""
    kinds = sorted(error_classes(), key=lambda kind: kind.code)
    return json.dumps([told_of(kind) for kind in kinds], indent=1, ensure_ascii=False)


def told_of(kind: type[DujiangError]) -> dict[str, Any]:
    """One code."""
    title, _, text = inspect.cleandoc(kind.__doc__ or "").partition("\n")
    status = status_seen(kind)
    # A sentence that is nothing but a value says nothing without it.
    says, cure = ("" if PLACEHOLDER.fullmatch(each) else each for each in (kind.says, kind.cure))
    return {
        "code": kind.code,
        "title": title.rstrip("."),
        "move": kind.move if status in {"-", str(kind.http_status())} else "report",
        "status": "" if status == "-" else status,
        "text": text.strip("\n"),
        "says": says,
        "cure": cure,
        "values": list(getattr(kind, "__dataclass_fields__", ())),
    }


def error_section(kind: type[DujiangError]) -> str:
    """The section of one code."""
    status = status_seen(kind)
    lines = [f"## {kind.code}\n", prose(kind.__doc__ or ""), "", f"- move: `{kind.move}`", f"- HTTP status: {status}"]
    if kind.says:
        lines.append(f"- says: {kind.says}")
    values: list[str] = list(getattr(kind, "__dataclass_fields__", ()))
    if values:
        lines.append(f"- values: {', '.join(f'`{name}`' for name in values)}")
    if kind.cure and not PLACEHOLDER.fullmatch(kind.cure):
        lines.append(f"- cure: {kind.cure}")
    lines.append(f"- class: `{kind.__module__}.{kind.__qualname__}`")
    return "\n".join(lines)


def status_seen(kind: type[DujiangError]) -> str:
    """The HTTP status that a client sees, or a dash."""
    if kind.__module__.startswith(WITHOUT_CLIENTS):
        return "-"
    # Only the class decides here; no value of the error is looked at.
    facing = faces_caller(kind.__new__(kind))
    return str(kind.http_status() if facing or kind.move != "fix" else 500)


def error_classes() -> Iterator[type[DujiangError]]:
    """Every error class of the package that has a code of its own, the abstract roots left out."""
    for module in modules():
        for value in vars(module).values():
            if not inspect.isclass(value) or not issubclass(value, DujiangError) or value is DujiangError:
                continue
            if value.__module__ == module.__name__ and "code" in vars(value):
                yield value


def modules() -> Iterator[ModuleType]:
    """Every module of the package; migrations are scripts and `__main__` is a command."""
    for found in pkgutil.walk_packages(dujiang.__path__, "dujiang."):
        if not any(part in found.name for part in (".migrations", "__main__", ".conformance")):
            yield importlib.import_module(found.name)


def events_page() -> str:
    """docs/reference/events.md."""
    rows = [f"| `{m.name}` | {m.kind} | {', '.join(f'`{label}`' for label in m.labels)} | {m.help} |" for m in METRICS]
    return "\n\n".join(
        [
            "# Events and metrics\n",
            sentences(
                "What the platform tells of itself, when, and under which labels. Dashboards and alarms may rely on these "
                "names. `GET /metrics` shows the metrics in the text format of Prometheus; spans go to the OpenTelemetry "
                "tracer that the program installs, and [the walk](../walk.md) tells their order."
            ),
            "## Events",
            events.markdown().rstrip("\n"),
            "## Metrics",
            "\n".join(["| metric | kind | labels | means |", "|---|---|---|---|", *rows]),
        ]
    )


def api_page() -> str:
    """docs/reference/api.md: every public name with its docstring."""
    parts = [
        "# Public names\n",
        sentences(
            "What `from dujiang import ...` and `from dujiang.columns import ...` give; nothing else is promised. "
            "`api.txt` lists the same names for comparison between versions."
        ),
    ]
    parts += ["## Field types", prose(types.__doc__ or ""), "## Column types", prose(columns.__doc__ or "")]
    for face in api.FACES:
        module = importlib.import_module(face)
        parts.append(f"## {face}")
        parts += [
            public_name(f"{face}.{name}", getattr(module, name)) for name in sorted(module.__all__, key=str.lower)
        ]
    return "\n\n".join(parts)


def public_name(name: str, value: Any) -> str:
    """The section of one public name, its public methods below it."""
    head, *_ = api.lines_of_value(name, value)
    doc = value.__doc__ if inspect.isclass(value) or inspect.isfunction(value) else alias_doc(name.rpartition(".")[2])
    parts = [f"### {name.rpartition('.')[2]}", f"```text\n{head}\n```"]
    if doc:
        parts.append(prose(doc))
    if inspect.isclass(value):
        for member in sorted(api.members(value)):
            held = inspect.getattr_static(value, member)
            found = getattr(held, "__func__", held.fget if isinstance(held, property) else held)
            if not inspect.isfunction(found):
                continue
            line = next(iter(api.lines_of_member(f"{name}.{member}", held)))
            parts += [f"```text\n{line}\n```", prose(found.__doc__ or "")]
    return "\n\n".join(part for part in parts if part)


def alias_doc(name: str) -> str:
    """What the table at the head of data/types.py says of a type alias."""
    return f"The field type `{name}`; see [field types](#field-types)."


def port_page(name: str, module: ModuleType, port: type, capabilities: type) -> str:
    """docs/reference/<port>.md: the numbered promises, what an adapter may add, and the methods."""
    parts = [f"# The port `{name}`\n", prose(module.__doc__ or ""), "## Promises", prose(port.__doc__ or "")]
    parts += ["## Capabilities", prose(capabilities.__doc__ or ""), "## Methods"]
    for member, held in vars(port).items():
        if inspect.isfunction(held) and not member.startswith("_"):
            line = next(iter(api.lines_of_member(member, held)))
            parts += [f"```text\n{line}\n```", prose(held.__doc__ or "")]
    return "\n\n".join(parts)


def database_page() -> str:
    """docs/reference/database.md, with the connection that a body gets."""
    page = port_page("database", database, database.Database, database.Capabilities)
    connection = ["## What a connection promises", prose(database.Connection.__doc__ or "")]
    return "\n\n".join([page, *connection])


def broker_page() -> str:
    """docs/reference/broker.md."""
    return port_page("broker", broker, broker.Broker, broker.BrokerCapabilities)


def cache_page() -> str:
    """docs/reference/cache.md: both levels."""
    first = port_page("cache", cache, cache.Cache, cache.CacheCapabilities)
    second = port_page("cache", shared, shared.SharedCache, shared.Condition)
    heading = "# The port `cache`\n"
    return f"{first}\n\n{second.replace(heading, '# The second level').replace('## Capabilities', '## Condition')}"


def history_page() -> str:
    """docs/reference/history.md: the record, and each checker with what it promises, costs, and cannot see."""
    parts = ["# Histories and their checkers\n", prose(history.__doc__ or "")]
    shown = sentences(
        "[How to check a history](../howto/check-a-history.md) shows one from its first line to its verdict."
    )
    parts.append(shown)
    by_module: dict[str, list[str]] = {}
    for name in history.__all__:
        module = getattr(getattr(history, name), "__module__", "")
        if module.startswith(history.__name__):
            by_module.setdefault(module, []).append(name)
    for module, names in sorted(by_module.items(), key=lambda each: (not each[0].endswith("record"), each[0])):
        parts += [f"## {module.rpartition('.')[2]}", prose(importlib.import_module(module).__doc__ or "")]
        parts += [public_name(f"{module}.{name}", getattr(history, name)) for name in names]
    return "\n\n".join(parts)


def prose(doc: str) -> str:
    """A docstring as Markdown: one sentence a line, lists as lists, pictures as they are."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        lines = paragraph.splitlines()
        if HEADING.fullmatch(lines[0]) and len(lines) > 1 and all(line.startswith("    ") for line in lines[1:]):
            parts.append(f"{lines[0]}\n\n{entries(lines[1:])}")
        elif re.match(r"\d+\. ", lines[0]):
            parts.append(numbered(lines))
        elif all(line.startswith(("    ", "  ")) for line in lines) or "  " in paragraph.strip():
            parts.append("```text\n" + textwrap.dedent(paragraph) + "\n```")
        elif len(lines) > 1 and lines[0].endswith(":") and lines[1].startswith("  "):
            parts.append(sentences(lines[0]) + "\n\n```text\n" + "\n".join(lines[1:]) + "\n```")
        else:
            parts.append(sentences(" ".join(line.strip() for line in lines)))
    joined: list[str] = []
    for part in parts:
        if joined and part.startswith("```text") and joined[-1].endswith("```") and joined[-1].startswith("```text"):
            joined[-1] = joined[-1].removesuffix("```") + "\n" + part.removeprefix("```text\n")
        else:
            joined.append(part)
    return "\n\n".join(joined)


def entries(lines: list[str]) -> str:
    """`name: what` lines as a list."""
    made: list[str] = []
    for line in inspect.cleandoc("\n".join(["", *lines])).splitlines():
        match = ENTRY.fullmatch(line)
        if match is not None and not line.startswith(" "):
            made.append(f"- `{match[1]}`: {match[2]}")
        elif made:
            made[-1] += f" {line.strip()}"
        else:
            made.append(f"- {line.strip()}")
    return "\n".join(made)


def numbered(lines: list[str]) -> str:
    """A numbered list, each entry on one line."""
    made: list[str] = []
    for line in lines:
        if re.match(r"\d+\. ", line):
            made.append(line)
        else:
            made[-1] += f" {line.strip()}"
    return "\n".join(made)


def sentences(text: str) -> str:
    """One sentence a line."""
    return "\n".join(SENTENCE.split(text))


PAGES: Mapping[str, Callable[[], str]] = {
    "../src/dujiang/gateway/errors.json": errors_data,
    "errors.md": errors_page,
    "reference/api.md": api_page,
    "reference/broker.md": broker_page,
    "reference/cache.md": cache_page,
    "reference/database.md": database_page,
    "reference/events.md": events_page,
    "reference/history.md": history_page,
    "reference/settings.md": settings_page,
}


def made(name: str) -> str:
    """A page as the code says it now."""
    if name.endswith(".json"):
        return f"{PAGES[name]()}\n"
    return f"{MADE}\n{PAGES[name]().replace(chr(10) * 3, chr(10) * 2).rstrip()}\n"


def main(arguments: list[str]) -> int:
    """Name what differs, or write it."""
    for name in PAGES:
        path = DOCS / name
        text = made(name)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--write" in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(f"{'wrote' if '--write' in arguments else 'differs:'} docs/{name}")  # noqa: T201  (this is a command)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
