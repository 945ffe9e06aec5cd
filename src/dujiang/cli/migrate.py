"""`dujiang migrate`: bring the database's tables to what the code needs."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dujiang.cli.command import DEFAULT_APP, AppName, ConfigFlag, DataFlag, JsonFlag, settings_of
from dujiang.cli.exits import CONFIG, DONE
from dujiang.cli.output import say, say_json

if TYPE_CHECKING:
    from dujiang.cli.schema import Schema


def migrate(
    app: AppName = DEFAULT_APP,
    *,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 78 if something is pending.")] = False,
    as_json: JsonFlag = False,
    data: DataFlag = None,
    config: ConfigFlag = None,
) -> int:
    """Run the pending migrations."""
    from dujiang.app import Runtime  # noqa: PLC0415  (`--help` does not pay for it)
    from dujiang.cli.load import load_app  # noqa: PLC0415
    from dujiang.cli.schema import change_schema, read_schema, schema_problem  # noqa: PLC0415

    settings = settings_of(config, data=data)
    runtime = Runtime(load_app(app, folder=Path.cwd()), settings)
    settings.data.mkdir(parents=True, exist_ok=True)

    async def work() -> "tuple[Schema, Schema]":
        await runtime.database.start()
        try:
            before = await read_schema(runtime)
            if not check and before.state in ("empty", "pending"):
                await change_schema(runtime)
            after = await read_schema(runtime)
        finally:
            await runtime.database.stop()
        return before, after

    before, after = asyncio.run(work())
    problem = schema_problem(after, settings)
    if problem is not None and not check:
        raise problem
    current = after.state == "current"
    if as_json:
        say_json({"before": before.state, "state": after.state, "names": list(before.names)})
    elif before.state == after.state:
        say(f"{after.state}{': ' if after.names else ''}{', '.join(after.names)}")
    else:
        say(f"done: {', '.join(before.names)}")
    return DONE if current else CONFIG
