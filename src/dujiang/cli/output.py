"""Output: tables, JSON and errors; for a terminal with colour, for a pipe plain and stable.

rich is loaded only when stdout is a terminal that shows colour. What came from a database is shown with its control
characters escaped: a dead letter must not be able to drive the operator's terminal.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dujiang.kernel.errors import DujiangError


@dataclass(frozen=True)
class Report:
    """An error as the command line shows it.

    Attributes:
        what: What happened, with the values.
        cure: What to do; may be empty.
        code: The error's code.
        move: Whose move it is.
        exit_code: With which code the process ends.
    """

    what: str
    cure: str
    code: str
    move: str
    exit_code: int

    @classmethod
    def of(cls, error: DujiangError, exit_code: int) -> Report:
        """The report of one of our errors."""
        return cls(error.detail, error.hint, error.code, error.move, exit_code)


def prepare() -> None:
    """Make the streams safe: what their encoding cannot show is escaped instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def coloured(stream: TextIO | None) -> bool:
    """Whether colour and drawing belong on the stream: a terminal, not a dumb one, and no NO_COLOR."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")
    return stream is not None and stream.isatty() and wanted


def say(text: str = "") -> None:
    """Write a line to stdout; nothing when stdout is closed."""
    if sys.stdout is not None:
        sys.stdout.write(text + "\n")


def flush() -> None:
    """Hand what was written to the reader, so that a closed pipe is noticed now."""
    if sys.stdout is not None:
        sys.stdout.flush()


def say_json(value: Any) -> None:
    """Write one JSON document to stdout, as ASCII, so that no locale can break it."""
    say(json.dumps(value, indent=2, default=str))


def say_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table: drawn on a terminal, otherwise columns two spaces apart."""
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    if coloured(sys.stdout):
        from rich.console import Console  # noqa: PLC0415  (only a terminal pays for rich)
        from rich.table import Table  # noqa: PLC0415

        table = Table(box=None, pad_edge=False, header_style="bold")
        for head in heads:
            table.add_column(head, overflow="fold")
        for text in texts:
            table.add_row(*text)
        Console().print(table, markup=False, highlight=False)
        return
    widths = [max(len(line[column]) for line in [list(heads), *texts]) for column in range(len(heads))]
    for line in [list(heads), *texts]:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def say_error(report: Report, *, as_json: bool) -> None:
    """Write an error: as JSON to stdout, so that a pipeline always reads JSON, otherwise to stderr for people."""
    if as_json:
        members = {"code": report.code, "move": report.move, "what": report.what, "cure": report.cure}
        return say_json({"error": {**members, "exit": report.exit_code}})
    if sys.stderr is None:
        return None
    label = "\x1b[1;31merror:\x1b[0m" if coloured(sys.stderr) else "error:"
    lines = [f"{label} " + printable(report.what, keep="\n") + f" [{report.code}]"]
    if report.cure:
        lines.append("cure:  " + printable(report.cure, keep="\n"))
    sys.stderr.write("\n".join(lines) + "\n")
    return None


def say_aside(text: str) -> None:
    """Write a remark for people to stderr."""
    if sys.stderr is not None:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


def printable(text: str, keep: str = "") -> str:
    """The text with control characters as escapes; they could move the cursor or hide text."""
    return "".join(c if c in keep or c.isprintable() else repr(c)[1:-1] for c in text)
