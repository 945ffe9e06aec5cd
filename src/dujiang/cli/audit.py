"""`dujiang audit`: run the invariants of an application on its data; exit 1 when one is violated."""

import asyncio
from pathlib import Path
from typing import Any

from dujiang.cli.command import DEFAULT_APP, AppName, ConfigFlag, DataFlag, JsonFlag, settings_of
from dujiang.cli.exits import DONE, FAILED
from dujiang.cli.output import printable, say, say_json

ROWS_SHOWN = 20


def audit(
    app: AppName = DEFAULT_APP, *, as_json: JsonFlag = False, data: DataFlag = None, config: ConfigFlag = None
) -> int:
    """Run the invariants; print each violation with its rows."""
    from dujiang.cli.desk import desk  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.cli.load import load_app  # noqa: PLC0415

    settings = settings_of(config, data=data)
    loaded = load_app(app, folder=Path.cwd())

    async def ask() -> list[dict[str, Any]]:
        async with desk(loaded, settings) as found:
            return await found.audit()

    violations = asyncio.run(ask())
    if as_json:
        say_json({"violations": violations})
    else:
        say_violations(violations)
    return FAILED if violations else DONE


def say_violations(violations: list[dict[str, Any]]) -> None:
    """Print the violations, at most 20 rows of each; `--json` prints all."""
    for violation in violations:
        rows = violation["rows"]
        say(f"violated: {printable(str(violation['invariant']))} ({len(rows)} rows)")
        for row in rows[:ROWS_SHOWN]:
            say(f"  {printable(str(row))}")
        if len(rows) > ROWS_SHOWN:
            say(f"  and {len(rows) - ROWS_SHOWN} more; --json prints all")
    if not violations:
        say("every invariant holds")
